"""Prompts: which ask for triplets, and where a long sentence is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bases.chatglm import ChatGLMTokenizer
from extraction.splitting import asks_for_triplets, split_sentence
from task.prompt import build_prompt
from utils.common_utils import UserError

FILM = "《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。"


@pytest.fixture(scope="module")
def tokenizer(root: Path) -> Any:
    return ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny")


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
