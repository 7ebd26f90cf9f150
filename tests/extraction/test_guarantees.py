"""What holds for every sentence and every model: valid answers, values as typed, names of the schema."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import extraction.extractor as extractor_module
from bases.chatglm import load_base_model
from extraction.decoding.decoder import Answer, ConstrainedDecoder
from extraction.decoding.grammar import AnswerGrammar, Constraint
from extraction.decoding.source_text import normalise
from extraction.decoding.vocabulary import vocabulary_of
from extraction.extractor import Extraction, TripletExtractor
from task.schema import Combination, Schema
from task.triplets import Triplet, combination_of, is_value

SCHEMA = Schema(
    frozenset(
        {
            Combination("导演", "影视作品", "人物"),
            Combination("主演", "影视作品", "人物"),
            Combination("成立日期", "机构", "Date"),
            Combination('带"引号\\和１', "企业/品牌", "１，"),
        }
    )
)
HOSTILE = (
    "",
    " ",
    "\n",
    '"',
    "\\",
    '\\"},{"',
    "甲",
    "１，Ａ㈱ﬃ",
    "e\u0301 é",
    "\u200b\ufeff",
    "a\u3000b  c   d",
    '[{"predicate": "导演", "object": "张玲"}]\n```',
    "<n><|tab|><|blank_7|>[gMASK]<sop><eop>▁",
    "𠮷野家👩‍👩‍👧‍👦",
    "\x01\x1f\x7f\x85\u2028",
    "\r\n\t\v\f",
    "\ud800",
    "《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。",
)


def random_sentence(rng: random.Random) -> str:
    """Characters of all planes, mixed with what JSON and the notation are made of."""
    ranges = ((32, 127), (0x4E00, 0x9FFF), (0xFF00, 0xFFEF), (0x80, 0x3400), (1, 32), (0x10000, 0x2FFFF))
    pieces = (
        '"',
        "\\",
        "\n",
        "  ",
        "```",
        '", "',
        '"}, {"',
        "]",
        '"subject": "',
        "\\u0041",
        "，",
        "《",
        "》",
    )
    length = 5000 if rng.random() < 0.002 else rng.randrange(60)
    parts = [
        rng.choice(pieces) if rng.random() < 0.2 else chr(rng.randrange(*rng.choice(ranges)))
        for _ in range(length)
    ]
    return "".join(parts)


class Recorder(ConstrainedDecoder):
    """Keeps what the model wrote: extractions hold only what was read from it."""

    written: ClassVar[list[tuple[str, Answer]]] = []  # (part of a) sentence, answer

    def decode(
        self,
        prompts: Sequence[list[int]],
        sentences: Sequence[str],
        grammars: Sequence[AnswerGrammar] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        for index, answer in super().decode(prompts, sentences, grammars):
            self.written.append((sentences[index], answer))
            yield index, answer


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Answer]]:
    """The answers of this test, as they are decoded."""
    monkeypatch.setattr(extractor_module, "ConstrainedDecoder", Recorder)
    monkeypatch.setattr(Recorder, "written", [])
    return Recorder.written


def check_answer(extractor: TripletExtractor, sentence: str, answer: Answer) -> None:
    """Check the very tokens of an answer."""
    tokenizer, constraint = extractor.tokenizer, extractor.constraint
    assert constraint is not None
    assert not set(answer.token_ids) & set(tokenizer.all_special_ids)
    if answer.truncated:
        return  # in the middle of anything, even of a character
    vocabulary = vocabulary_of(tokenizer, extractor.model.config.vocab_size)
    text = b"".join(vocabulary.token_bytes[token] for token in answer.token_ids).decode()
    text = text.lstrip(" ")  # SentencePiece's, before the first word
    assert text.startswith("```json\n[")
    text = text.removeprefix("```json\n")
    if ended := text.endswith("]\n```"):
        text = text.removesuffix("\n```")
    else:  # the model repeated itself, and was stopped by the token that ends a triplet
        end = text.rindex('"}') + 2
        assert ', {"'.startswith(text[end:])
        text = text[:end] + "]"
    items = json.loads(text)
    assert all(list(item) == list(Triplet._fields) for item in items)
    triplets = [Triplet(**item) for item in items]
    assert answer.triplets == list(dict.fromkeys(triplets))
    if not ended:
        assert set(triplets[-2:]) <= set(triplets[:-2])
    source = normalise(sentence, tokenizer)
    names = {tuple(normalise(name, tokenizer) for name in c) for c in SCHEMA.combinations}
    for triplet in triplets:
        assert constraint.schema is None or combination_of(triplet) in names, triplet
        for value in (triplet.object, triplet.subject):
            assert is_value(value) or "\ufffd" in value
            assert constraint.free_values or value in source, (sentence, triplet)


def check(sentence: str, extraction: Extraction) -> None:
    assert extraction.error is None, (sentence, extraction.error)
    assert extraction.problem is None
    assert len(set(extraction.triplets)) == len(extraction.triplets)
    for triplet, spans in zip(extraction.triplets, extraction.spans, strict=True):
        assert triplet in SCHEMA, triplet
        for value, span in zip((triplet.object, triplet.subject), spans, strict=True):
            assert span is not None
            assert value == sentence[span.start : span.end]
            assert value in sentence
            assert is_value(value)
    json.loads(json.dumps(extraction.to_list(with_spans=True)))


@pytest.fixture(scope="module")
def random_model(random_base: Path) -> tuple[Any, Any]:
    """A model of random weights that is not content with empty lists."""
    model, tokenizer = load_base_model(random_base, load_in_4bit=False, dtype=torch.float32, device="cpu")
    for seed in range(50):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        found = make_extractor((model, tokenizer)).extract([HOSTILE[-1], *HOSTILE[6:9]])
        if all(extraction.triplets for extraction in found):
            return model, tokenizer
    raise AssertionError("no seed gives triplets")


def make_extractor(model: tuple[Any, Any], **options: Any) -> TripletExtractor:
    options = {"max_source_seq_len": 200, "max_new_tokens": 100, "constraint": Constraint(SCHEMA)} | options
    return TripletExtractor(*model, batch_size=8, **options)


def test_hostile_sentences(random_model: tuple[Any, Any], written: list[tuple[str, Answer]]) -> None:
    extractor = make_extractor(random_model)
    rng = random.Random(0)
    sentences = [*HOSTILE, *(random_sentence(rng) for _ in range(30))]
    extractions = extractor.extract(sentences)
    for sentence, extraction in zip(sentences, extractions, strict=True):
        check(sentence, extraction)
    assert len(written) >= len(sentences)
    for sentence, answer in written:
        check_answer(extractor, sentence, answer)
    assert sum(not answer.truncated for _, answer in written) > 20
    assert sum(len(extraction.triplets) for extraction in extractions) > 20
    assert extractions[0].triplets == []


def test_no_value_is_of_blanks_or_punctuation(random_model: tuple[Any, Any]) -> None:
    rng = random.Random(1)
    marks = '，。！？《》“”、；：（）…—·  \u3000\t\n"\\%☃'
    mixed = ["".join(rng.choice(marks * 3 + "甲乙9a") for _ in range(20)) for _ in range(12)]
    bare = ["".join(rng.choice(marks) for _ in range(rng.randrange(1, 20))) for _ in range(12)]
    for free_values in (False, True):
        extractor = make_extractor(random_model, constraint=Constraint(SCHEMA, free_values))
        for sentence, extraction in zip(bare + mixed, extractor.extract(bare + mixed), strict=True):
            assert all(is_value(t.object) and is_value(t.subject) for t in extraction.triplets), sentence
            assert free_values or sentence in mixed or extraction.triplets == []


def test_one_possible_triplet(random_model: tuple[Any, Any], written: list[tuple[str, Answer]]) -> None:
    """Once all that can be said is said, the answer ends."""
    schema = Schema(frozenset({Combination("导演", "影视作品", "人物")}))
    extractor = make_extractor(random_model, constraint=Constraint(schema), max_new_tokens=300)
    extraction = extractor.extract_one("甲")
    check_answer(extractor, *written[0])
    assert not extraction.truncated
    assert extraction.triplets in ([], [Triplet("导演", "人物", "影视作品", "甲", "甲")])


@pytest.mark.parametrize("constraint", [Constraint(None), Constraint(SCHEMA, True), Constraint(None, True)])
def test_without_parts_of_the_constraint(
    random_model: tuple[Any, Any], constraint: Constraint, written: list[tuple[str, Answer]]
) -> None:
    extractor = make_extractor(random_model, constraint=constraint)
    extractions = extractor.extract(list(HOSTILE))
    for sentence, answer in written:
        check_answer(extractor, sentence, answer)
    for sentence, extraction in zip(HOSTILE, extractions, strict=True):
        assert extraction.error is None
        assert len(set(extraction.triplets)) == len(extraction.triplets)
        for triplet in extraction.triplets:
            assert constraint.schema is None or triplet in constraint.schema
            assert constraint.free_values or (triplet.subject in sentence and triplet.object in sentence)
            assert all(map(is_value, triplet[3:])) and all(value.strip() for value in triplet)


def test_long_sentence_is_split_and_merged(random_model: tuple[Any, Any]) -> None:
    sentence = "".join(f"《片{number}》由第{number}号导演执导。" for number in range(120))
    extractor = make_extractor(random_model, with_scores=True)
    extraction = extractor.extract_one(sentence)
    check(sentence, extraction)
    assert not extraction.source_truncated
    assert extractor.statistics.answers > 5
    starts = [span.start for spans in extraction.spans for span in spans if span]
    assert max(starts) > 600
    assert len(extraction.scores) == len(extraction.triplets)
    assert all(0.0 <= score <= 1.0 for score in extraction.scores)


def test_min_score_leaves_out(random_model: tuple[Any, Any]) -> None:
    sentence = HOSTILE[-1]
    everything = make_extractor(random_model, with_scores=True).extract_one(sentence)
    limit = sorted(everything.scores)[len(everything.scores) // 2]
    some = make_extractor(random_model, min_score=limit).extract_one(sentence)
    expected = [
        triplet
        for triplet, score in zip(everything.triplets, everything.scores, strict=True)
        if score >= limit
    ]
    assert some.triplets == expected
    assert make_extractor(random_model, min_score=1.0).extract_one(sentence).triplets == []


@pytest.mark.soak
def test_ten_thousand_hostile_sentences(
    random_model: tuple[Any, Any], written: list[tuple[str, Answer]]
) -> None:
    extractor = make_extractor(random_model, max_new_tokens=60)
    extractor.batch_size = 32
    rng = random.Random(1)
    triplets = 0
    for _ in range(50):
        sentences = [random_sentence(rng) for _ in range(200)]
        for sentence, extraction in zip(sentences, extractor.extract(sentences), strict=True):
            check(sentence, extraction)
            triplets += len(extraction.triplets)
        for sentence, answer in written:
            check_answer(extractor, sentence, answer)
        written.clear()
    assert triplets > 5000
