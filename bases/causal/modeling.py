"""transformers' models with the product's forward pass: packed rows, a loss without logits, a cache by rows.

Dimensions in comments: B rows, S tokens of a row in this pass, K tokens that a query may see, H hidden size,
V vocabulary, T chosen positions.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from bases.chatglm.modeling import additive_mask
from bases.loss import next_token_loss

from . import segments
from .layout import padded, within_window
from .types import MASK_BY_LAYER


class _LayerCache:
    """The decoder's cache as the layers of transformers call it, which hand it more than it takes.

    Args:
        cache: with `update(key, value, layer)`.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a pass's keys and values; return all of its rows."""
        return self._cache.update(key, value, layer)

    def get_seq_length(self, layer: int = 0) -> int:
        """Return 0: positions and mask are given with each pass, none are derived from a length."""
        return 0


class PackedCausalLM:
    """Goes before a `…ForCausalLM` of transformers among a class's bases, and takes over its forward pass.

    Attributes:
        label_smoothing: of the loss in training mode, see `next_token_loss`.
    """

    config: PreTrainedConfig
    model: nn.Module
    lm_head: nn.Linear
    training: bool
    label_smoothing = 0.0

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Compute logits, or the loss of a batch.

        Args:
            input_ids: [B, S] int64.
            attention_mask: [B, K], 0 on padding, or [B, 1, S, K] bool, True where a query sees a key; or
                [1, 1, 1, N] int64, the lengths of N samples in one row.
            position_ids: [B, S] int64; counted from each row's first token when None.
            cache: keys and values of earlier tokens, of transformers or with `update(key, value, layer)`;
                extended in place.
            inputs_embeds: [B, S, H] instead of `input_ids`.
            labels: [B, S] int64 aligned with `input_ids`, -100 where no loss is wanted. With labels the head
                runs at the labelled positions only, and no logits are returned.
            use_cache: create a cache if none is given; never where there are labels.
            logits_to_keep: the number of last positions to compute logits for (0: all), or a [B, S] bool mask
                of them, or their indices [T] among all B * S.

        Returns:
            `loss`: fp32 mean over the labelled tokens (0 if there is none); None without labels.
            `logits`: [B, S or logits_to_keep, V], or [T, V]; None with labels. `cache`.
        """
        if attention_mask is not None and attention_mask.dim() == 2 and cache is None and not use_cache:
            attention_mask, positions = padded(attention_mask)
            position_ids = positions if position_ids is None else position_ids
        mask: Any = attention_mask
        if attention_mask is not None and attention_mask.dim() == 4:
            embedding = self.model.get_input_embeddings().weight  # type: ignore[operator]
            mask = _masks(self.config, attention_mask, position_ids, embedding.dtype)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=position_ids,
            cache=cache if cache is None or isinstance(cache, Cache) else _LayerCache(cache),
            inputs_embeds=inputs_embeds,
            use_cache=bool(use_cache) if labels is None else False,
        )
        hidden_states = outputs.last_hidden_state  # [B, S, H]
        if labels is not None:
            weight: Any = self.lm_head.weight
            if isinstance(weight, DTensor):  # FSDP splits the head by itself, only its own forward joins it
                weight = weight.full_tensor()
            smoothing = self.label_smoothing if self.training else 0.0
            loss = next_token_loss(hidden_states, weight, labels, smoothing)
            return CausalLMOutputWithPast(loss=loss, cache=outputs.cache)
        if isinstance(logits_to_keep, int):
            hidden_states = hidden_states[:, slice(-logits_to_keep, None)]
        elif logits_to_keep.dtype == torch.bool:
            hidden_states = hidden_states[logits_to_keep]  # [T, H]
        else:
            hidden_states = hidden_states.flatten(0, 1)[logits_to_keep]  # [T, H]
        return CausalLMOutputWithPast(logits=self.lm_head(hidden_states), cache=outputs.cache)


def _masks(
    config: PreTrainedConfig, visible: torch.Tensor, position_ids: torch.Tensor | None, dtype: torch.dtype
) -> Any:
    """Return what the base's forward takes as mask: one to be added, or one for each type of layer."""
    window = getattr(config, "sliding_window", None)
    by_layer = config.model_type in MASK_BY_LAYER
    in_segments = segments.is_lengths(visible)
    full = visible if in_segments else additive_mask(visible, dtype)
    if in_segments or window is None or visible.shape[-1] <= window or position_ids is None:
        sliding = full
    else:
        sliding = additive_mask(within_window(visible, position_ids, window), dtype)
    return {"full_attention": full, "sliding_attention": sliding} if by_layer else sliding


def model_class(config: PreTrainedConfig) -> type:
    """Return the class of models with a config like this one."""
    return _packed(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])


@functools.cache
def _packed(theirs: type) -> type:
    return type(theirs.__name__, (PackedCausalLM, theirs), {"__module__": __name__})


def empty_model(config: PreTrainedConfig) -> Any:
    """Return a model on the meta device, but for its buffers, which are what they shall be."""
    config = copy.deepcopy(config)
    config._attn_implementation = segments.register()
    with init_empty_weights(include_buffers=False), _EmptyOnMeta():
        model = model_class(config)(config)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.get_input_embeddings().weight
    return model


class _EmptyOnMeta(TorchFunctionMode):
    """Lets `torch.empty`, with which layers make their weights, take no memory for the moment before they are
    put onto the meta device: a stranger's config may ask for more than there is."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def checkpoint_layers(model: Any, every: int) -> None:
    """Let every n-th layer keep nothing but its input in training, and compute itself again going back."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    for index, layer in enumerate(model.base_model.layers):
        layer.gradient_checkpointing = index % every == 0
