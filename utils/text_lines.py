"""Lines of a text file in UTF-8, whatever encoding or line ends the file has."""

from __future__ import annotations

import io
import re
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from utils.common_utils import log

_CR_ALONE = re.compile(rb"\r[^\n]")
# Misread UTF-8 is made of rare characters by half; what people write in GBK, of common ones nearly alone.
_MIN_COMMON_SHARE = 0.8


class LineSource(Protocol):
    """What is read of a binary file: a line, or so many bytes of a longer one; no bytes at the end."""

    def readline(self, size: int, /) -> bytes: ...


class BinaryLines(LineSource, Protocol):
    """A binary file, as far as it is needed here."""

    def close(self) -> None: ...


class TextLines:
    """The lines of a binary file, as UTF-8 that ends in "\\n".

    UTF-16, and "\\r" alone as line end, are told by a file's beginning; GBK by the first line that is no
    ASCII. Each encoding is said once. Lines that are in none come as they are.

    Args:
        file: open for reading bytes.
        name: what to call it.
        quiet: don't say which encoding it is.
        encoding: what earlier lines have told of it: "utf-8" or "gb18030".
    """

    def __init__(
        self, file: BinaryLines, name: object, quiet: bool = False, encoding: str | None = None
    ) -> None:
        self._file, self._name, self._quiet = file, name, quiet
        self._source: LineSource = file
        self._ahead = b""
        self._continues = False  # the line of which a part was read last
        self._encoding = encoding  # known as soon as a line has told
        if not isinstance(file, io.BufferedReader):
            return
        head: bytes = file.peek(4)[:4096]
        if utf16 := _utf16(head):
            self._source, self._encoding = _Decoded(file, utf16, None, "utf-8"), "utf-8"
            self._say("UTF-16")
        elif b"\n" not in head and _CR_ALONE.search(head):
            self._source = _Decoded(file, "latin-1", "\r", "latin-1")

    def readline(self, size: int = -1, /) -> bytes:
        """Return the next line, or `size` bytes of a longer one; no bytes at the end."""
        if self._ahead:
            line, self._ahead = self._ahead, b""
            return line
        line = self._source.readline(size)
        continues, has_end = self._continues, line.endswith(b"\n") or not 0 <= size <= len(line)
        self._continues = not has_end
        if self._encoding == "utf-8" or line.isascii() or continues or not has_end:
            return line
        return self._converted(line)

    def peek_line(self, size: int) -> bytes:
        """Return what `readline` will return next (with whatever size)."""
        self._ahead = self._ahead or self.readline(size)
        return self._ahead

    @property
    def encoding(self) -> str | None:
        """What the lines read so far have told: "utf-8" or "gb18030"; None as long as all were ASCII."""
        return self._encoding

    @property
    def is_converted_whole(self) -> bool:
        """Whether the file's own lines are no lines: it is UTF-16, or "\\r" alone ends them."""
        return self._source is not self._file

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _say(self, encoding: str) -> None:
        if not self._quiet:
            log(f"{self._name} 是 {encoding} 编码，读取时转成 UTF-8。")

    def _converted(self, line: bytes) -> bytes:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            if self._encoding is None and looks_like_gbk(line):
                self._encoding = "gb18030"
                self._say("GBK")
        else:
            # A few pairs of bytes are characters of both, but none that GBK text is likely to consist of.
            if any(character >= "\u0800" for character in text):
                self._encoding = self._encoding or "utf-8"
                return line
        if self._encoding == "gb18030":
            try:
                return line.decode("gb18030").encode()
            except UnicodeDecodeError:
                return line
        return line


class _Decoded:
    """The lines of a binary file, decoded and encoded anew."""

    def __init__(self, file: BinaryIO, encoding: str, newline: str | None, target: str) -> None:
        self._text = io.TextIOWrapper(file, encoding, errors="replace", newline=newline)
        self._target = target

    def readline(self, size: int, /) -> bytes:
        line = self._text.readline(size)
        return (line[:-1] + "\n" if line.endswith("\r") else line).encode(self._target, "replace")


def _utf16(head: bytes) -> str | None:
    """Return the name of the encoding if a file's first bytes are UTF-16: by its mark, or "[" or "{"."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    for first in b"[{":
        if head[:2] == bytes([first, 0]):
            return "utf-16-le"
        if head[:2] == bytes([0, first]):
            return "utf-16-be"
    return None


def looks_like_gbk(text: bytes) -> bool:
    """Tell whether bytes are no UTF-8 (nor ASCII), and in GBK a text that people write."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        return False
    try:
        decoded = text.decode("gb18030")
    except UnicodeDecodeError:
        return False
    characters = "".join(character for character in decoded if not character.isascii())
    common = len(characters.encode("gb2312", "ignore")) / 2
    return common >= _MIN_COMMON_SHARE * len(characters)
