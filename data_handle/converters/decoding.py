"""Text of a file whose encoding nobody told: UTF-8, UTF-16 or GBK, with or without a byte order mark."""

from __future__ import annotations

import codecs
from pathlib import Path

from utils.common_utils import UserError
from utils.small_json import read_small_file

MAX_FILE_BYTES = 1 << 28  # of a file that is read as a whole
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)


def read_whole(path: Path) -> bytes:
    """Return what a regular file holds.

    Raises:
        OSError: there is no such file, it can't be read, or it is something else (which is not waited for).
        UserError: it is too large to be read as a whole.
    """
    try:
        return read_small_file(path, MAX_FILE_BYTES)
    except ValueError:
        limit = MAX_FILE_BYTES >> 20
        raise UserError(f"{path} 超过了 {limit} MB：请分成几个文件，一个一个转换。") from None


def decode(raw: bytes) -> tuple[str, str]:
    """Return the text of a file and the name of its encoding.

    A file most of whose non-ASCII lines are UTF-8 is taken for UTF-8, else for GBK: bytes that don't fit
    become lone surrogates, so that they cost the lines they stand in and no others. Where "\\r" alone ends
    lines, it becomes "\\n".

    Raises:
        ValueError: in Chinese, if it is in none of the known encodings.
    """
    text, encoding = _decode(raw)
    text = text.replace("\ufeff", "")
    return text if "\n" in text else text.replace("\r", "\n"), encoding


def _decode(raw: bytes) -> tuple[str, str]:
    for mark, codec, name in _MARKS:
        if raw.startswith(mark):
            return raw.decode(codec, "surrogateescape" if codec == "utf-8-sig" else "replace"), name
    if (unmarked := _utf16_without_mark(raw)) is not None:
        return raw.decode(unmarked, "replace"), "UTF-16"
    lines = [line for line in raw.split(b"\n") if not line.isascii()]
    if 2 * sum(map(_is_utf8, lines)) >= len(lines):
        return raw.decode("utf-8", "surrogateescape"), "UTF-8"
    text = raw.decode("gb18030", "surrogateescape")
    unusual = [character for character in text if not character.isascii()]
    common = sum(bool(character.encode("gb2312", "ignore")) for character in unusual)
    if 2 * common >= len(unusual):
        return text, "GBK"
    raise ValueError("认不出编码（不是 UTF-8、GBK、UTF-16），请另存为 UTF-8")


def _utf16_without_mark(raw: bytes) -> str | None:
    """Tell UTF-16 by the zero bytes of its line ends and ASCII characters, which no other text has."""
    sample = raw[:4096]
    if b"\0" not in sample:
        return None
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if max(even, odd) < 2 or min(even, odd) * 4 > max(even, odd):
        return None
    return "utf-16-be" if even > odd else "utf-16-le"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
