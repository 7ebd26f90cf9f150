"""Packing: rows and passes, and that packed samples have the loss and gradient that they have alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bases.adapter import attach_lora
from bases.chatglm import ChatGLMForConditionalGeneration, load_base_model
from bases.interface import CHUNK_LOGITS, MIN_CHUNK_ROWS, chunk_rows
from bases.loss import linear_cross_entropy
from data_handle.data_preprocess import Features
from data_handle.packing import MicroBatch, assign_rows, pack, plan_micro_batches


@pytest.fixture(scope="module")
def model(random_base: Path) -> ChatGLMForConditionalGeneration:
    return load_base_model(random_base, load_in_4bit=False, dtype=torch.float32, device="cpu")[0].train()


def sample(model: torch.nn.Module, rng: random.Random, short_blank: bool = False) -> Features:
    """A sample of random tokens, its blank at the end of the context or (a short one) within it."""
    config = model.config
    context = [rng.randrange(10, 400) for _ in range(rng.randint(2, 25))]
    answer = [rng.randrange(10, 400) for _ in range(rng.randint(1, 12))]
    blank = config.mask_token_id if short_blank else config.gmask_token_id
    context.insert(rng.randrange(len(context)) if short_blank else len(context), blank)
    context.append(config.bos_token_id)
    return Features(
        context + answer + [config.eos_token_id], [-100] * len(context) + answer + [config.eos_token_id]
    )


def samples(model: torch.nn.Module, count: int = 8) -> list[Features]:
    rng = random.Random(3)
    return [sample(model, rng, short_blank=index % 3 == 0) for index in range(count)]


def test_rows_are_filled_and_nothing_is_lost() -> None:
    assert assign_rows([3, 7, 2, 5, 3], 10) == [[1, 0], [3, 4, 2]]
    assert assign_rows([], 10) == []
    with pytest.raises(ValueError, match="放不进"):
        assign_rows([11], 10)


@pytest.mark.parametrize("limit", [16, 100, 400, 10_000])
def test_passes_are_few_and_within_the_limit(limit: int) -> None:
    rng = random.Random(0)
    for _ in range(50):
        lengths = [rng.randint(5, 90) for _ in range(rng.randint(1, 12))]
        passes = plan_micro_batches(lengths, limit, hidden_size=64)
        indices = [index for each in passes for row in each.rows for index in row]
        assert sorted(indices) == list(range(len(lengths)))
        for each in passes:
            assert all(sum(lengths[index] for index in row) <= each.row_length for row in each.rows)
            assert each.tokens <= max(limit, -(-max(lengths) // 16) * 16)
        if limit == 10_000:
            assert len(passes) == 1


def test_rows_are_long_in_a_wide_model_and_short_in_a_narrow_one() -> None:
    lengths = [33, 33, 33, 33]
    assert plan_micro_batches(lengths, 1000, hidden_size=4096) == [MicroBatch([[0, 1, 2, 3]], 144)]
    assert plan_micro_batches(lengths, 1000, hidden_size=1) == [MicroBatch([[0], [1], [2], [3]], 48)]
    assert plan_micro_batches([], 1000, hidden_size=8) == []


def test_more_passes_on_request() -> None:
    assert [each.rows for each in plan_micro_batches([30, 10, 10], 1000, 64, at_least=2)] == [
        [[0]],
        [[1], [2]],
    ]
    assert len(plan_micro_batches([30, 10, 10], 1000, 64, at_least=9)) == 3


def test_a_packed_row_by_hand(model: ChatGLMForConditionalGeneration) -> None:
    config = model.config
    gmask, mask, sop, pad = (
        config.gmask_token_id,
        config.mask_token_id,
        config.bos_token_id,
        config.pad_token_id,
    )
    first = Features([11, gmask, sop, 21], [-100, -100, -100, 21])
    second = Features([mask, 12, sop], [-100, -100, -100])
    batch = pack([[first, second]], 8, config)
    assert batch["input_ids"].tolist() == [[11, gmask, sop, 21, mask, 12, sop, pad]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 21, -100, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[[0, 1, 1, 1, 0, 1, 0, 0], [0, 0, 1, 2, 0, 0, 1, 0]]]
    assert batch["attention_mask"][0, 0].int().tolist() == [
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("limit", [70, 10_000])
@pytest.mark.parametrize("row_length", [None, 64])
def test_a_packed_step_has_the_gradient_of_its_samples_one_by_one(
    random_base: Path, limit: int, row_length: int | None
) -> None:
    """In fp32, with every LoRA weight non-zero; the step's loss is the mean over all of its targets."""
    base, _ = load_base_model(random_base, load_in_4bit=False, dtype=torch.float32, device="cpu")
    model = attach_lora(
        base, rank=4, alpha=8, dropout=0.0, target_modules=["query_key_value", "dense_4h_to_h"]
    ).train()
    torch.manual_seed(1)
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for parameter in trainable.values():
        torch.nn.init.normal_(parameter, std=0.1)
    window = samples(base)
    total = sum(item.num_targets for item in window)
    losses = 0.0
    for item in window:
        loss = model(input_ids=torch.tensor([item.input_ids]), labels=torch.tensor([item.labels])).loss
        (loss * item.num_targets / total).backward()
        losses += loss.item() * item.num_targets / total
    expected = {name: parameter.grad.clone() for name, parameter in trainable.items()}

    model.zero_grad()
    lengths = [len(item.input_ids) for item in window]
    if row_length:
        passes = [MicroBatch(assign_rows(lengths, row_length), row_length)]
    else:
        passes = plan_micro_batches(lengths, limit, base.config.hidden_size)
        assert len(passes) == (1 if limit == 10_000 else 3)
    packed = 0.0
    for each in passes:
        rows = [[window[index] for index in row] for row in each.rows]
        share = sum(item.num_targets for row in rows for item in row) / total
        loss = model(**pack(rows, each.row_length, base.config)).loss * share
        loss.backward()
        packed += loss.item()
    assert packed == pytest.approx(losses, rel=1e-5)
    for name, parameter in trainable.items():
        difference = (parameter.grad - expected[name]).norm() / expected[name].norm()
        assert difference < 1e-4, name


def test_chunks_of_rows() -> None:
    assert chunk_rows(130_528) == MIN_CHUNK_ROWS
    assert chunk_rows(1024) == CHUNK_LOGITS // 1024


@pytest.mark.parametrize("rows", [0, 1, 300])
@pytest.mark.parametrize("trained_head", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_chunked_loss_is_the_plain_one(
    rows: int, trained_head: bool, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bases.interface.CHUNK_LOGITS", 0)  # chunks of 128 rows
    torch.manual_seed(0)
    weight = torch.randn(50, 16, dtype=torch.float64, requires_grad=trained_head)
    hidden = torch.randn(rows, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(50, (rows,))
    ours = linear_cross_entropy(hidden, weight, targets, smoothing)
    (3 * ours).backward()
    mine = hidden.grad.clone(), weight.grad.clone() if trained_head else None
    hidden.grad = weight.grad = None
    theirs = F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum", label_smoothing=smoothing)
    (3 * theirs).backward()
    torch.testing.assert_close(ours.double(), theirs.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine[0], hidden.grad, rtol=1e-5, atol=1e-5)
    if trained_head:
        torch.testing.assert_close(mine[1], weight.grad, rtol=1e-5, atol=1e-5)


def test_no_logits_are_held_beyond_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix that the loss makes of rows and vocabulary has the rows of a chunk, in both directions."""
    monkeypatch.setattr("bases.interface.CHUNK_LOGITS", 0)
    seen: set[int] = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.ndim == 2 and result.shape[1] == 999:
                seen.add(result.shape[0])
            return result

    hidden = torch.randn(300, 8, requires_grad=True)
    with Watch():
        linear_cross_entropy(hidden, torch.randn(999, 8), torch.randint(999, (300,))).backward()
    # 8: the weight, turned; 1: what becomes a gradient at a time, with no room in the cache
    assert seen == {1, 8, 128, 300 - 2 * 128}


def test_autocast_decides_the_products(model: ChatGLMForConditionalGeneration) -> None:
    hidden, targets = torch.randn(9, 64), torch.arange(9)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = linear_cross_entropy(hidden, model.lm_head.weight, targets)
        logits = model.lm_head(hidden)
    assert logits.dtype == torch.bfloat16
    expected = F.cross_entropy(logits.float(), targets, reduction="sum")
    torch.testing.assert_close(rounded, expected)
    exact = linear_cross_entropy(hidden, model.lm_head.weight, targets)
    assert rounded.dtype == exact.dtype == torch.float32
    assert rounded != exact
