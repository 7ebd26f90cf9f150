"""A tokenizer.json as a description: which parts it may have, and what its tokens write.

The file is JSON, and says how text is prepared, split and joined. Only what the tokenizers of published
decoder-only models have is accepted: byte-level BPE, and BPE over SentencePiece's pieces that falls back to
bytes. Both write every text, so that a constraint on characters is one on tokens.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from bases.interface import CheckpointError
from bases.model_dir import checked_file, refuse_lfs_pointer
from utils.small_json import parse_small_json, read_small_file

MAX_FILE_BYTES = 64 * 2**20  # Gemma 3's has 33 MB
MAX_PARTS = 4_000_000  # lists and objects: a list of nothing takes thirty times its bytes in memory
MAX_TOKENS = 1_000_000
TOKENIZER_FILE = "tokenizer.json"
BLANK = "▁"
_NORMALIZERS = {"NFC", "NFKC", "Replace", "Prepend", "Sequence"}
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def byte_alphabet() -> dict[str, int]:
    """Return the characters that byte-level BPE writes bytes with, and their bytes (as GPT-2 has them)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


class Description(NamedTuple):
    """What a tokenizer.json says.

    Attributes:
        content: of the file, ready for the library: what a user's text must never become is marked.
        written: by id, what a token writes in the middle of a text; absent for those that no text becomes.
        control: ids of the latter by name.
        blank: what pieces have for a blank; "" in a byte-level tokenizer.
    """

    content: dict[str, Any]
    written: dict[int, bytes]
    control: dict[str, int]
    blank: str


def read_description(model_dir: Path) -> Description:
    """Read a directory's tokenizer.json.

    Raises:
        CheckpointError: it is missing, damaged, or of another kind than the family knows.
    """
    path = checked_file(model_dir, TOKENIZER_FILE)
    refuse_lfs_pointer(path)
    try:
        text = read_small_file(path, MAX_FILE_BYTES)
        if text.count(b"[") + text.count(b"{") > MAX_PARTS:
            raise ValueError(f"里面的列表和对象超过了 {MAX_PARTS:,} 个")
        content = parse_small_json(text.decode("utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError("不是 JSON 对象")
    except FileNotFoundError as error:
        raise CheckpointError(f"模型目录 {model_dir} 缺少 {TOKENIZER_FILE}，请检查下载是否完整。") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"无法使用 {path}：{error}") from error
    try:
        return describe(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"无法使用 {path}：它不是 tokenizers 写的分词器（{error!r}）。") from error
    except ValueError as error:
        raise CheckpointError(f"无法使用 {path}：{error}") from error


def describe(content: dict[str, Any]) -> Description:
    """Tell what the tokens of a tokenizer write.

    Raises:
        ValueError: it is of a kind that the family does not know; the message is in Chinese.
        KeyError, TypeError, AttributeError: it is no tokenizer.
    """
    model = content["model"]
    vocab: dict[str, int] = model["vocab"]
    if model.get("type", "BPE") != "BPE" or not isinstance(vocab, dict):
        raise ValueError(f"只支持 BPE 分词器，它是 {str(model.get('type'))[:40]}。")
    added = content.get("added_tokens") or []
    ids = [*vocab.values(), *(token["id"] for token in added)]
    if not ids or not all(type(index) is int and 0 <= index < MAX_TOKENS for index in ids):
        raise ValueError(f"词表的编号应当是 0 到 {MAX_TOKENS - 1} 的整数。")
    if model.get("dropout"):
        raise ValueError("它的 BPE 带有 dropout，同一句话会有不同的分词。")
    kinds = {part["type"] for part in parts_of(content.get("normalizer"), "normalizers")}
    if not kinds <= _NORMALIZERS:
        raise ValueError(f"不支持它的规范化方式 {'、'.join(sorted(kinds - _NORMALIZERS))}。")
    for part in parts_of(content.get("normalizer"), "normalizers"):
        _refuse_growth(part)
    decoders = {part["type"] for part in parts_of(content.get("decoder"), "decoders")}
    blank = "" if "ByteLevel" in decoders else BLANK
    written = _bytes_of_pieces(vocab, model) if blank else _bytes_of_byte_level(vocab)
    if {bytes([byte]) for byte in range(256)} - set(written.values()) - _NEVER_IN_UTF8:
        raise ValueError("它没有每个字节的词元，有的字写不出来。")
    # Added tokens are found in a text before it is split. White space may become one; all others steer the
    # model, or stand for something that text is not, whatever the file says of them.
    control = {token["content"]: token["id"] for token in added if token["content"].strip(" \n\r\t" + blank)}
    for token in added:
        index, text = token["id"], token["content"]
        token["special"] = text in control
        if text in control:
            token["normalized"] = False
            written.pop(index, None)
        elif not blank or index not in written:
            written[index] = (text.replace(blank, " ") if blank else text).encode()
    if model.get("byte_fallback"):
        written.pop(vocab.get(model.get("unk_token") or "", -1), None)  # bytes stand in for it
    return Description(content, written, control, blank)


# A byte-level vocabulary may lack what no UTF-8 has (and what only control characters beyond Unicode begin).
_NEVER_IN_UTF8 = {bytes([byte]) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}


def _refuse_growth(step: dict[str, Any]) -> None:
    """Refuse a step of normalising that makes texts longer: a dozen of them would make one endless.

    Raises:
        ValueError: it does.
    """
    replaced = (step.get("pattern") or {}).get("String") if step["type"] == "Replace" else "▁"
    put = step.get("content" if step["type"] == "Replace" else "prepend", "")
    if len(put) > max(len(replaced or ""), 1):
        raise ValueError(f"它的规范化会让文字变长（{step['type']}）。")


def parts_of(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """Return the steps of a part of a tokenizer.json, sequences taken apart."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [step for each in part[inner] for step in parts_of(each, inner)]


def _bytes_of_byte_level(vocab: dict[str, int]) -> dict[int, bytes]:
    alphabet = byte_alphabet()
    return {
        index: bytes(map(alphabet.__getitem__, piece))
        for piece, index in vocab.items()
        if piece and alphabet.keys() >= set(piece)
    }


def _bytes_of_pieces(vocab: dict[str, int], model: dict[str, Any]) -> dict[int, bytes]:
    if not model.get("byte_fallback"):
        raise ValueError("它没有 byte_fallback，有的字写不出来。")
    written = {}
    for piece, index in vocab.items():
        byte = _BYTE_PIECE.fullmatch(piece)
        written[index] = bytes([int(byte[1], 16)]) if byte else piece.replace(BLANK, " ").encode()
    return written
