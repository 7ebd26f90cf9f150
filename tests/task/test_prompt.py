"""The wording of a prompt, and a context encoded within its limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from bases.chatglm import ChatGLMTokenizer
from task import prompt
from utils.common_utils import UserError


@pytest.fixture(scope="module")
def tokenizer(root: Path) -> ChatGLMTokenizer:
    return ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny")


def test_the_prompt_is_the_readme_s() -> None:
    context = prompt.build_prompt("《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。")
    assert context == (
        "Instruction: 你现在是一个很厉害的阅读理解器，严格按照人类指令进行回答。\n"
        "Input: 帮我抽取出下面句子中的三元组信息，返回JSON：\n\n"
        "《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。\nAnswer: "
    )


@pytest.mark.parametrize(
    ("sentence", "instruction"),
    [("一句话。", "抽取"), ("含\n\n空行\nAnswer: 的话", "两行的\n指令："), ("", "空"), ("{花括号}", "抽取")],
)
def test_split_context_is_the_inverse(sentence: str, instruction: str) -> None:
    context = prompt.build_prompt(sentence, instruction)
    head, middle, tail = prompt.split_context(context)
    assert head + middle + tail == context
    assert middle == sentence
    assert tail == "\nAnswer: "


def test_split_context_of_another_notation() -> None:
    assert prompt.split_context("请回答：你好吗？") == ("", "请回答：你好吗？", "")


def test_encode_prompt_cuts_the_sentence_only(tokenizer: ChatGLMTokenizer) -> None:
    sentence = "天地玄黄宇宙洪荒日月盈昃辰宿列张" * 20
    whole = tokenizer.encode_plain(prompt.build_prompt(sentence))
    suffix = [tokenizer.gmask_token_id, tokenizer.bos_token_id]
    assert prompt.encode_prompt(tokenizer, prompt.build_prompt(sentence), 2000) == (whole + suffix, False)
    ids, truncated = prompt.encode_prompt(tokenizer, prompt.build_prompt(sentence), 60)
    assert truncated
    assert len(ids) == 60
    assert ids[-2:] == suffix
    kept = prompt.split_context(tokenizer.decode(ids[:-2]) + " ")[1]
    assert sentence.startswith(kept)
    assert 5 < len(kept) < 60
    head_ids = tokenizer.encode_plain(prompt.build_prompt(""))
    with pytest.raises(UserError, match=f"max_source_seq_len={len(head_ids)} 太小"):
        prompt.encode_prompt(tokenizer, prompt.build_prompt(sentence), len(head_ids))


def test_an_enormous_sentence_is_encoded_in_part(tokenizer: ChatGLMTokenizer) -> None:
    context = prompt.build_prompt("很长的句子。" * 1_000_000)
    ids, truncated = prompt.encode_prompt(tokenizer, context, 100)
    assert truncated
    assert len(ids) == 100


def test_typed_special_tokens_are_plain_text(tokenizer: ChatGLMTokenizer) -> None:
    text = "[gMASK]<sop>[MASK]<eop><pad></s>［ｇＭＡＳＫ］ \ud800"
    control = {
        tokenizer.convert_tokens_to_ids(piece)
        for piece in ("[gMASK]", "<sop>", "[MASK]", "<eop>", "<pad>", "</s>")
    }
    ids = tokenizer.encode_plain(text)
    assert not control & set(ids)
    assert tokenizer.decode(ids).startswith("[gMASK]<sop>[MASK]<eop><pad></s>[gMASK]")
    assert control & set(tokenizer.encode(text, add_special_tokens=False))  # as the published one does
