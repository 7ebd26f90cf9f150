"""ChatGLM's measures: its linear layers and their sizes, its weights, what a layer keeps of a token."""

from __future__ import annotations

from typing import Any

from bases.interface import ModelShape, chunk_rows

EMBEDDING, HEAD = "transformer.word_embeddings.weight", "lm_head.weight"
PREFIX = "transformer.prefix_encoder."  # of a P-tuning v2 prefix' tensors
# The linear layers of a block, by the last part of their module names: those that become 4-bit, and that
# LoRA may stand beside. Embedding and head stay in half precision.
LINEAR_LAYERS = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")


def is_linear_layer(name: str) -> bool:
    """Tell whether a module name, or a target that peft takes for one, is of a block's linear layer."""
    return name.rpartition(".")[2] in LINEAR_LAYERS


def prefix_parameters(config: Any) -> int:
    """Return the weights of a P-tuning v2 prefix; 0 without one."""
    length, hidden = config.pre_seq_len or 0, config.hidden_size
    output = 2 * config.num_layers * hidden  # keys and values
    if length and config.prefix_projection:
        return length * hidden + hidden * (hidden + 1) + output * (hidden + 1)
    return length * output


def shape_of(config: Any) -> ModelShape:
    """Return the sizes that a `ChatGLMConfig` (or anything with its fields) stands for."""
    hidden, layers = config.hidden_size, config.num_layers
    inner = config.inner_hidden_size or 4 * hidden
    linear_shapes = {
        "query_key_value": (hidden, 3 * hidden),
        "dense": (hidden, hidden),
        "dense_h_to_4h": (hidden, inner),
        "dense_4h_to_h": (inner, hidden),
    }
    biases = sum(outputs for _, outputs in linear_shapes.values())
    # Of a token, per block: inputs of both layer norms; the projection (alive through its view, the value),
    # rotated query and key, attention's output; the MLP's inner activations, before GELU.
    kept = 2 * hidden + (3 + 2 + 1) * hidden + inner
    return ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        inner_hidden_size=inner,
        vocab_size=config.vocab_size,
        linear_shapes=linear_shapes,
        other_parameters=layers * (biases + 4 * hidden) + 2 * hidden,  # two layer norms a block, one behind
        kept_activations=kept,
        cast_activations=0,  # cos and sin are cast once for all
        kept_fp32=2 * 8 + 4 * config.num_attention_heads,  # means and deviations, log-sum-exp
        key_value_size=2 * hidden,
        logit_rows=chunk_rows(config.vocab_size),
        default_targets=LINEAR_LAYERS[:1],
        tied=config.tie_word_embeddings,
        quantized=getattr(config, "quantization_config", None) is not None,
    )
