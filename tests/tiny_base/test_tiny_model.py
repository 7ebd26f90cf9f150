"""The embedded base's making: growing a trained model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bases.chatglm import ChatGLMTokenizer
from tiny_base import model as tiny_model
from tiny_base.model import grow, new_model

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("before", "after"), [(2, 3), (2, 4), (3, 5)])
def test_a_grown_model_computes_the_same_and_learns_in_all_its_layers(monkeypatch, before, after):
    tokenizer = ChatGLMTokenizer.from_pretrained(str(ROOT / "models" / "chatglm-tiny"))
    monkeypatch.setattr(tiny_model, "NUM_LAYERS", before)
    small = new_model(tokenizer)
    for parameter in small.parameters():  # norms and biases too are something else than at the start
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim == 1 else None
    monkeypatch.setattr(tiny_model, "NUM_LAYERS", after)
    large = new_model(tokenizer)
    large.load_state_dict(grow(small.state_dict(), after))
    input_ids = torch.tensor([tokenizer("《山路》由王明执导。")["input_ids"]])
    expected, found = small(input_ids=input_ids).logits, large(input_ids=input_ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    found.square().sum().backward()
    for layer in large.transformer.layers:
        assert layer.attention.dense.weight.grad.abs().sum() > 0
        assert layer.mlp.dense_4h_to_h.weight.grad.abs().sum() > 0
