"""The memory plan: what it predicts, what it chooses, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.helpers import disable_input_dtype_casting

from bases.adapter import attach_lora
from bases.chatglm import ChatGLMConfig, checkpoint_layers, load_base_model
from data_handle.data_preprocess import Features
from data_handle.packing import pack
from extraction.memory_plan import MAX_ROWS
from training.memory_plan import (
    TrainingSettings,
    answer_bytes,
    layer_bytes_per_token,
    lora_parameters,
    memory_parts,
    plan_memory,
    shape_of,
)
from utils.common_utils import UserError
from utils.memory import GB

CHATGLM_6B = shape_of(ChatGLMConfig())
README = TrainingSettings(
    lora_rank=8, lora_target_modules=("query_key_value",), lora_dropout=0.05, load_in_4bit=True, half=True,
    on_cuda=True, samples_per_step=8, max_sample_tokens=384, max_target_tokens=128, eval_batch_size=8,
)  # fmt: skip


def settings(**changes: Any) -> TrainingSettings:
    return README._replace(**changes)


def test_the_published_model() -> None:
    assert CHATGLM_6B.linear_parameters == 28 * 12 * 4096**2  # 5.64 billion
    assert CHATGLM_6B.parameters == 6_173_286_400
    assert lora_parameters(CHATGLM_6B, 8, ["query_key_value"]) == 28 * 8 * (4096 + 3 * 4096) == 3_670_016
    assert lora_parameters(CHATGLM_6B, 4, ["attention.dense", "dense_h_to_4h"]) == 28 * 4 * (
        2 * 4096 + 5 * 4096
    )
    parts = memory_parts(CHATGLM_6B, README, 1, 384, 128)
    assert 3.9e9 < parts["权重"] < 4.0e9
    assert parts["LoRA 与优化器"] == 16 * 3_670_016
    assert memory_parts(CHATGLM_6B, settings(load_in_4bit=False), 1, 384, 128)["权重"] > 12.3e9


def test_within_20_gb_the_readme_needs_no_checkpointing_and_one_pass() -> None:
    plan = plan_memory(CHATGLM_6B, README, "auto", 20 * GB)
    assert plan.checkpoint_every == 0
    assert plan.tokens_per_pass == plan.step_tokens == 8 * 384
    assert plan.peak <= plan.budget
    assert "不用" in plan.table() and "3072" in plan.table()


@pytest.mark.parametrize(("tokens", "passes"), [(3072, 1), (3071, 2), (800, 4), (640, 8), (384, 8)])
def test_the_table_says_how_many_passes_there_are_at_most(tokens: int, passes: int) -> None:
    plan = plan_memory(CHATGLM_6B, README, "auto", 20 * GB)._replace(tokens_per_pass=tokens)
    assert f"至多分 {passes} 次" in plan.table()


def test_how_weights_are_stored_counts() -> None:
    plain, in_8bit, in_4bit = (
        memory_parts(CHATGLM_6B, settings(load_in_4bit=four, load_in_8bit=eight), 1, 384, 128)["权重"]
        for four, eight in ((False, False), (False, True), (True, False))
    )
    assert plain - in_8bit == CHATGLM_6B.linear_parameters > in_8bit - in_4bit > 0
    on_cpu = settings(on_cuda=False, shard_bytes=2 * GB)
    plain = memory_parts(CHATGLM_6B, on_cpu, 1, 384, 128)
    untied = memory_parts(CHATGLM_6B._replace(tied=False), on_cpu, 1, 384, 128)
    assert untied["权重"] - plain["权重"] == 2 * 130528 * 4096
    quantized = memory_parts(CHATGLM_6B._replace(quantized=True), on_cpu, 1, 384, 128)
    assert plain["激活与临时缓冲"] - quantized["激活与临时缓冲"] == 16 * 4096 * 16384


def test_less_memory_means_checkpointing_first_and_then_smaller_passes() -> None:
    plans = [plan_memory(CHATGLM_6B, README, "auto", int(gb * GB)) for gb in (20, 8, 7.5, 6.2)]
    checkpointed = [1 / plan.checkpoint_every if plan.checkpoint_every else 0 for plan in plans]
    assert checkpointed == sorted(checkpointed) and checkpointed[-1] == 1
    tokens = [plan.tokens_per_pass for plan in plans]
    assert 384 <= tokens[-1] < 3072
    assert all(plan.peak <= plan.budget for plan in plans)
    more = plans[-1]._replace(tokens_per_pass=tokens[-1] + 1)
    targets = -(-more.tokens_per_pass * 128 // 384)
    assert sum(memory_parts(CHATGLM_6B, README, 1, more.tokens_per_pass, targets).values()) > more.budget


def test_what_is_asked_for_is_done() -> None:
    assert plan_memory(CHATGLM_6B, README, True, 20 * GB).checkpoint_every == 1
    assert plan_memory(CHATGLM_6B, README, False, 20 * GB).checkpoint_every == 0


def test_what_cannot_fit_is_refused_with_what_to_change() -> None:
    with pytest.raises(UserError, match=r"6\.2B.*384.*预算是 4\.0 GB") as caught:
        plan_memory(CHATGLM_6B, settings(load_in_4bit=False, eval_batch_size=1), False, 4 * GB)
    for remedy in (
        "--load_in_4bit",
        "--gradient_checkpointing auto",
        "--max_source_seq_len",
        "--vram_budget_gb",
    ):
        assert remedy in str(caught.value)
    with pytest.raises(UserError) as caught:
        plan_memory(CHATGLM_6B, README, "auto", 4 * GB)
    assert "--load_in_4bit" not in str(caught.value)
    assert "--gradient_checkpointing" not in str(caught.value)


def test_what_helps_most_comes_first_and_really_helps() -> None:
    with pytest.raises(UserError, match=r"1\. 减少评估批次：--eval_batch_size 1（预计需要 5\.\d GB）"):
        plan_memory(CHATGLM_6B, README, "auto", int(5.5 * GB))  # it is the answers on dev that don't fit
    plan_memory(CHATGLM_6B, settings(eval_batch_size=1), "auto", int(5.5 * GB))


@pytest.mark.parametrize(
    "change",
    [
        {"max_sample_tokens": 512},
        {"lora_rank": 64},
        {"lora_target_modules": ("query_key_value", "dense")},
        {"half": False},
        {"load_in_4bit": False},
        {"load_in_4bit": False, "load_in_8bit": True},
    ],
)
def test_memory_grows_with_what_it_depends_on(change: dict[str, Any]) -> None:
    def peak(of: TrainingSettings) -> int:
        return sum(memory_parts(CHATGLM_6B, of, 0, of.max_sample_tokens, 128).values())

    assert peak(settings(**change)) > peak(README)


def test_on_the_cpu_a_large_weight_file_counts_while_it_is_read() -> None:
    knobs = README._replace(on_cuda=False)
    small = shape_of(ChatGLMConfig(num_layers=2))
    without, with_file = (
        memory_parts(small, knobs._replace(shard_bytes=size), 0, 384, 128) for size in (0, 3 * GB)
    )
    assert with_file["激活与临时缓冲"] == 3 * GB + 16 * 4096 * 16384 > without["激活与临时缓冲"]


def saved_bytes(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> int:
    """Bytes of all storages that autograd keeps for the backward pass, weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    weights |= {buffer.untyped_storage().data_ptr() for buffer in model.buffers()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.get_base_model().transformer(
            batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=batch["position_ids"]
        )
    assert output.last_hidden_state.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("names", [("query_key_value",), ("query_key_value", "dense_4h_to_h")])
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("every", [0, 2])
def test_the_predicted_activations_are_those_that_autograd_keeps(
    root: Path, half: bool, names: tuple[str, ...], dropout: float, every: int
) -> None:
    dtype = torch.bfloat16 if half else torch.float32
    base, tokenizer = load_base_model(root / "models" / "chatglm-tiny", dtype=dtype, device="cpu")
    if every:
        checkpoint_layers(base, every)
    model = attach_lora(base, rank=4, alpha=8, dropout=dropout, target_modules=list(names)).train()
    ids = [*range(20, 200), tokenizer.gmask_token_id, tokenizer.bos_token_id, *range(20, 80)]
    batch = pack([[Features(ids, [-100] * len(ids))]], len(ids), base.config)
    casts = disable_input_dtype_casting(model, active=half)  # as in training
    with casts, torch.autocast("cpu", torch.bfloat16, enabled=half):
        measured = saved_bytes(model, batch)
    shape, of = (
        shape_of(base.config),
        settings(lora_rank=4, lora_target_modules=names, lora_dropout=dropout, half=half, on_cuda=False),
    )
    value, layers = of.value_bytes, shape.num_layers
    checkpointed = layers // every if every else 0
    predicted = len(ids) * (
        (layers - checkpointed) * layer_bytes_per_token(shape, of) + checkpointed * value * shape.hidden_size
    )
    predicted += value * len(ids) ** 2  # the mask, once for all layers
    assert measured == pytest.approx(predicted, rel=0.05)


def test_answers_take_what_training_has_anyway() -> None:
    auto = settings(eval_batch_size=None)
    plan = plan_memory(CHATGLM_6B, auto, "auto", 20 * GB)
    assert 24 <= plan.eval_rows <= MAX_ROWS
    assert plan.peak == plan_memory(CHATGLM_6B, settings(eval_batch_size=1), "auto", 20 * GB).peak
    assert plan.eval_rows * answer_bytes(CHATGLM_6B, auto) <= plan.parts["激活与临时缓冲"]
    assert f"评估每批 {plan.eval_rows} 句" in plan.table()
    checkpointed = plan_memory(CHATGLM_6B, auto._replace(samples_per_step=1), True, 20 * GB)
    assert checkpointed.eval_rows == 8  # training leaves less, but there is room
    tight = plan_memory(CHATGLM_6B, auto, "auto", int(5.6 * GB))
    assert 1 <= tight.eval_rows < 8 and tight.peak <= tight.budget
    on_cpu = plan_memory(CHATGLM_6B, auto._replace(on_cuda=False), "auto", 200 * GB)
    assert on_cpu.eval_rows == 8
    assert plan_memory(CHATGLM_6B, README, "auto", 20 * GB).eval_rows == README.eval_batch_size
