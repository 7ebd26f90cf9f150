"""Tokens as bytes."""

from __future__ import annotations

from pathlib import Path

from bases.chatglm import ChatGLMTokenizer
from extraction.decoding.vocabulary import COMPATIBLE, Vocabulary, vocabulary_of


def test_tokens_as_bytes(root: Path) -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny")
    vocabulary = vocabulary_of(tokenizer, 6080)
    assert vocabulary_of(tokenizer, 6080) is vocabulary
    text = "张 a\n\t   𠮷{"
    assert b"".join(vocabulary.token_bytes[token] for token in vocabulary.encode(text)).decode() == text
    assert vocabulary.encode_start("[]").decode() == " []"
    assert {tokenizer.eos_token_id, tokenizer.gmask_token_id, 6079} <= vocabulary.special_ids
    assert len(vocabulary.token_bytes) == 6080


def test_what_strangers_ask_for_is_kept_within_bounds(root: Path) -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny")
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    (token,) = vocabulary.encode("张")
    for number in range(COMPATIBLE + 5):  # as forced by the names of schemas that requests bring along
        assert token in vocabulary.compatible_with(f"张{number}".encode())
    assert vocabulary.compatible_with.cache_info().currsize == COMPATIBLE
