"""LoRA in one operation: what PEFT computes, forward and backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bases.adapter import attach_lora
from bases.chatglm import load_base_model
from bases.layers import expand
from bases.lora_product import lengthen_lora, own_dropout, shares_generator, shorten_lora


def make(
    base: Path, in_4bit: bool, dtype: torch.dtype, dropout: float = 0.0
) -> tuple[Any, dict[str, torch.Tensor]]:
    model, tokenizer = load_base_model(base, load_in_4bit=in_4bit, dtype=dtype, device="cpu")
    torch.manual_seed(0)
    targets = ["query_key_value", "dense_h_to_4h"]
    model = attach_lora(model, rank=4, alpha=8, dropout=dropout, target_modules=targets)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    ids = torch.tensor([[*tokenizer.prompt_ids("王伟生于北京"), 7, 8, 9]])
    return model.train(), {"input_ids": ids, "labels": ids}


def gradients(model: Any, batch: dict[str, torch.Tensor], half: bool) -> list[torch.Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = model(**batch).loss
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.mark.parametrize(
    ("in_4bit", "dtype"), [(False, torch.float32), (True, torch.float32), (True, torch.bfloat16)]
)
def test_loss_and_gradients_are_pefts(random_base: Path, in_4bit: bool, dtype: torch.dtype) -> None:
    model, batch = make(random_base, in_4bit, dtype)
    half = dtype == torch.bfloat16
    lengthen_lora(model)
    expected = gradients(model, batch, half)
    shorten_lora(model)
    found = gradients(model, batch, half)
    assert len(found) == len(expected) > 4
    for own, theirs in zip(found, expected, strict=True):
        difference = (own - theirs).norm() / theirs.norm()
        assert difference < (0.03 if half else 1e-5)
        assert own.dtype == theirs.dtype


def test_disabled_adapters_take_the_long_way(random_base: Path) -> None:
    model, batch = make(random_base, False, torch.float32)
    shorten_lora(model)
    with torch.no_grad():
        adapted = model(input_ids=batch["input_ids"]).logits
        with model.disable_adapter():
            bare = model(input_ids=batch["input_ids"]).logits
        assert not torch.equal(bare, adapted)
        lengthen_lora(model)
        assert torch.allclose(model(input_ids=batch["input_ids"]).logits, adapted, atol=1e-5)
        with model.disable_adapter():
            assert torch.equal(model(input_ids=batch["input_ids"]).logits, bare)


def test_dropout_keeps_what_is_expected_and_backward_drops_the_same(random_base: Path) -> None:
    model, _ = make(random_base, False, torch.float32, dropout=0.25)
    shorten_lora(model)
    layer = next(module for module in model.modules() if hasattr(module, "lora_A"))
    x = torch.ones(64, layer.in_features, requires_grad=True)
    torch.manual_seed(1)
    added = layer(x) - layer.base_layer(x)
    (gradient,) = torch.autograd.grad(added.sum(), x)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    full = 2 * (b.sum(0) @ a).expand_as(x)  # the scaling is 8 / 4
    kept = gradient.abs() > full.abs() / 2
    assert 0.72 < kept.float().mean() < 0.78
    torch.testing.assert_close(gradient, torch.where(kept, full / 0.75, torch.zeros(())))
    torch.testing.assert_close(added, (2 / 0.75) * (x * kept) @ a.t() @ b.t(), rtol=1e-4, atol=1e-4)
    layer.eval()
    torch.testing.assert_close(layer(x) - layer.base_layer(x), 2 * x @ a.t() @ b.t(), rtol=1e-4, atol=1e-4)


def test_what_is_dropped_follows_the_generator_or_the_seed_of_the_thread(random_base: Path) -> None:
    model, batch = make(random_base, False, torch.float32, dropout=0.5)
    assert shares_generator(model)
    shorten_lora(model)
    assert not shares_generator(model)
    assert shares_generator(torch.nn.Sequential(model, torch.nn.Dropout(0.1)))

    def loss(seed: int | None) -> float:
        if seed is None:
            return float(model(**batch).loss.detach())
        with own_dropout(seed):
            return float(model(**batch).loss.detach())

    torch.manual_seed(3)
    first, second = loss(None), loss(None)
    torch.manual_seed(3)
    assert loss(7) == loss(7) != loss(8)  # and the common generator stays where it was:
    assert (loss(None), loss(None)) == (first, second)
    assert first != second


@torch.no_grad()
def test_four_bit_weights_turned_back_compute_the_same(random_base: Path) -> None:
    model, tokenizer = load_base_model(random_base, load_in_4bit=True, dtype=torch.float32, device="cpu")
    ids = torch.tensor([tokenizer.prompt_ids("王伟生于北京")])
    expected = model(input_ids=ids).logits
    expand(model)
    assert not any(type(module).__name__ == "Linear4bit" for module in model.modules())
    assert torch.equal(model(input_ids=ids).logits, expected)
