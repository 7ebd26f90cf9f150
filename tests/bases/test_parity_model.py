"""Equality of the native model with figures of the published implementation (see fixtures/README.md)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from bases.chatglm import ChatGLMForConditionalGeneration
from bases.chatglm.layout import get_position_ids
from bases.chatglm.modeling import rotary_embedding

FIXTURES = Path(__file__).parents[1] / "fixtures" / "model"
CONFIGS = ("two_layers", "odd_rotary", "full_depth")
ADAPTED = ("two_layers", "odd_rotary")
FORWARD = (
    *("gmask", "mask", "gmask_and_mask", "second_sop", "gmask_first"),
    *("equal_lengths", "padded", "padded_long", "right_padded"),
)
GENERATE = ("gmask", "mask", "started_answer", "long", "equal_lengths", "padded", "padded_long")
LOGITS_TOLERANCE = 1e-4  # of the largest published |logit|
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3  # of a parameter's largest published |gradient|


class Published:
    """The figures of one tiny model, and the model itself, loaded by the native code."""

    def __init__(self, name: str) -> None:
        self.directory = FIXTURES / name
        self.meta = json.loads((self.directory / "figures.json").read_text(encoding="utf-8"))
        self.tensors = load_file(self.directory / "figures.safetensors")

    def model(self, dtype: torch.dtype = torch.float32) -> ChatGLMForConditionalGeneration:
        return ChatGLMForConditionalGeneration.from_pretrained(self.directory, dtype=dtype)


@pytest.fixture(scope="module", params=CONFIGS)
def published(request: pytest.FixtureRequest) -> Published:
    return Published(request.param)


@pytest.fixture(scope="module")
def model(published: Published) -> ChatGLMForConditionalGeneration:
    return published.model()


@pytest.fixture(params=ADAPTED)
def adapted(request: pytest.FixtureRequest) -> Published:
    return Published(request.param)


def batch(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return `input_ids` of a case, and its 1/0 mask where the published tokenizer padded it on the left."""
    input_ids = torch.tensor(case["input_ids"])
    if not case["padded"]:
        return {"input_ids": input_ids}
    index = torch.arange(input_ids.shape[1])
    num_padding = input_ids.shape[1] - torch.tensor(case["lengths"])
    return {"input_ids": input_ids, "attention_mask": (index >= num_padding[:, None]).long()}


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest difference over the largest published value."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def logits_difference(ours: torch.Tensor, theirs: torch.Tensor, case: dict[str, Any]) -> float:
    """Return the `relative_difference` over all recorded positions [B, R, V] that are no left padding."""
    width = len(case["input_ids"][0])
    positions = torch.tensor(case["logit_positions"])
    real = positions[None, :] >= width - torch.tensor(case["lengths"])[:, None]  # [B, R]
    return relative_difference(ours[:, positions][real], theirs[real])


def generate(model: Any, case: dict[str, Any], **kwargs: Any) -> list[list[int]]:
    """Return the 24 ids (or fewer, where all rows stop) that greedy search appends."""
    inputs = batch(case)
    output = model.generate(**inputs, max_new_tokens=24, do_sample=False, **kwargs)
    return output[:, inputs["input_ids"].shape[1] :].tolist()


def test_parameter_names_are_the_published_ones(
    published: Published, model: ChatGLMForConditionalGeneration
) -> None:
    checkpoint = load_file(published.directory / "model.safetensors")
    # Without the published buffers, which are made from the config here.
    shapes = {name: tensor.shape for name, tensor in checkpoint.items() if not name.endswith("inv_freq")}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert model.lm_head.weight is model.transformer.word_embeddings.weight


@pytest.mark.parametrize("name", FORWARD)
def test_logits_and_loss(published: Published, model: ChatGLMForConditionalGeneration, name: str) -> None:
    case = published.meta["forward"][name]
    inputs = batch(case)
    with torch.no_grad():
        logits = model(**inputs).logits
        loss = model(**inputs, labels=torch.tensor(case["labels"])).loss
    assert logits_difference(logits, published.tensors[f"{name}.logits"], case) < LOGITS_TOLERANCE
    assert loss.item() == pytest.approx(case["loss"], rel=LOSS_TOLERANCE)


@pytest.mark.parametrize("name", ["padded", "padded_long"])
def test_positions_of_padded_batches(
    published: Published, model: ChatGLMForConditionalGeneration, name: str
) -> None:
    case = published.meta["forward"][name]
    inputs = batch(case)
    positions = get_position_ids(inputs["input_ids"], model.config, inputs["attention_mask"])
    assert positions.tolist() == case["position_ids"]


@pytest.mark.parametrize("name", FORWARD)
def test_gradient_norms(published: Published, model: ChatGLMForConditionalGeneration, name: str) -> None:
    case = published.meta["forward"][name]
    model.zero_grad()
    model(**batch(case), labels=torch.tensor(case["labels"])).loss.backward()
    parameters = dict(model.named_parameters())
    norms = torch.stack([parameters[key].grad.norm() for key in sorted(parameters)])
    torch.testing.assert_close(
        norms, published.tensors[f"{name}.gradient_norms"], rtol=GRADIENT_TOLERANCE, atol=0
    )


def test_gradients_of_every_parameter(published: Published, model: ChatGLMForConditionalGeneration) -> None:
    case = published.meta["forward"]["padded"]
    model.zero_grad()
    model(**batch(case), labels=torch.tensor(case["labels"])).loss.backward()
    differences = {
        name: relative_difference(parameter.grad, published.tensors[f"padded.gradient.{name}"])
        for name, parameter in model.named_parameters()
    }
    assert len(differences) == 3 + 12 * model.config.num_layers
    assert max(differences.values()) < GRADIENT_TOLERANCE, max(differences, key=differences.__getitem__)


def test_gradients_with_checkpointing(published: Published) -> None:
    case = published.meta["forward"]["padded"]
    model = published.model().train()
    model.gradient_checkpointing_enable()
    model(**batch(case), labels=torch.tensor(case["labels"])).loss.backward()
    for name, parameter in model.named_parameters():
        published_gradient = published.tensors[f"padded.gradient.{name}"]
        assert relative_difference(parameter.grad, published_gradient) < GRADIENT_TOLERANCE, name


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", GENERATE)
def test_greedy_generation(
    published: Published, model: ChatGLMForConditionalGeneration, name: str, use_cache: bool
) -> None:
    case = published.meta["generate"][name]
    assert generate(model, case, use_cache=use_cache) == case["new_ids"]
    stopped = generate(model, case, use_cache=use_cache, eos_token_id=case["stop_id"])
    assert stopped == case["new_ids_with_stop"]


@pytest.mark.parametrize("name", GENERATE)
def test_beam_search(published: Published, model: ChatGLMForConditionalGeneration, name: str) -> None:
    case = published.meta["generate"][name]
    assert generate(model, case, num_beams=3) == case["new_ids_three_beams"]


@pytest.mark.parametrize(("name", "dtype"), [("float", torch.float32), ("half", torch.float16)])
def test_rotary_tables_of_the_released_width(name: str, dtype: torch.dtype) -> None:
    tables = load_file(FIXTURES / "rotary.safetensors")
    positions = tables["positions"]
    zeros = torch.zeros_like(positions)
    # Head width 128, of which each position channel turns one half.
    cos, sin = rotary_embedding(torch.stack([positions, zeros])[None], 128, dtype)
    ours = torch.stack([cos[0, 0, :, :64], sin[0, 0, :, :64]]).to(dtype)
    theirs = torch.stack([tables[f"cos_{name}"], tables[f"sin_{name}"]])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2 * torch.finfo(dtype).eps)
    assert (cos[0, 0, :, 64:] == 1).all()
    assert (sin[0, 0, :, 64:] == 0).all()


def test_half_precision_is_as_near_as_its_rounding(published: Published) -> None:
    case = published.meta["forward"]["padded_long"]
    with torch.no_grad():
        logits = published.model(torch.float16)(**batch(case)).logits.float()
    full = torch.empty_like(logits)  # the published fp16 logits, back at their positions
    full[:, case["logit_positions"]] = published.tensors["padded_long.logits_half"].float()
    rounding = logits_difference(full, published.tensors["padded_long.logits"], case)
    assert logits_difference(logits, full[:, case["logit_positions"]], case) < 1.5 * rounding


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
def test_published_adapter_loads(adapted: Published, tmp_path: Path, file_format: str) -> None:
    adapter = adapted.directory / "adapter"
    if file_format == "bin":  # what PEFT wrote by default at the time
        shutil.copy(adapter / "adapter_config.json", tmp_path)
        torch.save(load_file(adapter / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
        adapter = tmp_path
    model = PeftModel.from_pretrained(adapted.model(), str(adapter), is_trainable=True).eval()
    case = adapted.meta["forward"]["padded"]
    with torch.no_grad():
        logits = model(**batch(case)).logits
    assert logits_difference(logits, adapted.tensors["lora.logits"], case) < LOGITS_TOLERANCE

    loss = model(**batch(case), labels=torch.tensor(case["labels"])).loss
    assert loss.item() == pytest.approx(adapted.meta["lora"]["loss"], rel=LOSS_TOLERANCE)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert len(gradients) == 2 * model.config.num_layers
    for name, gradient in gradients.items():
        theirs = adapted.tensors[f"lora.gradient.{name.replace('.default', '')}"]
        assert relative_difference(gradient, theirs) < GRADIENT_TOLERANCE, name

    assert generate(model, adapted.meta["generate"]["padded"]) == adapted.meta["lora"]["new_ids"]


def test_adapter_saved_here_has_the_published_keys(adapted: Published, tmp_path: Path) -> None:
    config = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=0.0, target_modules=["query_key_value"]
    )
    model = get_peft_model(adapted.model(), config)
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    ours = load_file(tmp_path / "adapter_model.safetensors")
    theirs = load_file(adapted.directory / "adapter" / "adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }


def test_merged_adapter_gives_the_published_logits(adapted: Published) -> None:
    model = PeftModel.from_pretrained(adapted.model(), str(adapted.directory / "adapter")).merge_and_unload()
    case = adapted.meta["forward"]["padded"]
    with torch.no_grad():
        logits = model(**batch(case)).logits
    assert logits_difference(logits, adapted.tensors["lora.logits"], case) < LOGITS_TOLERANCE
