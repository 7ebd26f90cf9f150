"""The embedded base before training: its shape, and initial weights with which copying is learnt at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bases.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer

HIDDEN_SIZE, NUM_LAYERS, NUM_HEADS, INNER_SIZE = 256, 10, 4, 1024


def new_model(tokenizer: ChatGLMTokenizer) -> ChatGLMForConditionalGeneration:
    """Make a model of the published architecture, small, with weights fit for its scaled residuals.

    Every layer adds its output to sqrt(2L) times its normalised input. As in DeepNorm (Wang et al. 2022)
    the projections that feed the residual stream begin smaller, by (8L)^(-1/4); query and key don't.
    """
    config = ChatGLMConfig(
        vocab_size=math.ceil(tokenizer.vocab_size / 64) * 64,
        hidden_size=HIDDEN_SIZE,
        num_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        inner_hidden_size=INNER_SIZE,
        max_sequence_length=2048,
        mask_token_id=tokenizer.mask_token_id,
        gmask_token_id=tokenizer.gmask_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        architectures=["ChatGLMForConditionalGeneration"],
    )
    model = ChatGLMForConditionalGeneration(config)
    gain = (8 * NUM_LAYERS) ** -0.25
    head = HIDDEN_SIZE // NUM_HEADS
    with torch.no_grad():
        nn.init.normal_(model.transformer.word_embeddings.weight, std=0.02)
        layers: list[Any] = list(model.transformer.layers)
        for layer in layers:
            for linear, scale in (
                (layer.attention.query_key_value, 1.0),
                (layer.attention.dense, gain),
                (layer.mlp.dense_h_to_4h, gain),
                (layer.mlp.dense_4h_to_h, gain),
            ):
                nn.init.xavier_normal_(linear.weight, gain=scale)
                nn.init.zeros_(linear.bias)
            # per head: query, key, value
            layer.attention.query_key_value.weight.view(NUM_HEADS, 3, head, HIDDEN_SIZE)[:, 2].mul_(gain)
        first, second = (layer.attention for layer in layers[:2])
        # the token before in the context, twice; the one after; the one before within the answer
        for index, (channel, offset) in enumerate(((0, -1), (0, -1), (0, 1), (1, -1))):
            look_at_neighbour(first, index, channel, offset)
        for index in (0, 1):
            copy_what_followed(first, index, second, index)
    return model


def grow(state: dict[str, torch.Tensor], num_layers: int) -> dict[str, torch.Tensor]:
    """Give trained weights more layers that begin as the identity, so that what they compute is unchanged.

    New layers stand behind the middle ones. Each is the layer before it with its two output projections at
    zero (as in LLaMA Pro, Wu et al. 2024), and with the gain and bias of its layer norms moved into the
    weights that read them.

    Args:
        state: weights of a model with fewer layers, as `state_dict()` gives them, fp32.
        num_layers: wanted; at most twice as many.

    Returns:
        The weights of the larger model.
    """
    prefix = "transformer.layers."
    depth = 1 + max(int(name.split(".")[2]) for name in state if name.startswith(prefix))
    layers = [
        {
            name.split(".", 3)[3]: value
            for name, value in state.items()
            if name.startswith(f"{prefix}{index}.")
        }
        for index in range(depth)
    ]
    projections = ("attention.dense", "mlp.dense_4h_to_h")
    new = num_layers - depth
    first = (depth - new) // 2
    deeper: list[dict[str, torch.Tensor]] = []
    for index, layer in enumerate(layers):
        deeper.append(layer)
        if first <= index < first + new:
            copied = {
                name: torch.zeros_like(value) if name.startswith(projections) else value.clone()
                for name, value in layer.items()
            }
            for norm, reader in (
                ("input_layernorm", "attention.query_key_value"),
                ("post_attention_layernorm", "mlp.dense_h_to_4h"),
            ):
                copied[f"{reader}.bias"] += copied[f"{reader}.weight"] @ copied[f"{norm}.bias"]
                copied[f"{reader}.weight"] *= copied[f"{norm}.weight"]
                copied[f"{norm}.weight"].fill_(1.0)
                copied[f"{norm}.bias"].zero_()
            deeper.append(copied)
    grown = {name: value for name, value in state.items() if not name.startswith(prefix)}
    for index, layer in enumerate(deeper):
        grown |= {f"{prefix}{index}.{name}": value for name, value in layer.items()}
    return grown


def save_base(model: ChatGLMForConditionalGeneration, output: Path, tokenizer_dir: Path) -> None:
    """Write a model in fp16 as a checkpoint directory, with the tokenizer of another one."""
    model.half().save_pretrained(output)
    (output / "model.safetensors").chmod(0o644)  # written as private; a checkout must be readable by all
    if output.resolve() != tokenizer_dir.resolve():
        for name in ("ice_text.model", "tokenizer_config.json"):
            (output / name).write_bytes((tokenizer_dir / name).read_bytes())


def look_at_neighbour(attention: Any, index: int, channel: int, offset: int, strength: float = 6.0) -> None:
    """Let a head begin by attending to the token at a fixed distance.

    Copying needs heads that look at the neighbouring token, and they are slow to learn: only the fastest of
    the rotary frequencies tell neighbours apart. So some begin as such heads: their query and key are little
    more than constants (biases), the key's turned back by the offset, so that their product
    sum_j cos(theta_j (distance - offset)) peaks where the key stands `offset` from the query.

    Args:
        attention: `SelfAttention` of a layer.
        index: the head.
        channel: 0 for positions in the context, 1 for those in the answer.
        offset: -1 for the token before, 1 for the token after.
        strength: length of the constant query and key at each frequency.
    """
    head = HIDDEN_SIZE // NUM_HEADS
    quarter = head // 4
    theta = 10000.0 ** (-torch.arange(6) / quarter)  # the fastest 6 of the channel's head / 4 frequencies
    weight = attention.query_key_value.weight.view(NUM_HEADS, 3, head, HIDDEN_SIZE)
    bias = attention.query_key_value.bias.view(NUM_HEADS, 3, head)
    weight[index, :2] *= 0.1
    start = channel * head // 2
    bias[index, 0, start : start + 6] = strength
    bias[index, 1, start : start + 6] = strength * torch.cos(-offset * theta)
    bias[index, 1, start + quarter : start + quarter + 6] = strength * torch.sin(-offset * theta)


def copy_what_followed(before: Any, writer: int, attention: Any, index: int) -> None:
    """Let a head begin as an induction head: find where the current token stood before, copy what followed.

    `writer`, a head of the layer before that looks one token back, writes a projection of that token into the
    residual stream; this head's key reads it, its query is the same projection of the current token, and what
    it finds is written back as it is. Left to chance, this pair of heads takes millions of tokens to appear
    (Olsson et al. 2022), during which nothing else that needs copying is learnt.

    Args:
        before: `SelfAttention` of the layer before.
        writer: its head that attends to the token before.
        attention: `SelfAttention` of this layer.
        index: the head that becomes an induction head.
    """
    head, quarter = HIDDEN_SIZE // NUM_HEADS, HIDDEN_SIZE // NUM_HEADS // 4
    projection, written, content = (
        nn.init.orthogonal_(torch.empty(HIDDEN_SIZE, HIDDEN_SIZE))[:head] for _ in range(3)
    )
    slow = (torch.arange(head) % quarter >= 6)[:, None]  # rotary frequencies that leave content alone
    shape = (NUM_HEADS, 3, head, HIDDEN_SIZE)
    source = before.query_key_value.weight.view(shape)
    source[writer, 2] = projection
    before.dense.weight.view(HIDDEN_SIZE, NUM_HEADS, head)[:, writer] = 2 * written.T
    weight = attention.query_key_value.weight.view(shape)
    weight[index, 0] = 2.5 * projection * slow
    weight[index, 1] = 2.5 * written * slow
    weight[index, 2] = content
    attention.dense.weight.view(HIDDEN_SIZE, NUM_HEADS, head)[:, index] = 2 * content.T
