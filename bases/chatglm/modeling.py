"""ChatGLM-6B (v1) in PyTorch: a prefix language model with 2-D rotary positions and scaled residuals.

Dimensions in comments:
    B batch, S query length, K key length (cached tokens and the S new ones), V vocabulary,
    H hidden size, N attention heads, D = H / N head width, L layers, P prefix length

Sources: GLM (Du et al. 2022, section 2: blank infilling and 2-D positions), RoPE (Su et al. 2021), DeepNorm
(Wang et al. 2022: scaled residuals), P-tuning v2 (Liu et al. 2022: the prefix), and the published
`modeling_chatglm.py` of THUDM/chatglm-6b, whose parameter names are kept. `tests/test_parity_model.py`
compares the results with figures of that file.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from bases.loss import next_token_loss

from .configuration import ChatGLMConfig
from .layout import get_continued_mask, get_position_ids, get_prefix_lm_mask
from .loading import load_pretrained

ROPE_BASE = 10000.0
# (2L)^(1/2) at the published depth of 28. The published code never hands another depth to its blocks, so this
# is the scale of every ChatGLM, however deep.
RESIDUAL_SCALE = (2 * 28) ** 0.5

Prefix = tuple[torch.Tensor, torch.Tensor]  # key and value of a layer, each [1, N, P, D]


def rotary_embedding(
    position_ids: torch.Tensor, head_dim: int, weight_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin, each [B, 1, S, D] fp32, of both position channels.

    The first half of a head turns with channel 0, the second with channel 1, each half by the rotate-half
    rule over D / 4 frequencies. The published code rounds the frequencies to fp16, and with fp16 weights the
    angles too; the released weights were trained with that, so it is kept.
    """
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, dtype=torch.float32, device=position_ids.device) / half
    inv_freq = (1.0 / ROPE_BASE**exponent).half().float()  # [D / 4]
    angles = position_ids[..., None].float() * inv_freq  # [B, 2, S, D / 4]
    if weight_dtype == torch.float16:
        angles = angles.half().float()
    angles = torch.cat([angles, angles], dim=-1)  # [B, 2, S, D / 2]
    angles = torch.cat([angles[:, 0], angles[:, 1]], dim=-1)[:, None]  # [B, 1, S, D]
    return angles.cos(), angles.sin()


def apply_rotary(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys, [B, N, S, ..., D], each half of a head by its own channel.

    Args:
        states: of any type.
        cos, sin: of `rotary_embedding`, with as many dimensions.
    """
    first, second, third, fourth = states.chunk(4, dim=-1)
    rotated = torch.cat([-second, first, -fourth, third], dim=-1)
    return states * cos.to(states.dtype) + rotated * sin.to(states.dtype)


class PrefixEncoder(nn.Module):
    """A P-tuning v2 prefix: keys and values that every layer sees before the sequence, without positions."""

    def __init__(self, config: ChatGLMConfig, length: int):
        super().__init__()
        self.num_attention_heads = config.num_attention_heads
        output = 2 * config.num_layers * config.hidden_size
        self.embedding = nn.Embedding(length, config.hidden_size if config.prefix_projection else output)
        self.trans = None
        if config.prefix_projection:
            self.trans = nn.Sequential(
                nn.Linear(config.hidden_size, config.hidden_size),
                nn.Tanh(),
                nn.Linear(config.hidden_size, output),
            )

    def forward(self, head_dim: int) -> list[Prefix]:
        """Return the (key, value) of each layer, each [1, N, P, D]."""
        rows = self.embedding.weight  # [P, 2LH], or [P, H] to be projected
        if self.trans is not None:
            rows = self.trans(rows)
        rows = rows.view(rows.shape[0], -1, self.num_attention_heads, head_dim)  # [P, 2L, N, D]
        parts = rows.permute(1, 2, 0, 3).unsqueeze(1)  # [2L, 1, N, P, D]: key and value, layer by layer
        return list(zip(parts[0::2], parts[1::2], strict=True))


class SelfAttention(nn.Module):
    """Multi-head attention with one projection for query, key and value, interleaved head by head."""

    def __init__(self, config: ChatGLMConfig, layer_id: int):
        super().__init__()
        self.layer_id = layer_id
        self.num_attention_heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        cache: Cache | None,
        prefix: Prefix | None = None,
    ) -> torch.Tensor:
        B, S, H = hidden_states.shape
        mixed = self.query_key_value(hidden_states)  # [B, S, 3H]
        mixed = mixed.view(B, S, self.num_attention_heads, 3, -1).transpose(1, 2)  # [B, N, S, 3, D]
        value = mixed[..., 2, :]
        turned = apply_rotary(mixed[..., :2, :], *(table[..., None, :] for table in rotary))
        query, key = turned.unbind(-2)  # 2 x [B, N, S, D]
        if cache is not None:
            key, value = cache.update(key, value, self.layer_id)  # [B, N, K, D]
        if prefix is not None:  # [B, N, P + K, D]; not kept in the cache, whose slots are the sequence's
            key, value = (
                torch.cat([front.to(states).expand(len(states), -1, -1, -1), states], dim=2)
                for front, states in zip(prefix, (key, value), strict=True)
            )
        # The published code divides the query by (layer_id + 1) and multiplies the scores by it again, to
        # keep fp16 products small; the kernels here accumulate in fp32, so only the scale D^(-1/2) remains.
        flat = getattr(cache, "spread", None)  # rows of unequal length, one after the other
        query = flat(query) if flat else query
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        context = cache.collect(context) if flat else context  # type: ignore[union-attr]
        return self.dense(context.transpose(1, 2).reshape(B, S, H))


class GLU(nn.Module):
    """The MLP: H -> inner -> H with the tanh form of GELU. (No gate, in spite of its published name.)"""

    def __init__(self, config: ChatGLMConfig):
        super().__init__()
        inner_hidden_size = config.inner_hidden_size or 4 * config.hidden_size
        self.dense_h_to_4h = nn.Linear(config.hidden_size, inner_hidden_size)
        self.dense_4h_to_h = nn.Linear(inner_hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden_states), approximate="tanh"))


class LayerNorm(nn.LayerNorm):
    """A layer norm that answers in the type of its input, as the published model does in half precision.

    CUDA's autocast would answer in fp32, and so make the hidden states, the projections that 4-bit layers
    give back in their input's type, and all that is kept of them for the backward pass twice as large. The
    kernel itself takes mean and variance in fp32 either way.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden_states.device.type, enabled=False):
            return super().forward(hidden_states)


class GLMBlock(GradientCheckpointingLayer):
    """Attention and MLP, each around a scaled residual that starts from the layer norm's output."""

    def __init__(self, config: ChatGLMConfig, layer_id: int):
        super().__init__()
        self.input_layernorm = LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = SelfAttention(config, layer_id)
        self.post_attention_layernorm = LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = GLU(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        cache: Cache | None = None,
        prefix: Prefix | None = None,
    ) -> torch.Tensor:
        normed = self.input_layernorm(hidden_states)  # [B, S, H], as all below
        attended = self.attention(normed, attention_mask, rotary, cache, prefix)
        hidden_states = torch.add(attended, normed, alpha=RESIDUAL_SCALE)  # one kernel
        normed = self.post_attention_layernorm(hidden_states)
        return torch.add(self.mlp(normed), normed, alpha=RESIDUAL_SCALE)


class ChatGLMPreTrainedModel(PreTrainedModel):
    """What both models share for transformers: configuration, checkpointing, initialisation, loading."""

    config: ChatGLMConfig
    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["GLMBlock"]
    _supports_sdpa = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a checkpoint directory; see `loading.load_pretrained` for arguments and errors."""
        return load_pretrained(cls, pretrained_model_name_or_path, **kwargs)


class ChatGLMModel(ChatGLMPreTrainedModel):
    """Embedding, GLM blocks and the final layer norm: token ids to hidden states."""

    def __init__(self, config: ChatGLMConfig):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(GLMBlock(config, layer_id) for layer_id in range(config.num_layers))
        self.final_layernorm = LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.prefix_encoder = PrefixEncoder(config, config.pre_seq_len) if config.pre_seq_len else None
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.word_embeddings = value

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Compute the hidden states of S tokens.

        Args:
            input_ids: [B, S] int64. The first call of a sequence must hold its whole context.
            attention_mask: [B, K], 1 on tokens and 0 on left padding, or [B, 1, S, K] bool, True where a
                query may see a key (for packed sequences). Without it nothing is padding.
            position_ids: [B, 2, S] int64; derived from `input_ids` when None, which later calls with a cache
                can't do. `prepare_inputs_for_generation` gives them.
            cache: keys and values of earlier tokens; extended in place.
            inputs_embeds: [B, S, H] instead of `input_ids`; needs `position_ids` and a 4-D mask.
            use_cache: create a cache if none is given; `config.use_cache` when None, never in training.

        Returns:
            `last_hidden_state` [B, S, H] after the final layer norm, and `cache`.

        Raises:
            ValueError: not exactly one of `input_ids` and `inputs_embeds`; a sequence without `<sop>` and
                mask token where positions or mask are derived; `inputs_embeds` or a later call without
                `position_ids`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids 和 inputs_embeds 必须恰好给出一个。")
        past_length = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            if input_ids is None or past_length:
                raise ValueError("使用 inputs_embeds 或续写缓存时必须给出 position_ids。")
            position_ids = get_position_ids(input_ids, self.config, attention_mask_2d(attention_mask))
        mask = self._make_mask(input_ids, attention_mask, past_length)
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        if mask is not None and mask.dtype == torch.bool:
            mask = additive_mask(mask, _attention_dtype(inputs_embeds))
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)

        hidden_states = inputs_embeds  # [B, S, H]
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        tables = rotary_embedding(position_ids, head_dim, self.word_embeddings.weight.dtype)
        dtype = _attention_dtype(inputs_embeds)
        rotary = tables[0].to(dtype), tables[1].to(dtype)  # once, not in each layer
        prefixes: list[Prefix | None] = [None] * len(self.layers)
        if self.prefix_encoder is not None:
            prefixes = self.prefix_encoder(head_dim)
            if mask is not None:  # every token sees all of the prefix
                mask = F.pad(mask, (self.config.pre_seq_len or 0, 0))
        for layer, prefix in zip(self.layers, prefixes, strict=True):
            hidden_states = layer(hidden_states, mask, rotary, cache=cache, prefix=prefix)
        return BaseModelOutputWithPast(last_hidden_state=self.final_layernorm(hidden_states), cache=cache)

    def _make_mask(
        self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, past_length: int
    ) -> torch.Tensor | None:
        """Return [B, 1, S, K] bool for the attention, or None where every query may see every key."""
        if attention_mask is not None and attention_mask.dim() == 4:
            return attention_mask
        if input_ids is None:
            raise ValueError("使用 inputs_embeds 时必须给出四维的 attention_mask。")
        if past_length == 0:
            return get_prefix_lm_mask(input_ids, self.config, attention_mask)
        return get_continued_mask(past_length, input_ids.shape[1], attention_mask, input_ids.device)


def _attention_dtype(hidden_states: torch.Tensor) -> torch.dtype:
    """Return the type of what linear layers make of the hidden states; autocast has the last word."""
    device = hidden_states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype


def additive_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Turn a bool mask into what is added to the scores, in the type that attention runs in.

    The attention kernels would do so in each layer, and keep each one's copy for the backward pass.

    Args:
        visible: bool, True where a query sees a key.
        dtype: that attention runs in.
    """
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)


def checkpoint_layers(model: ChatGLMPreTrainedModel, every: int) -> None:
    """Let every n-th layer keep nothing but its input in training, and compute itself again going back."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    for index, layer in enumerate(model.base_model.layers):
        layer.gradient_checkpointing = index % every == 0


def attention_mask_2d(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return a mask that speaks of padding as it is, and None for a 4-D one."""
    return attention_mask if attention_mask is not None and attention_mask.dim() == 2 else None


class ChatGLMForConditionalGeneration(ChatGLMPreTrainedModel, GenerationMixin):
    """ChatGLM with its language-model head, tied to the embedding unless the config says otherwise.

    Attributes:
        label_smoothing: of the loss in training mode, see `next_token_loss`.
    """

    label_smoothing = 0.0
    _tied_weights_keys: ClassVar = {"lm_head.weight": "transformer.word_embeddings.weight"}

    def __init__(self, config: ChatGLMConfig):
        super().__init__(config)
        self.transformer = ChatGLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.generation_config = GenerationConfig(
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.transformer.word_embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head = new_embeddings

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        next_sequence_length: int | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict:
        """Give each step of `generate` its 2-D positions, derived from the whole sequence so far.

        transformers' own 1-D `position_ids` are dropped: it would move both channels at each step, where
        GLM's first one stays at the blank.
        """
        inputs = super().prepare_inputs_for_generation(
            input_ids, next_sequence_length, attention_mask=attention_mask, **kwargs
        )
        positions = get_position_ids(input_ids, self.config, attention_mask)
        inputs["position_ids"] = positions[..., -inputs["input_ids"].shape[1] :]
        return inputs

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Compute logits, or the loss of a batch.

        Args:
            input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache: see `ChatGLMModel`.
            labels: [B, S] int64 aligned with `input_ids` (the shift happens here), -100 where no loss is
                wanted. With labels the head runs at the labelled positions only, and no logits are returned:
                at 130,528 words they would be most of a step's memory.
            logits_to_keep: the number of last positions to compute logits for (0: all), or a [B, S] bool mask
                of them, or their indices [T] among all B * S.

        Returns:
            `loss`: fp32 mean over the labelled tokens (0 if there is none); None without labels.
            `logits`: [B, S or logits_to_keep, V], or [T, V] for T chosen positions; None with labels.
            `cache`.
        """
        outputs = self.transformer(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
        )
        hidden_states = outputs.last_hidden_state  # [B, S, H]
        if labels is not None:
            smoothing = self.label_smoothing if self.training else 0.0
            loss = next_token_loss(hidden_states, self.lm_head.weight, labels, smoothing)
            return CausalLMOutputWithPast(loss=loss, cache=outputs.cache)
        if isinstance(logits_to_keep, int):
            hidden_states = hidden_states[:, slice(-logits_to_keep, None)]
        elif logits_to_keep.dtype == torch.bool:
            hidden_states = hidden_states[logits_to_keep]  # [T, H]
        else:
            hidden_states = hidden_states.flatten(0, 1)[logits_to_keep]  # [T, H]
        return CausalLMOutputWithPast(logits=self.lm_head(hidden_states), cache=outputs.cache)
