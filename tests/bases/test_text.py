"""ChatGLM's pieces as text: white space there and back, bytes of pieces, units of a normalised text."""

from __future__ import annotations

from pathlib import Path

import pytest

from bases.chatglm import ChatGLMTokenizer, text
from bases.chatglm.files import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(root: Path) -> ChatGLMTokenizer:
    return load_tokenizer(root / "models" / "chatglm-tiny")


def test_white_space_there_and_back() -> None:
    typed = "a\nb\tc  d" + " " * 80 + "e f"
    written = "a<n>b<|tab|>c<|blank_2|>d<|blank_80|>e f"
    assert text.write_white_space(typed) == written
    assert text.read_white_space(written) == typed
    assert text.write_white_space(" " * 83) == "<|blank_80|><|blank_3|>"
    for piece in ("<|blank_1|>", "<|blank_81|>", "<|blank_02|>", "<|blank_|>"):  # no pieces
        assert text.read_white_space(piece) == piece
    assert text.encodable("a\ud800b") == "a?b"


def test_bytes_of_every_token_make_up_a_text(tokenizer: ChatGLMTokenizer) -> None:
    written = tokenizer.token_bytes(6080)
    assert len(written) == 6080
    for special in (tokenizer.eos_token_id, tokenizer.gmask_token_id, tokenizer.pad_token_id, 6079):
        assert written[special] is None
    typed = "《雨夜》\n\t由  张三，𠮷 执导"
    ids = tokenizer.encode_inside(typed)
    assert b"".join(written[index] or b"?" for index in ids).decode() == typed.replace("，", ",")


def test_units_point_at_what_was_typed(tokenizer: ChatGLMTokenizer) -> None:
    typed = "㈱ １２\n   ﬁn"
    units = tokenizer.normalised_units(typed)
    assert [(unit.text, typed[unit.start : unit.end]) for unit in units] == [
        ("(株)", "㈱"),
        (" ", " "),
        ("1", "１"),
        ("2", "２"),
        ("\n", "\n"),
        ("   ", "   "),
        ("fi", "ﬁ"),
        ("n", "n"),
    ]


def test_frames_of_prompt_and_answer(tokenizer: ChatGLMTokenizer) -> None:
    plain = tokenizer.encode_plain("你好 [gMASK] <eop>")
    special = (tokenizer.gmask_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert not set(special) & set(plain)
    assert tokenizer.prompt_ids("你好 [gMASK] <eop>") == [*plain, *special[:2]]
    assert tokenizer.answer_ids("你好 [gMASK] <eop>") == [*plain, special[2]]
    assert tokenizer.can_write("𠮷")  # byte by byte
