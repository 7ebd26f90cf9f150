"""Files of other tools, named for what they are, with what turns them into training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_handle.converters import RECORD_CONVERTERS
from utils.common_utils import UserError

_CONVERT = "请先转换：python -m data_handle.convert {path} -o train.jsonl"
_EXPECTED = '要的是每行一个 {"context": 提示词, "target": 答案}，写法见 README 的“数据格式”'
# What a file begins with that is no text.
_BINARY = {
    b"\x1f\x8b": "gzip 压缩文件，请先解压",
    b"PAR1": "Parquet 文件，请先转成 JSONL",
    b"%PDF": "PDF 文档，请先取出文字",
    b"\xd0\xcf\x11\xe0": "旧版 Office 文档，请另存为文本",
}
_SENTENCE_FIELDS = ("text", "sentence", "content")


def name_foreign_record(record: dict[str, Any]) -> str | None:
    """Name what a record holds, as "Alpaca 格式".

    Returns:
        None if it is none that is known.
    """
    if "context" in record:
        return None
    for converter in RECORD_CONVERTERS:
        try:
            if name := converter.recognise(record):
                return f"{name} 格式"
        except UserError:  # which the converter explains
            return "Label Studio 的 JSON-MIN 导出"
    if {"predicate", "subject_type", "object_type"} <= record.keys():
        return "关系的 schema"
    field = next((name for name in _SENTENCE_FIELDS if isinstance(record.get(name), str)), None)
    return f"没有答案的句子（字段 {field}）" if field else None


def remedy_for(kind: str, path: str | Path) -> str:
    """Say what turns a file of such records into training data.

    Args:
        kind: what `name_foreign_record` returned.
        path: the file.
    """
    if kind.endswith("schema"):
        return "它可以用作 --schema，不能用来训练"
    if kind.startswith("没有答案"):
        return f"它可以用来抽取（inference_triplet.py --input），不能用来训练；{_EXPECTED}"
    return _CONVERT.format(path=path)


def name_foreign_file(path: str | Path) -> str | None:
    """Say in Chinese what a file is whose lines are no JSON, and what to do; None if that isn't clear.

    Args:
        path: the file; a pipe, which can be read only once, is not looked into.
    """
    path = Path(path)
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return None
    if head.startswith(b"PK\x03\x04"):
        return f"它是 Excel 表格（xlsx）、别的文档或压缩包；若是表格，{_CONVERT.format(path=path)}"
    for magic, name in _BINARY.items():
        if head.startswith(magic):
            return f"它是{name}；{_EXPECTED}"
    text = head.decode("utf-8-sig", "replace")
    lines = text.splitlines()
    if text.startswith("version https://git-lfs"):
        return "它是 git-lfs 的指针文件，内容还没有下载，请先运行 git lfs pull"
    if text.lstrip().startswith("<"):
        return f"它是网页或 XML；{_EXPECTED}"
    if len(lines) > 1 and lines[0].strip() == "{":
        return f"它是排成多行的 JSON；{_EXPECTED}（一个对象写在一行里）"
    return _name_table(lines, path)


def _name_table(lines: list[str], path: Path) -> str | None:
    if len(lines) < 2 or lines[0].startswith(("{", "[", '"{')):
        return None
    for name, separator in (("CSV", ","), ("TSV", "\t")):
        if separator in lines[0] and separator in lines[1]:
            return f"它是 {name} 表格（第一行：{lines[0][:60]}），{_CONVERT.format(path=path)}"
    return None
