"""Sentences as the tokenizer sees them, and what of them can be a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bases.chatglm import ChatGLMTokenizer
from extraction.decoding.source_text import SourceText
from extraction.result import Span


@pytest.fixture(scope="module")
def tokenizer(root: Path) -> Any:
    return ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny")


def test_units_of_hostile_text(tokenizer: Any) -> None:
    source = SourceText(' "\\\n\t a<n>b<|blank_5|>𠮷\u200b ', tokenizer)
    assert source.text == '"\\\n\t a\nb     𠮷'
    assert source.escaped == '\\"\\\\\\n\\t a\\nb     𠮷'
    dropped = SourceText("▁余华\x0b著\x01", tokenizer)  # by the tokenizer: parts of no value
    assert dropped.text == "余华著"
    assert [dropped.find(value) for value in ("余华", "华著", "著")] == [Span(1, 3), Span(2, 5), Span(4, 5)]
    for sentence in ("", " ", "\u200b", "\u3000 \u3000", "\n´", "\t¨", "\n \t", "，。", "《》……", "☃"):
        assert not SourceText(sentence, tokenizer).has_values


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
