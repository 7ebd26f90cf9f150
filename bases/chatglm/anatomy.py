"""ChatGLM's measures: its linear layers and their sizes, its weights, what a layer keeps of a token."""

from __future__ import annotations

from typing import Any

from bases.interface import ModelShape

EMBEDDING, HEAD = "transformer.word_embeddings.weight", "lm_head.weight"
# The linear layers of a block, by the last part of their module names: those that become 4-bit, and that
# LoRA may stand beside. Embedding and head stay in half precision.
LINEAR_LAYERS = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
# Rows of logits that are held at a time, in the loss: enough for the product to be worth reading the head's
# weight, and with a small vocabulary no more numbers than fit into a CPU's cache.
MIN_CHUNK_ROWS = 128
CHUNK_LOGITS = 2**20


def is_linear_layer(name: str) -> bool:
    """Tell whether a module name, or a target that peft takes for one, is of a block's linear layer."""
    return name.rpartition(".")[2] in LINEAR_LAYERS


def chunk_rows(vocab_size: int) -> int:
    """Return how many rows of logits are held at a time."""
    return max(MIN_CHUNK_ROWS, CHUNK_LOGITS // vocab_size)


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
    return ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        inner_hidden_size=inner,
        num_attention_heads=config.num_attention_heads,
        vocab_size=config.vocab_size,
        linear_shapes=linear_shapes,
        other_parameters=layers * (biases + 4 * hidden) + 2 * hidden,  # two layer norms a block, one behind
        tied=config.tie_word_embeddings,
        quantized=getattr(config, "quantization_config", None) is not None,
    )


def layer_bytes_per_token(
    shape: ModelShape, *, half: bool, lora_rank: int, lora_names: set[str], dropout_bytes: float
) -> int:
    """Return what the backward pass of a block keeps of a token; see `bases.interface.Family`."""
    value, hidden = 2 if half else 4, shape.hidden_size
    norms = 2 * (value * hidden + 8)  # inputs, and fp32 mean and deviation
    head_dim = hidden // shape.num_attention_heads
    rotary = 4 * value * head_dim if half else 0  # cos and sin, cast for query and key
    # the projection (alive through its view, the value), rotated query and key, output, fp32 log-sum-exp
    attention = value * (3 + 2 + 1) * hidden + 4 * shape.num_attention_heads
    gelu = value * shape.inner_hidden_size
    kept = norms + rotary + attention + gelu
    for name in lora_names & shape.linear_shapes.keys():
        width = shape.linear_shapes[name][0]
        kept += value * (width + lora_rank)  # the inputs of A and B
        kept += int(dropout_bytes * width)
    return kept
