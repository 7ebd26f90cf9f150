"""LoRA in one operation: what PEFT computes, forward and backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bases.adapter import attach_lora
from bases.chatglm import load_base_model
from bases.layers import expand
from bases.lora_product import lengthen_lora, shorten_lora


def make(base: Path, in_4bit: bool, dtype: torch.dtype) -> tuple[Any, dict[str, torch.Tensor]]:
    model, tokenizer = load_base_model(base, load_in_4bit=in_4bit, dtype=dtype, device="cpu")
    torch.manual_seed(0)
    targets = ["query_key_value", "dense_h_to_4h"]
    model = attach_lora(model, rank=4, alpha=8, dropout=0.0, target_modules=targets)
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


@torch.no_grad()
def test_four_bit_weights_turned_back_compute_the_same(random_base: Path) -> None:
    model, tokenizer = load_base_model(random_base, load_in_4bit=True, dtype=torch.float32, device="cpu")
    ids = torch.tensor([tokenizer.prompt_ids("王伟生于北京")])
    expected = model(input_ids=ids).logits
    expand(model)
    assert not any(type(module).__name__ == "Linear4bit" for module in model.modules())
    assert torch.equal(model(input_ids=ids).logits, expected)
