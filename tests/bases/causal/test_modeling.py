"""Every model type: its own numbers, packed rows like samples alone, a cache like the whole sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bases import find_family
from bases.adapter import attach_lora
from bases.causal.types import MODEL_TYPES
from data_handle.data_preprocess import Features
from data_handle.packing import pack
from extraction.decoding.row_cache import RowCache
from tests.helpers.causal_bases import make_base

TYPES = [name for name in MODEL_TYPES if name != "gemma3"]


@pytest.fixture(scope="module", params=TYPES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    directory = make_base(tmp_path_factory.mktemp(request.param), request.param)
    model, _ = find_family(directory).load(directory, load_in_4bit=False, dtype=torch.float32, device="cpu")
    return directory, model


def samples(count: int = 4) -> list[Features]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for index in range(count):
        ids = torch.randint(3, 1500, (20 + 11 * index,), generator=generator).tolist()
        made.append(Features(ids, [-100] * 12 + ids[12:]))
    return made


@torch.no_grad()
def test_numbers_are_those_of_transformers(base: tuple[Path, Any]) -> None:
    directory, model = base
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids = torch.tensor([samples()[3].input_ids])
    torch.testing.assert_close(
        model(input_ids=ids).logits, theirs(input_ids=ids).logits, rtol=1e-4, atol=1e-4
    )
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), ids], dim=1)
    seen = torch.cat([torch.zeros(1, 5, dtype=torch.long), torch.ones_like(ids)], dim=1)
    ours = model(input_ids=padded, attention_mask=seen).logits[:, 5:]
    torch.testing.assert_close(ours, theirs(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_a_packed_row_has_the_gradient_of_its_samples_one_by_one(base: tuple[Path, Any]) -> None:
    directory, _ = base
    family = find_family(directory)
    model, _ = family.load(directory, load_in_4bit=False, dtype=torch.float32, device="cpu")
    targets = family.shape(model.config).targets(["auto"])
    lora = attach_lora(model, rank=2, alpha=4, dropout=0.0, target_modules=targets).train()
    trainable = {name: weight for name, weight in lora.named_parameters() if weight.requires_grad}
    torch.manual_seed(2)
    for weight in trainable.values():
        torch.nn.init.normal_(weight, std=0.1)
    batch = samples()
    total = sum(item.num_targets for item in batch)
    losses = 0.0
    for item in batch:
        loss = lora(input_ids=torch.tensor([item.input_ids]), labels=torch.tensor([item.labels])).loss
        loss = loss * item.num_targets / total
        loss.backward()
        losses += loss.item()
    expected = {name: weight.grad.clone() for name, weight in trainable.items()}
    rows = [batch[:3], batch[3:]]
    for device in (None, torch.device("cpu")):  # with a mask; sample by sample, where no window is in the way
        lora.zero_grad()
        loss = lora(**pack(rows, 112, model.config, device)).loss
        loss.backward()
        assert loss.item() == pytest.approx(losses, rel=1e-5)
        for name, weight in trainable.items():
            assert (weight.grad - expected[name]).norm() / expected[name].norm() < 1e-4, name
    ends = {20: batch[0], 17: batch[1], 19: batch[2]}  # within the windows
    short = [[Features(item.input_ids[:end], item.labels[:end]) for end, item in ends.items()]]
    flat = pack(short, 64, model.config, torch.device("cpu"))
    assert flat["attention_mask"].flatten().tolist() == [20, 17, 19, 8]
    with torch.no_grad():
        masked = lora(**pack(short, 64, model.config)).loss.item()
        assert lora(**flat).loss.item() == pytest.approx(masked, rel=1e-5)


@torch.no_grad()
def test_labels_are_smoothed_in_training_only(base: tuple[Path, Any]) -> None:
    directory, _ = base
    model, _ = find_family(directory).load(directory, load_in_4bit=False, dtype=torch.float32, device="cpu")
    item = samples()[0]
    ids, labels = torch.tensor([item.input_ids]), torch.tensor([item.labels])
    model.label_smoothing = 0.2
    logits = model.eval()(input_ids=ids).logits[0, :-1]
    for training, smoothing in ((False, 0.0), (True, 0.2)):
        expected = torch.nn.functional.cross_entropy(logits, labels[0, 1:], label_smoothing=smoothing)
        torch.testing.assert_close(model.train(training)(input_ids=ids, labels=labels).loss, expected)


@torch.no_grad()
def test_a_cache_by_rows_has_the_logits_of_the_whole_sequences(base: tuple[Path, Any]) -> None:
    directory, model = base
    family = find_family(directory)
    rows = [item.input_ids for item in samples(3)]
    whole = [model(input_ids=torch.tensor([ids])).logits[0] for ids in rows]
    cache, lengths = RowCache(), [0, 0, 0]
    for widths in ([9, 3, 17], [1, 1, 1], [5, 6, 2], [5, 21, 22]):
        parts = [ids[done : done + width] for ids, done, width in zip(rows, lengths, widths, strict=True)]
        slots = torch.tensor(lengths)[:, None] + torch.arange(max(widths))
        ids = torch.tensor([part + [0] * (max(widths) - len(part)) for part in parts])
        keys = int(slots.max()) + 1
        batch = family.next_inputs(slots, torch.tensor([9, 3, 17]), keys, model.config)
        kept = torch.arange(max(widths)) < torch.tensor(widths)[:, None]
        cache.prepare(0, slots, keys)
        logits = model(input_ids=ids, **batch, cache=cache, logits_to_keep=kept).logits
        expected = torch.cat(
            [each[done : done + width] for each, done, width in zip(whole, lengths, widths, strict=True)]
        )
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        lengths = [done + width for done, width in zip(lengths, widths, strict=True)]
