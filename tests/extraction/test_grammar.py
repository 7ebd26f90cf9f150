"""The grammar of answers and what it is made of: tokens as bytes, sentences as the tokenizer sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bases.chatglm import ChatGLMTokenizer
from extraction.decoding.drafting import draft
from extraction.decoding.grammar import AnswerGrammar, Constraint
from extraction.decoding.source_text import SourceText
from extraction.decoding.vocabulary import vocabulary_of
from extraction.result import Span
from extraction.splitting import asks_for_triplets, split_sentence
from task.prompt import build_prompt, split_context
from task.schema import Combination, Schema
from task.triplets import Triplet, format_target, is_triplet_target, parse_target
from utils.common_utils import UserError

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


def test_units_of_hostile_text(tokenizer: Any) -> None:
    source = SourceText(' "\\\n\t a<n>b<|blank_5|>𠮷\u200b ', tokenizer)
    assert source.text == '"\\\n\t a\nb     𠮷'
    assert source.escaped == '\\"\\\\\\n\\t a\\nb     𠮷'
    dropped = SourceText("▁余华\x0b著\x01", tokenizer)  # by the tokenizer: parts of no value
    assert dropped.text == "余华著"
    assert [dropped.find(value) for value in ("余华", "华著", "著")] == [Span(1, 3), Span(2, 5), Span(4, 5)]
    for sentence in ("", " ", "\u200b", "\u3000 \u3000", "\n´", "\t¨", "\n \t", "，。", "《》……", "☃"):
        assert not SourceText(sentence, tokenizer).has_values


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


def test_characters_that_the_model_cannot_write_are_values_if_they_are_ideographs(tokenizer: Any) -> None:
    plain = SourceText("𠮷，甲", tokenizer)
    assert plain.has_values
    unwritten = SourceText("𠮷，", NoBytes(tokenizer))
    assert unwritten.text == "\ufffd,"
    assert unwritten.solid == {"\ufffd"}
    assert not SourceText("☃，", NoBytes(tokenizer)).has_values


class NoBytes:
    """A tokenizer that can't write what is beyond the basic plane, nor symbols."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def can_write(self, text: str) -> bool:
        return all(character < "\U00010000" and character != "☃" for character in text)

    def normalised_units(self, text: str) -> Any:
        return self._tokenizer.normalised_units(text)


def test_tokens_as_bytes(tokenizer: Any) -> None:
    vocabulary = vocabulary_of(tokenizer, 6080)
    assert vocabulary_of(tokenizer, 6080) is vocabulary
    text = "张 a\n\t   𠮷{"
    assert b"".join(vocabulary.token_bytes[token] for token in vocabulary.encode(text)).decode() == text
    assert vocabulary.encode_start("[]").decode() == " []"
    assert {tokenizer.eos_token_id, tokenizer.gmask_token_id, 6079} <= vocabulary.special_ids
    assert len(vocabulary.token_bytes) == 6080


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


def test_drafts() -> None:
    item = '{"predicate": "主演", "object_type": "人物", "subject_type": "影视作品", "object":'
    earlier = [Triplet("主演", "人物", "影视作品", "林在培", "娘家的故事第二部")]
    after = '", "subject": "'
    subject = '娘家的故事第二部"}, {"predicate": "'
    assert draft(" ```json\n", FILM, []) == '[{"predicate": "'
    assert draft(item + ' "张', FILM, []) == "玲执导" + after + subject
    assert draft(item, FILM, earlier) == (' "何赛飞等主演的电视剧' + after + subject)[:48]
    assert draft(item + ' "张玲", "subject": "', FILM, earlier) == subject
    assert draft(item + ' "张玲", "subject": "娘家', FILM, []) == subject[2:]
    assert draft('{"predicate": "主', FILM, earlier) == ""


def test_prompts_that_ask_for_triplets() -> None:
    assert asks_for_triplets(build_prompt(FILM))
    assert asks_for_triplets(build_prompt(FILM, "列出关系，写成json。"))
    assert not asks_for_triplets(build_prompt("这句话里有三元组和JSON。", "判断情感，正面或负面。"))


def test_long_sentences_are_split_at_their_ends(tokenizer: Any) -> None:
    sentence = "第一句话在这里。第二句话在那里！第三句，没有完" * 12
    pieces = list(split_sentence(tokenizer, build_prompt(sentence), 120))
    assert "".join(text for _, text, _ in pieces) == sentence
    assert [offset for offset, _, _ in pieces] == [
        sum(len(text) for _, text, _ in pieces[:count]) for count in range(len(pieces))
    ]
    assert all(text.endswith(("。", "！")) for _, text, _ in pieces[:-1])
    assert all(len(ids) <= 120 for _, _, ids in pieces)
    assert len(list(split_sentence(tokenizer, build_prompt(FILM), 256))) == 1
    assert (
        "".join(text for _, text, _ in split_sentence(tokenizer, build_prompt("长" * 500), 100)) == "长" * 500
    )
    with pytest.raises(UserError, match="max_source_seq_len=20 太小"):
        list(split_sentence(tokenizer, build_prompt(FILM), 20))
