"""A SentencePiece model checked before native code sees it.

SentencePiece 0.2.1 reads out of bounds where a model's normaliser table is forged or a piece is huge (its
issues #1263 and #1269), and later releases order ties differently from the published tokenizer. So the file
is taken apart here first (protocol buffers, `sentencepiece_model.proto`): the table has to be one of those
that are known, and pieces few and short.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from utils.small_json import read_small_file

MAX_FILE_BYTES = 64 * 2**20  # the published one has 2.7 MB
MAX_PIECE_BYTES = 1000
MAX_PIECES = 300_000  # the published one has 130,344
MAX_SPEC_BYTES = 2**20
# SHA-256 of the tables that pieces are normalised with: the published ChatGLM-6B's, the embedded base's,
# and "nmt_nfkc" as the pinned SentencePiece has it (a tokenizer trained with it). None at all is fine too.
KNOWN_TABLES = {
    "0942789e0111452f1cc446f70036e26d24458c3c7858c53cc12ca4d87531279b",
    "1e2c7b43d3ee9755ceaa2ac335e253d8703604e0249ee1e81156c92b46423844",
    "79372c41389c2b9b29bc171017ab5400e352debd686b02670a42bec709015074",
}
_PIECE, _NORMALIZER, _DENORMALIZER = 1, 3, 5  # field numbers of ModelProto
_TABLE = 2  # of NormalizerSpec
# A piece: its text's key, then behind the text score and type, each with its key, as far as they are there.
_PIECE_TEXT = 0x0A
_PIECE_REST = re.compile(rb"(?:\x15(.{4}))?(?:\x18[\x01-\x06])?", re.DOTALL)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6  # kinds of pieces
_BYTE_FALLBACK = b"\x12\x03\x98\x02\x01"  # TrainerSpec with byte_fallback = true
FIRST_CONTROL_PIECES = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")


def with_control_pieces(path: Path) -> bytes:
    """Return a SentencePiece model, made sure of, with the pieces that the first release's code added to it.

    (The file of the first release, for `icetk`, ends before them; later ones hold them, in the same order.)

    Raises:
        OSError, ValueError: see `check_tokenizer_file`.
    """
    content = check_tokenizer_file(path)
    if b"\n\x06[MASK]" in content:
        return content
    pieces = [_piece(text, _CONTROL) for text in FIRST_CONTROL_PIECES]
    pieces += [_piece(text, _USER_DEFINED) for text in ("<|tab|>", *(f"<|blank_{n}|>" for n in range(2, 81)))]
    pieces += [_piece(f"<0x{byte:02X}>", _BYTE) for byte in range(256)]
    # Fields that come again are added to a list, or to the message that was there.
    return content + b"".join(pieces) + _BYTE_FALLBACK


def _piece(text: str, kind: int) -> bytes:
    """Write a piece (score 0) as a field of ModelProto; texts here are shorter than 100 bytes."""
    written = text.encode()
    content = bytes([_PIECE_TEXT, len(written)]) + written + b"\x15\0\0\0\0\x18" + bytes([kind])
    return bytes([_PIECE << 3 | _BYTES, len(content)]) + content


def check_tokenizer_file(path: Path) -> bytes:
    """Make sure that a SentencePiece model can be given to the library; return it.

    Raises:
        OSError: it is no regular file, or can't be read.
        ValueError: it is no such model, or none that can be trusted; the message is in Chinese.
    """
    pieces = 0
    content = read_small_file(path, MAX_FILE_BYTES)
    for number, wire, value in _fields(memoryview(content)):
        if wire != _BYTES:
            continue
        if number == _PIECE:
            pieces += 1
            _check_piece(value)
        elif number in (_NORMALIZER, _DENORMALIZER):
            _check_normalizer(value)
        elif len(value) > MAX_SPEC_BYTES:
            raise ValueError(f"字段 {number} 有 {len(value):,} 字节，不像分词模型")
        if pieces > MAX_PIECES:
            raise ValueError(f"词片超过 {MAX_PIECES:,} 个")
    if not pieces:
        raise ValueError("里面没有词片")
    return content


def _check_piece(content: memoryview) -> None:
    """Make sure that a piece is written as SentencePiece writes it: text, score, type, each at most once.

    (An empty text or one with a NUL makes the library abort the process.)
    """
    if len(content) > MAX_PIECE_BYTES:
        raise ValueError(f"有一个词片长 {len(content):,} 字节，超过了 {MAX_PIECE_BYTES} 字节的上限")
    length, start = _varint(content, 1)
    text, rest = bytes(content[start : start + length]), bytes(content[start + length :])
    written = _PIECE_REST.fullmatch(rest)
    if content[0] != _PIECE_TEXT or len(text) != length or written is None:
        raise ValueError("有一个词片的写法不对")
    if not text or b"\0" in text or not _is_utf8(text):
        raise ValueError("有一个词片是空的，或不是文字")
    if written[1] and not math.isfinite(struct.unpack("<f", written[1])[0]):
        raise ValueError("有一个词片的分数不是有限的数")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_normalizer(content: memoryview) -> None:
    for number, wire, value in _fields(content):
        if number == _TABLE and wire == _BYTES:
            if len(value) and hashlib.sha256(value).hexdigest() not in KNOWN_TABLES:
                raise ValueError(
                    "归一化表不是已知的任何一种（公布的 ChatGLM-6B 的，或 nmt_nfkc），可能被改过"
                )
        elif wire == _BYTES and len(value) > MAX_SPEC_BYTES:
            raise ValueError(f"归一化设置的字段 {number} 有 {len(value):,} 字节，不像分词模型")


def _fields(content: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield number, wire type and raw value of a message's fields; nothing of a varint is kept.

    Raises:
        ValueError: the bytes are no message.
    """
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            start = position
            _, position = _varint(content, position)
        elif wire == _BYTES:
            length, start = _varint(content, position)
            position = start + length
        elif wire in (_FIXED32, _FIXED64):
            start, position = position, position + (4 if wire == _FIXED32 else 8)
        else:
            raise ValueError("不是 SentencePiece 模型")
        if position > len(content) or not number:
            raise ValueError("不是 SentencePiece 模型，或没有下载完整")
        yield number, wire, content[start:position]


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    """Return a number of variable length and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("不是 SentencePiece 模型，或没有下载完整")
