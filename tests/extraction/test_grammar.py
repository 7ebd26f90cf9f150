"""The grammar of answers: what it accepts, forces and masks, and how names and values come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bases.chatglm import ChatGLMTokenizer
from extraction.decoding.grammar import AnswerGrammar, Constraint
from extraction.result import Span
from task.prompt import split_context
from task.schema import Combination, Schema
from task.triplets import Triplet, format_target, is_triplet_target, parse_target

FILM = "《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。"
SCHEMA = Schema(frozenset({Combination("导演", "影视作品", "人物"), Combination("片长", "影视作品", "１")}))


@pytest.fixture(scope="module")
def tokenizer(root: Path) -> Any:
    return ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny")


def accepts(grammar: AnswerGrammar, sentence: str, answer: str) -> bool:
    """Tell whether the grammar lets the tokens of training write an answer, and ends with it."""
    matcher = grammar.matcher(grammar.source(sentence))
    tokens = grammar.tokenizer.encode_plain(answer)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_stopped()


def grammar_of(tokenizer: Any, schema: Schema | None = SCHEMA, free_values: bool = False) -> AnswerGrammar:
    return AnswerGrammar(tokenizer, len(tokenizer), Constraint(schema, free_values))


def test_every_answer_of_the_data_is_accepted_and_forced_as_in_training(root: Path, tokenizer: Any) -> None:
    lines = (root / "data" / "mixed_dev_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if is_triplet_target(record["target"])]
    grammar = grammar_of(tokenizer, Schema.from_targets(record["target"] for record in records))
    total = forced_total = 0
    for record in records:
        matcher = grammar.matcher(grammar.source(split_context(record["context"])[1]))
        tokens = tokenizer.encode_plain(record["target"])
        place = 0
        while place < len(tokens):
            if forced := matcher.compute_ff_tokens():
                assert forced == tokens[place : place + len(forced)]
            step = forced or tokens[place : place + 1]
            assert matcher.consume_tokens(step), record
            place += len(step)
            forced_total += len(forced)
        assert matcher.is_stopped()
        total += len(tokens)
    assert len(records) > 100
    assert forced_total / total > 0.6


@pytest.mark.parametrize(
    ("change", "schema_holds", "values_hold"),
    [
        ({}, True, True),
        ({"object": "娘家的故事"}, True, True),
        ({"object": "张三"}, True, False),
        ({"object": "玲张"}, True, False),
        ({"subject": ""}, False, False),
        ({"predicate": "主演"}, False, True),
        ({"subject_type": "图书作品"}, False, True),
    ],
)
def test_what_is_allowed(
    tokenizer: Any, change: dict[str, str], schema_holds: bool, values_hold: bool
) -> None:
    triplet = Triplet("导演", "人物", "影视作品", "张玲", "娘家的故事第二部")._replace(**change)
    answer = format_target([triplet])
    assert accepts(grammar_of(tokenizer), FILM, answer) == (schema_holds and values_hold)
    assert accepts(grammar_of(tokenizer, None), FILM, answer) == (values_hold and "" not in triplet)
    assert accepts(grammar_of(tokenizer, SCHEMA, True), FILM, answer) == schema_holds
    assert accepts(grammar_of(tokenizer, None, True), FILM, answer) == ("" not in triplet)


def test_empty_list_and_broken_answers(tokenizer: Any) -> None:
    grammar = grammar_of(tokenizer)
    whole = format_target([Triplet("导演", "人物", "影视作品", "张玲", "娘家的故事第二部")] * 2)
    assert accepts(grammar, FILM, format_target([]))
    assert accepts(grammar, FILM, whole)
    assert not accepts(grammar, FILM, whole[:-5])
    assert not accepts(grammar, FILM, whole + "。")
    assert not accepts(grammar, FILM, whole.replace("json", ""))


@pytest.mark.parametrize("free_values", [False, True])
def test_values_with_quotes_and_backslashes_stay_json(tokenizer: Any, free_values: bool) -> None:
    sentence = '他说"a\\b"\n完'
    grammar = grammar_of(tokenizer, SCHEMA, free_values)
    triplet = Triplet("导演", "人物", "影视作品", '"a\\b"\n完', "他")
    assert accepts(grammar, sentence, format_target([triplet]))
    (parsed,) = parse_target(format_target([triplet]))
    assert grammar.as_typed(parsed, grammar.source(sentence))[0] == triplet
    assert not accepts(grammar, sentence, format_target([triplet]).replace('\\"', '"'))
    assert not accepts(grammar, sentence, format_target([triplet]).replace("\\\\b", "\\x"))


def test_values_and_names_come_back_as_typed(tokenizer: Any) -> None:
    sentence = "片名：ＡＢＣ㈱，片长９０分钟  e\u0301"
    grammar = grammar_of(tokenizer)
    source = grammar.source(sentence)
    assert source.text == "片名:ABC(株),片长90分钟  é"
    triplet, object_span, subject_span = grammar.as_typed(
        Triplet("片长", "1", "影视作品", "90分钟", "ABC(株)"), source
    )
    assert triplet == Triplet("片长", "１", "影视作品", "９０分钟", "ＡＢＣ㈱")
    assert (object_span, subject_span) == (Span(10, 14), Span(3, 7))
    assert source.find("é") == Span(16, 18)
    assert source.find("株") is None  # only a part of a character as typed
    assert source.find("(株") is None


@pytest.mark.parametrize("free_values", [False, True])
@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("甲\n乙", True),
        ("\n", False),
        ("\t ", False),
        ("\\n", True),
        ('"', False),
        ("\n，", False),
        ("\\", False),
        ("《》", False),
        ("，乙", True),
        ("乙", True),
        ("9", True),
        ("½", True),
    ],
)
def test_every_value_holds_a_letter_a_digit_or_an_ideograph(
    tokenizer: Any, free_values: bool, value: str, accepted: bool
) -> None:
    grammar = grammar_of(tokenizer, free_values=free_values)
    sentence = '甲\n乙，\n，乙\t "\\n《》9 ½'
    assert value in sentence
    for fields in ((value, "甲"), ("甲", value)):
        answer = format_target([Triplet("导演", "人物", "影视作品", *fields)])
        assert accepts(grammar, sentence, answer) is accepted
    names = format_target([Triplet(value, "人物", value, "甲", "乙")])
    assert accepts(grammar_of(tokenizer, None, free_values), sentence, names) is accepted


def test_blanks_whose_number_is_forced(tokenizer: Any) -> None:
    """llguidance 1.9.1 forgets in its mask the fourth blank here, which has no token by itself yet."""
    grammar = grammar_of(tokenizer)
    sentence, item = "甲3    乙", format_target([Triplet("导演", "人物", "影视作品", "3", "甲")])
    matcher = grammar.matcher(grammar.source(sentence))
    assert matcher.consume_tokens(tokenizer.encode_plain(item[: item.index('3"') + 1]))
    assert matcher.consume_token(tokenizer.sp_model.piece_to_id("<|blank_3|>"))
    assert matcher.compute_ff_tokens() == []
    written = {grammar.vocabulary.token_bytes[token] for token in grammar.mask(matcher).nonzero()[0]}
    assert b" " in written
    assert all(text.startswith(b" ") for text in written)
