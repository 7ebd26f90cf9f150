"""Micro-batches side by side: the same gradients as one after the other, whoever is faster."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from bases.adapter import attach_lora
from bases.chatglm import load_base_model
from bases.lora_product import shorten_lora
from data_handle.data_preprocess import Features, encode_example
from task.prompt import build_prompt
from training.gradients import Gradients
from training.lanes import Lanes, lane_count

SENTENCES = ["《长河》由张三执导。", "李四是北京人。", "王五写了《海》，由某社出版。", "今天下雨。"]


def samples_of(tokenizer: Any) -> list[Features]:
    encoded = [encode_example(tokenizer, build_prompt(text), "[]", 256, 128) for text in SENTENCES]
    return [each.features for each in encoded if each.features is not None]


def make(random_base: Path, dropout: float) -> tuple[Any, Any]:
    base, tokenizer = load_base_model(random_base, dtype=torch.float32, device="cpu")
    torch.manual_seed(0)
    model = attach_lora(base, rank=4, alpha=8, dropout=dropout, target_modules=["query_key_value", "dense"])
    shorten_lora(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train(), tokenizer


@pytest.fixture
def model_and_tokenizer(random_base: Path) -> tuple[Any, Any]:
    return make(random_base, dropout=0.0)


def gradients_of(model: Any, samples: list[Features], lanes: Lanes) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    loss, _ = Gradients(Accelerator(cpu=True), model, 4096, lambda line: None, lanes).accumulate(samples)
    return loss, [each.grad.clone() for each in model.parameters() if each.requires_grad]


def test_lanes_give_the_gradient_of_one_pass_and_the_same_one_every_time(
    model_and_tokenizer: tuple[Any, Any],
) -> None:
    model, tokenizer = model_and_tokenizer
    samples, lanes = samples_of(tokenizer), Lanes(3)
    loss, whole = gradients_of(model, samples, Lanes(1))
    first_loss, first = gradients_of(model, samples, lanes)
    assert first_loss == pytest.approx(loss, rel=1e-5)
    for ours, theirs in zip(first, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    for _ in range(5):
        again_loss, again = gradients_of(model, samples, lanes)
        assert again_loss == first_loss
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, first, strict=True))


def test_dropout_in_lanes_is_that_of_the_run_whoever_is_faster(random_base: Path) -> None:
    model, tokenizer = make(random_base, dropout=0.3)
    samples, found = samples_of(tokenizer), []
    for slow in (0, 1, 2):  # the lane that begins last
        entered = iter(range(10))

        def wait(module: Any, args: Any, kwargs: Any, slow: int = slow, entered: Any = entered) -> None:
            time.sleep(0.05 * (next(entered) == slow))

        hook = model.get_base_model().register_forward_pre_hook(wait, with_kwargs=True)
        torch.manual_seed(5)
        found.append(gradients_of(model, samples, Lanes(3)))
        hook.remove()
    other, _ = gradients_of(model, samples, Lanes(3))
    loss, gradients = found[0]
    assert other != loss  # the next step drops something else
    for same_loss, same in found[1:]:
        assert same_loss == loss
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(same, gradients, strict=True))


def test_a_step_without_room_for_all_its_passes_runs_them_one_after_the_other(
    model_and_tokenizer: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = model_and_tokenizer
    monkeypatch.setattr(Gradients, "_run_side_by_side", lambda *_: pytest.fail("there is no room"))
    gradients = Gradients(Accelerator(cpu=True), model, 64, lambda line: None, Lanes(2))
    gradients.accumulate(samples_of(tokenizer))


@pytest.mark.usefixtures("two_threads")
def test_lanes_run_at_the_same_time_with_one_thread_each_and_keep_the_order() -> None:
    together = threading.Barrier(2, timeout=30)

    def work(item: int) -> tuple[int, int]:
        together.wait()
        return item, torch.get_num_threads()

    assert Lanes(2).run(work, [1, 2]) == [(1, 1), (2, 1)]
    assert torch.get_num_threads() == 2


def test_an_error_of_a_lane_reaches_the_caller() -> None:
    def work(item: int) -> int:
        if item == 1:
            raise MemoryError("lane 1")
        return item

    with pytest.raises(MemoryError, match="lane 1"):
        Lanes(2).run(work, [0, 1, 2])


@pytest.mark.usefixtures("two_threads")
def test_where_lanes_are_used(model_and_tokenizer: tuple[Any, Any], random_base: Path) -> None:
    model, _ = model_and_tokenizer
    accelerator = Accelerator(cpu=True)
    assert lane_count(accelerator, model, 256, checkpointing=False) == 2
    assert lane_count(accelerator, model, 4096, checkpointing=False) == 1
    assert lane_count(accelerator, model, 256, checkpointing=True) == 1
    dropping, _ = make(random_base, dropout=0.05)
    assert lane_count(accelerator, dropping, 256, checkpointing=False) == 2
    dropping = torch.nn.Sequential(model, torch.nn.Dropout(0.05))
    assert lane_count(accelerator, dropping, 256, checkpointing=False) == 1
