"""8-bit layers: how near they are, gradients through them, both families loaded so, turned back again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bases import find_family
from bases.adapter import attach_lora
from bases.layers import assign, expand, replace_linears
from bases.linear8bit import Linear8bit
from bases.lora_product import shorten_lora
from tests.helpers.causal_bases import make_base

BITS: dict[str, dict[str, bool]] = {
    "plain": {"load_in_4bit": False},
    "8-bit": {"load_in_4bit": False, "load_in_8bit": True},
    "4-bit": {"load_in_4bit": True},
}


def layer_of(weight: torch.Tensor, dtype: torch.dtype, storage: torch.dtype | None = None) -> Any:
    """Return an 8-bit layer with a weight [out, in] and a bias of ones."""
    block = nn.ModuleDict({"layer": nn.Linear(weight.shape[1], weight.shape[0])})
    options: dict[str, Any] = {"load_in_4bit": False, "load_in_8bit": True}
    replace_linears(block, ["layer"], **options, compute_dtype=dtype, quant_storage=storage)
    for name, tensor in {"weight": weight, "bias": torch.ones(len(weight))}.items():
        assign(block, f"layer.{name}", tensor, Path("file"), dtype, "cpu")
    return block["layer"]


@pytest.mark.parametrize("storage", [None, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_and_gradients_are_those_of_the_rounded_weight(
    dtype: torch.dtype, storage: torch.dtype | None
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(1030, 64) * torch.rand(1030, 1)  # more rows than are quantised at a time
    weight[3] = 0.0
    weight[4] = 1e-30  # underflows in half precision
    layer = layer_of(weight, dtype, storage)
    assert layer.weight.numel() * layer.weight.element_size() == weight.numel()
    own = layer.dequantized()
    assert own.dtype == dtype and own.isfinite().all()
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    rounding = torch.finfo(dtype).eps  # of the weight, the scale, and their product
    assert ((own.float() - weight).abs() <= step / 2 + 2 * rounding * weight.abs() + 1e-7).all()

    x = torch.randn(2, 5, 64, requires_grad=True)  # fp32, as norms leave it
    out = layer(x)
    expected = nn.functional.linear(x.to(dtype), own, torch.ones(1030, dtype=dtype))
    assert out.dtype == dtype and torch.allclose(out, expected, rtol=1e-2, atol=1e-2)
    (gradient,) = torch.autograd.grad(out.float().square().sum(), x, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected.float().square().sum(), x)
    assert torch.allclose(gradient, wanted, rtol=2e-2, atol=wanted.abs().max().item() * 2e-2)


def test_a_weight_that_is_not_kept_is_not_kept() -> None:
    layer, kept = layer_of(torch.randn(32, 64), torch.float32), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        layer(torch.randn(3, 64, requires_grad=True))
    assert sorted(tensor.numel() for tensor in kept) == [32, 32 * 64]
    assert all(tensor.dtype == torch.uint8 for tensor in kept if tensor.numel() > 32)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("qwen3"), "qwen3")


@pytest.fixture(params=["chatglm", "qwen3"])
def base(request: pytest.FixtureRequest, random_base: Path, qwen3: Path) -> Path:
    return random_base if request.param == "chatglm" else qwen3


def load(base: Path, bits: str, **options: Any) -> tuple[Any, Any]:
    return find_family(base).load(base, device="cpu", dtype=torch.float32, **BITS[bits], **options)


def prompt(tokenizer: Any) -> torch.Tensor:
    return torch.tensor([tokenizer.prompt_ids("王伟生于北京")])


@torch.no_grad()
def test_nearer_than_4_bit_and_the_same_weights(base: Path) -> None:
    models = {bits: load(base, bits) for bits in BITS}
    ids = prompt(models["plain"][1])
    logits = {bits: model(input_ids=ids).logits for bits, (model, _) in models.items()}
    errors = {
        bits: ((logits[bits] - logits["plain"]).norm() / logits["plain"].norm()).item() for bits in BITS
    }
    assert 0 < errors["8-bit"] < errors["4-bit"] / 5 and errors["8-bit"] < 0.05
    assert len({model.base_fingerprint for model, _ in models.values()}) == 1
    model, _ = models["8-bit"]
    layers = find_family(base).shape(model.config).linear_shapes
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert isinstance(module, Linear8bit) == (name.rpartition(".")[2] in layers), name
    expand(model)
    assert not any(isinstance(module, Linear8bit) for module in model.modules())
    assert torch.equal(model(input_ids=ids).logits, logits["8-bit"])


def test_gradients_of_lora_are_those_on_the_rounded_weights(base: Path) -> None:
    found = []
    for turned_back in (False, True):
        model, tokenizer = load(base, "8-bit")
        if turned_back:
            expand(model)
        torch.manual_seed(0)
        model = attach_lora(model, rank=2, alpha=4, dropout=0.0, target_modules=["auto"]).train()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
        shorten_lora(model)
        ids = prompt(tokenizer)
        model(input_ids=ids, labels=ids).loss.backward()
        found.append([each.grad for each in model.parameters() if each.requires_grad])
    assert len(found[0]) > 3
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_4_and_8_bits_exclude_each_other(base: Path) -> None:
    with pytest.raises(ValueError, match="not in both"):
        find_family(base).load(base, device="cpu", load_in_4bit=True, load_in_8bit=True)
