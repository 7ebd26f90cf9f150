"""Equality of the native tokenizer with figures of the published one (see fixtures/README.md)."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from packaging.version import Version

from bases.chatglm import ChatGLMConfig, ChatGLMTokenizer
from bases.chatglm.layout import get_position_ids, get_prefix_lm_mask

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tokenizer"
PUBLISHED_DIR = os.environ.get("CHATGLM_6B_DIR", "")
needs_published_model = pytest.mark.skipif(
    not PUBLISHED_DIR or not (Path(PUBLISHED_DIR) / "ice_text.model").is_file(),
    reason="CHATGLM_6B_DIR does not name a directory with the published ice_text.model",
)


@cache
def read(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))


@cache
def load_tokenizer(name: str) -> ChatGLMTokenizer:
    """Return the tokenizer that the figures `name` were made with."""
    if name == "small":
        return ChatGLMTokenizer.from_pretrained(FIXTURES / "small")
    num_image_tokens = read(name)["num_image_tokens"]
    return ChatGLMTokenizer.from_pretrained(PUBLISHED_DIR, num_image_tokens=num_image_tokens)


@pytest.fixture(
    params=[
        "small",
        pytest.param("chatglm-6b", marks=needs_published_model),
        pytest.param("chatglm-6b-with-images", marks=needs_published_model),
    ]
)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def figures(name: str) -> dict[str, Any]:
    return read(name)


@pytest.fixture
def tokenizer(name: str) -> ChatGLMTokenizer:
    return load_tokenizer(name)


def assert_all_equal(results: list[tuple[Any, Any, Any]]) -> None:
    """Compare (what it is of, ours, theirs) and show every difference, not the first one alone."""
    assert results
    different = [(source, ours, theirs) for source, ours, theirs in results if ours != theirs]
    assert not different, f"{len(different)} of {len(results)} differ: {different[:10]}"


def test_there_are_enough_texts(figures: dict[str, Any]) -> None:
    texts = read("texts")["texts"]
    assert len(set(texts)) == len(texts) == len(figures["texts"]) >= 200


def test_special_ids(tokenizer: ChatGLMTokenizer, figures: dict[str, Any]) -> None:
    ours = {key: getattr(tokenizer, f"{key}_token_id") for key in figures["special_ids"]}
    assert ours == figures["special_ids"]
    assert tokenizer.vocab_size == len(tokenizer) == figures["vocab_size"]


def test_encode(tokenizer: ChatGLMTokenizer, figures: dict[str, Any]) -> None:
    suffix = [figures["special_ids"]["gmask"], figures["special_ids"]["bos"]]
    pairs = list(zip(read("texts")["texts"], figures["texts"], strict=True))
    assert_all_equal(
        [(text, tokenizer.encode(text, add_special_tokens=False), row[0]) for text, row in pairs]
    )
    assert_all_equal([(text, tokenizer.encode(text), row[0] + suffix) for text, row in pairs])
    assert_all_equal([(text, tokenizer(text)["input_ids"], row[0] + suffix) for text, row in pairs])


@pytest.mark.skipif(
    Version(sentencepiece.__version__) >= Version("0.2.2"),
    reason="from 0.2.2 on, sentencepiece puts pieces of equal score in another order",
)
def test_order_of_pieces_of_equal_score(tokenizer: ChatGLMTokenizer, figures: dict[str, Any]) -> None:
    pairs = zip(read("texts")["ties"], figures["ties"], strict=True)
    assert_all_equal([(text, tokenizer.encode(text, add_special_tokens=False), ids) for text, ids in pairs])


def test_tokenize(tokenizer: ChatGLMTokenizer, figures: dict[str, Any]) -> None:
    pairs = list(zip(read("texts")["texts"], figures["texts"], strict=True))
    assert_all_equal([(text, tokenizer.tokenize(text), row[1]) for text, row in pairs])
    assert_all_equal([(row[1], tokenizer.convert_tokens_to_ids(row[1]), row[0]) for _, row in pairs])
    assert_all_equal([(row[0], tokenizer.convert_ids_to_tokens(row[0]), row[1]) for _, row in pairs])


def test_decode(tokenizer: ChatGLMTokenizer, figures: dict[str, Any]) -> None:
    suffix = [figures["special_ids"]["gmask"], figures["special_ids"]["bos"]]
    results = []
    for ids, _, plain, with_special, skipped, as_it_is in figures["texts"]:
        results += [
            (ids, tokenizer.decode(ids), plain),
            (ids, tokenizer.decode(ids + suffix), with_special),
            (ids, tokenizer.decode(ids + suffix, skip_special_tokens=True), skipped),
            (ids, tokenizer.decode(ids, clean_up_tokenization_spaces=False), as_it_is),
        ]
    assert_all_equal(results)


def test_decode_ids_that_no_text_gives(tokenizer: ChatGLMTokenizer, figures: dict[str, Any]) -> None:
    assert_all_equal([(ids, tokenizer.decode(ids), decoded) for ids, decoded, _ in figures["ids"]])
    assert_all_equal(
        [
            (ids, tokenizer.decode(ids, skip_special_tokens=True), skipped)
            for ids, _, skipped in figures["ids"]
        ]
    )
    assert_all_equal(
        [(ids, tokenizer.decode(torch.tensor(ids)), decoded) for ids, decoded, _ in figures["ids"] if ids]
    )
    every_seventh = sorted({index for ids, _, _ in figures["ids"] for index in ids})[::7]
    assert tokenizer.convert_ids_to_tokens(every_seventh) == figures["pieces_of_ids"]


def test_pairs(tokenizer: ChatGLMTokenizer, figures: dict[str, Any]) -> None:
    results = []
    for (first, second), row in zip(read("texts")["pairs"], figures["pairs"], strict=True):
        ids, plain, decoded, skipped = row
        results += [
            ((first, second), tokenizer.encode(first, second), ids),
            ((first, second), tokenizer.encode(first, second, add_special_tokens=False), plain),
            (ids, tokenizer.decode(ids), decoded),
            (ids, tokenizer.decode(ids, skip_special_tokens=True), skipped),
        ]
    assert_all_equal(results)


def test_truncation(tokenizer: ChatGLMTokenizer, figures: dict[str, Any]) -> None:
    assert_all_equal(
        [
            (text, tokenizer.encode(text, truncation=True, max_length=length), ids)
            for (text, length), ids in zip(read("texts")["truncated"], figures["truncated"], strict=True)
        ]
    )


def test_left_padding(tokenizer: ChatGLMTokenizer, figures: dict[str, Any]) -> None:
    ids = figures["special_ids"]
    config = ChatGLMConfig(
        mask_token_id=ids["mask"],
        gmask_token_id=ids["gmask"],
        bos_token_id=ids["bos"],
        eos_token_id=ids["eos"],
        pad_token_id=ids["pad"],
    )
    for texts, published in zip(read("texts")["batches"], figures["batches"], strict=True):
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        input_ids, attention_mask = batch["input_ids"], batch["attention_mask"]
        assert input_ids.tolist() == published["input_ids"], texts
        assert attention_mask.tolist() == published["attention_mask"], texts
        assert get_position_ids(input_ids, config, attention_mask).tolist() == published["position_ids"], (
            texts
        )
        if published["masked"] is None:
            continue
        visible = get_prefix_lm_mask(input_ids, config, attention_mask)[:, 0]
        masked = torch.tensor(
            [[[char == "1" for char in row] for row in rows] for rows in published["masked"]]
        )
        real = attention_mask.bool()
        assert torch.equal(visible[real], ~masked[real]), texts


def test_plain_encoding_is_the_published_one_without_special_tokens_in_the_text(
    tokenizer: ChatGLMTokenizer, figures: dict[str, Any]
) -> None:
    specials = ("<sop>", "<eop>", "<unk>", "<pad>", "[MASK]")
    results = [
        (text, tokenizer.encode_plain(text), row[0])
        for text, row in zip(read("texts")["texts"], figures["texts"], strict=True)
        if not any(special in text for special in specials)
    ]
    assert len(results) >= 200
    assert_all_equal(results)


def test_saved_tokenizer_gives_the_same_ids(
    tokenizer: ChatGLMTokenizer, figures: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = ChatGLMTokenizer.from_pretrained(tmp_path)
    texts = read("texts")["texts"]
    assert_all_equal(
        [
            (text, again.encode(text, add_special_tokens=False), row[0])
            for text, row in zip(texts, figures["texts"], strict=True)
        ]
    )
    assert_all_equal([(row[0], again.decode(row[0]), row[2]) for row in figures["texts"]])


@needs_published_model
def test_the_known_round_of_a_chat() -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(PUBLISHED_DIR)
    ids = [53, 6945, 5, 8, 42, 4, 64286, 12, 130008]
    assert tokenizer.encode("[Round 0]\n问：\t", add_special_tokens=False) == ids
