"""A model's measures, taken from one of its layers on the meta device: no number of it is computed or stored.

What a layer keeps for its backward pass is what autograd says it does, so that every model's own norms,
gates and rotations are in the memory plan without a formula of theirs.
"""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedConfig

from bases.interface import CheckpointError, ModelShape, chunk_rows

from .modeling import model_class

_TOKENS = 8
_COUNTING = "product_counting"


def shape_of(config: PreTrainedConfig) -> ModelShape:
    """Return the sizes that a config stands for.

    Raises:
        CheckpointError: transformers can't make a model of it.
    """
    text = json.dumps(config.to_dict(), sort_keys=True, default=str)
    try:
        return _shape_of(config.model_type, text, _Held(config))
    except Exception as error:  # transformers' own, of values that don't go together
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"config.json 里的值不能一起用（{said}）。") from error


class _Held:
    """A config beside the text that stands for it in a cache: all are equal."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)

    def __hash__(self) -> int:
        return 0


@functools.lru_cache(maxsize=32)
def _shape_of(model_type: str, text: str, held: _Held) -> ModelShape:
    config = held.config
    model = _one_layer(config)
    layer = model.base_model.layers[0]
    linear_shapes = {
        name.rpartition(".")[2]: (module.in_features, module.out_features)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    }
    own = sum(parameter.numel() for parameter in layer.parameters())
    linear = sum(inputs * outputs for inputs, outputs in linear_shapes.values())
    embedding = model.get_input_embeddings().weight.numel()
    behind = sum(parameter.numel() for parameter in model.base_model.parameters()) - own - embedding
    (full, groups), (half, _) = (_kept(model, dtype) for dtype in (torch.float32, torch.bfloat16))
    kept = round(full / 4)
    keys = config.num_key_value_heads * (getattr(config, "head_dim", None) or _head_dim(config))
    return ModelShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        inner_hidden_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        linear_shapes=linear_shapes,
        other_parameters=config.num_hidden_layers * (own - linear) + behind,
        kept_activations=kept,
        cast_activations=round(half / 2) - kept,
        kept_fp32=0,
        key_value_size=2 * keys,
        logit_rows=chunk_rows(config.vocab_size),
        input_groups=groups,
        tied=config.tie_word_embeddings,
        quantized=getattr(config, "quantization_config", None) is not None,
    )


def _head_dim(config: PreTrainedConfig) -> int:
    return config.hidden_size // config.num_attention_heads


def _one_layer(config: PreTrainedConfig) -> Any:
    """Return a model with the first layer only, on the meta device."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = 1
    for name in ("layer_types", "no_rope_layers"):
        if getattr(config, name, None):
            setattr(config, name, getattr(config, name)[:1])
    AttentionInterface.register(_COUNTING, _attention)
    config._attn_implementation = _COUNTING
    with torch.device("meta"):
        return model_class(config)(config)


class _KeepsLikeAKernel(torch.autograd.Function):
    """Keeps what the attention kernels keep: inputs, output, and a sum of exponents for each query."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(query)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise NotImplementedError


def _attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    return _KeepsLikeAKernel.apply(query, key, value).transpose(1, 2), None


def _kept(model: Any, dtype: torch.dtype) -> tuple[float, dict[str, int]]:
    """Return what the layer keeps of a token, in bytes, with weights and activations of a type.

    And for each linear layer which input it has (see `ModelShape.input_groups`).
    """
    model = model.to(dtype).requires_grad_(False)
    base = model.base_model
    hidden = torch.zeros(1, _TOKENS, model.config.hidden_size, dtype=dtype, device="meta", requires_grad=True)
    position_ids = torch.zeros(1, _TOKENS, dtype=torch.int64, device="meta")
    kept: dict[int, torch.Tensor] = {}
    by_layer = isinstance(getattr(base.rotary_emb, "rope_type", None), dict)
    kind = model.config.layer_types[:1] if by_layer else ()
    rotary = base.rotary_emb(hidden.detach(), position_ids, *kind)
    known = {_storage(tensor) for tensor in (*model.parameters(), *rotary)}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := _storage(tensor)) not in known:
            kept[place] = tensor
        return tensor

    inputs: dict[str, torch.Tensor] = {}  # of the linear layers

    def watch(name: str, module: nn.Linear) -> Any:
        return module.register_forward_pre_hook(lambda _, arguments: inputs.update({name: arguments[0]}))

    layer = base.layers[0]
    hooks = [
        watch(name.rpartition(".")[2], module)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = layer(hidden, attention_mask=None, position_embeddings=rotary, position_ids=position_ids)
    for hook in hooks:
        hook.remove()
    del out
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / _TOKENS
    places = [place for place in map(_storage, inputs.values()) if place not in kept]
    numbers = dict.fromkeys(kept, 0) | {place: number for number, place in enumerate(places, start=1)}
    return size, {name: numbers[_storage(tensor)] for name, tensor in inputs.items()}


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
