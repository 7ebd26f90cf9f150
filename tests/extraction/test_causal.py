"""Extraction with causal models: equal to one token at a time, whatever the tokenizer, and never invalid."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bases import find_family
from bases.causal.tokenization import load_tokenizer
from extraction.decoding.decoder import ConstrainedDecoder
from extraction.decoding.grammar import AnswerGrammar, Constraint
from extraction.decoding.vocabulary import vocabulary_of
from extraction.extractor import TripletExtractor
from task.prompt import build_prompt, encode_prompt, split_context
from task.schema import Schema
from tests.extraction.test_guarantees import HOSTILE, SCHEMA, check, random_sentence
from tests.helpers.causal_bases import CHATML, byte_level, make_base, pieces
from tests.helpers.decoding_reference import greedy_one_by_one

BUDGET = 80
KINDS: dict[str, dict[str, Any]] = {
    "qwen3": {"tokenizer": byte_level(), "template": CHATML},
    "llama": {"tokenizer": pieces(prefix=True), "template": None},
    "gemma3_text": {"tokenizer": pieces(), "template": None, "sliding_window": 64},
    "glm": {"tokenizer": byte_level(), "template": None},
}


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A model of random weights that is not content with empty lists."""
    directory = make_base(tmp_path_factory.mktemp(request.param), request.param, **KINDS[request.param])
    model, tokenizer = find_family(directory).load(
        directory, load_in_4bit=False, dtype=torch.float32, device="cpu"
    )
    extractor = make_extractor((model, tokenizer))
    for seed in range(20):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        if all(extraction.triplets for extraction in extractor.extract([HOSTILE[-1], HOSTILE[6]])):
            return model, tokenizer
    raise AssertionError("no seed gives triplets")


@pytest.fixture(scope="module")
def data(root: Path) -> tuple[list[str], Schema]:
    lines = (root / "data" / "mixed_train_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for line in lines if (record := json.loads(line))["target"].startswith("```")]
    sentences = [split_context(record["context"])[1] for record in records]
    return sentences, Schema.from_targets(record["target"] for record in records)


def make_extractor(base: tuple[Any, Any], **options: Any) -> TripletExtractor:
    options = {"max_source_seq_len": 400, "max_new_tokens": 120, "constraint": Constraint(SCHEMA)} | options
    return TripletExtractor(*base, batch_size=8, **options)


def check_equal(base: tuple[Any, Any], sentences: list[str], schema: Schema, **options: Any) -> None:
    model, tokenizer = base
    grammar = AnswerGrammar(tokenizer, model.config.vocab_size, Constraint(schema))
    decoder = ConstrainedDecoder(model, grammar, max_new_tokens=BUDGET, **options)
    prompts = [encode_prompt(tokenizer, build_prompt(sentence), 512).input_ids for sentence in sentences]
    answers = dict(decoder.decode(prompts, sentences))
    for index, (prompt, sentence) in enumerate(zip(prompts, sentences, strict=True)):
        expected = greedy_one_by_one(model, grammar, prompt, sentence, BUDGET)
        assert answers[index].token_ids == expected, sentence
    assert decoder.statistics.row_passes < 0.5 * decoder.statistics.tokens


def test_equal_to_one_token_at_a_time(base: tuple[Any, Any], data: tuple[list[str], Schema]) -> None:
    sentences, schema = data
    check_equal(base, sentences[:10], schema, batch_size=4, with_scores=True)


@pytest.mark.soak
def test_equal_over_many_sentences(base: tuple[Any, Any], data: tuple[list[str], Schema]) -> None:
    sentences, schema = data
    check_equal(base, sentences[:500], schema, batch_size=16)


def check_hostile(base: tuple[Any, Any], sentences: list[str], **options: Any) -> int:
    """Extract; return how many triplets came of it, each of them as it should be."""
    extractor, found = make_extractor(base, **options), 0
    vocabulary = vocabulary_of(base[1], base[0].config.vocab_size)
    assert vocabulary.special_ids
    for sentence, extraction in zip(sentences, extractor.extract(sentences), strict=True):
        check(sentence, extraction)
        found += len(extraction.triplets)
    return found


def test_hostile_sentences(base: tuple[Any, Any]) -> None:
    rng = random.Random(0)
    assert check_hostile(base, [*HOSTILE, *(random_sentence(rng) for _ in range(22))]) > 10


@pytest.mark.soak
def test_thousands_of_hostile_sentences(base: tuple[Any, Any]) -> None:
    rng, found = random.Random(1), 0
    for _ in range(13):
        found += check_hostile(base, [random_sentence(rng) for _ in range(200)], max_new_tokens=80)
    assert found > 1000


def test_free_answers_end_with_the_models_own_token(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    extractor = make_extractor(base, constraint=None, max_new_tokens=6)
    assert extractor.extract_one("甲是乙。").truncated
    with torch.no_grad():
        head, model.lm_head = model.lm_head, torch.nn.Linear(32, model.config.vocab_size)
        model.lm_head.weight.zero_(), model.lm_head.bias.zero_()
        model.lm_head.bias[tokenizer.eos_token_id] = 1.0
    extraction = extractor.extract_one("甲是乙。")
    model.lm_head = head
    assert not extraction.truncated and extraction.raw == ""


REAL = [Path(path) for path in os.environ.get("CAUSAL_TOKENIZERS", "").split(os.pathsep) if path]


@pytest.mark.soak
@pytest.mark.skipif(not REAL, reason="CAUSAL_TOKENIZERS names directories with published tokenizers")
@pytest.mark.parametrize("directory", REAL, ids=lambda path: path.name)
def test_published_tokenizers(directory: Path, data: tuple[list[str], Schema]) -> None:
    """Bytes are those of the text, spelled control tokens never steer, frames are known."""
    tokenizer = load_tokenizer(directory)
    table = tokenizer.token_bytes(len(tokenizer))
    rng = random.Random(2)
    for text in [*data[0], *HOSTILE, *(random_sentence(rng) for _ in range(500))]:
        expected = "".join(unit.text for unit in tokenizer.normalised_units(text))
        parts = [table[index] for index in tokenizer.encode_inside(text)]
        assert b"".join(part for part in parts if part is not None).decode() == expected
        assert None not in parts
    for name in tokenizer.control_names:
        assert None not in [table[index] for index in tokenizer.encode_plain(f"甲{name}乙")], name
