"""What of a workbook openpyxl may see: the parts with cells and what they need, each looked through before.

An .xlsx is XML in a zip. A few kilobytes of it can stand for gigabytes of blanks, for millions of cells, or
define entities of entities; openpyxl builds objects of whatever is there, before it can be asked about it.
"""

from __future__ import annotations

import io
import re
import zipfile
from typing import NoReturn
from xml.parsers import expat

MAX_BYTES = 1 << 27  # of all parts, unpacked
MAX_PARTS = 10_000
MAX_ELEMENTS = 2_000_000  # of a workbook: 150,000 rows of six cells
MAX_OTHERS = 200_000  # of these, such as are no cells: styles (of which Excel allows 65,490), merged ranges
MAX_DEPTH = 64
MAX_ATTRIBUTES = 1 << 16  # characters of an element's attributes together
_CELLS = frozenset({
    *("row", "c", "v", "f", "is", "t", "si", "r", "rPr", "rPh", "phoneticPr"),
    *("sz", "color", "rFont", "family", "charset", "scheme", "b", "i", "u", "strike", "vertAlign"),
})  # fmt: skip
# Pictures, charts, links to other workbooks and the like are of no use here, and may be large.
_UNUSED = re.compile(
    r"xl/(pivot|chart|drawing|diagram|media|externalLinks|printerSettings|ctrlProps|activeX|embeddings|tables/"
    r"|queryTables|slicer|timeline|threadedComments|persons|comments|calcChain|vbaProject|connections|richData)"
    r"|customXml/|docProps/thumbnail",
    re.IGNORECASE,
)


def safe_parts(content: bytes) -> io.BytesIO:
    """Return a workbook with the parts that are needed, when all of them are within the limits.

    Args:
        content: of the .xlsx file.

    Raises:
        ValueError: they aren't; in Chinese.
        zipfile.BadZipFile, and others that `zipfile` and `zlib` have: it is damaged.
    """
    if content.count(b"PK\x01\x02") > MAX_PARTS:
        raise ValueError(f"里面有 {MAX_PARTS:,} 个以上的部分")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {info.filename: info for info in archive.infolist() if not _UNUSED.match(info.filename)}
        if sum(info.file_size for info in parts.values()) > MAX_BYTES:  # no more than that is ever unpacked
            raise ValueError(f"解压之后超过 {MAX_BYTES >> 20} MB")
        look = _Look()
        result = io.BytesIO()
        with zipfile.ZipFile(result, "w") as copy:
            for name, info in parts.items():
                if name.endswith("/"):
                    continue
                part = archive.read(info)
                if name.lower().endswith((".xml", ".rels")):
                    look.at(part)
                    copy.writestr(name, part)
    return result


class _Look:
    """Goes through XML without keeping any of it."""

    def __init__(self) -> None:
        self._elements = self._others = self._depth = 0

    def at(self, content: bytes) -> None:
        """Look at one part.

        Raises:
            ValueError: it is beyond the limits, or no XML.
        """
        parser = expat.ParserCreate(namespace_separator="}")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = _refuse_doctype
        self._depth = 0
        try:
            parser.Parse(content, True)
        except expat.ExpatError as error:
            raise ValueError(f"里面的 XML 有误：{error}") from error

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        self._depth += 1
        self._others += name.rpartition("}")[2] not in _CELLS
        if self._elements > MAX_ELEMENTS or self._others > MAX_OTHERS:
            raise ValueError("单元格、样式或合并的区域太多，请分成几个文件，或另存为 CSV")
        if self._depth > MAX_DEPTH or sum(map(len, attributes.values())) > MAX_ATTRIBUTES:
            raise ValueError("里面的 XML 嵌套太深，或属性太长")

    def _end(self, name: str) -> None:
        self._depth -= 1


def _refuse_doctype(*declaration: object) -> NoReturn:
    raise ValueError("里面的 XML 有 DOCTYPE（实体定义），Excel 不会这样写")
