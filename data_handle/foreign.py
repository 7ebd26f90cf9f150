"""Files of other tools, named for what they are, with what turns them into training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_EXPECTED = '要的是每行一个 {"context": 提示词, "target": 答案}，写法见 README 的“数据格式”'
# What a file begins with that is no text.
_BINARY = {
    b"PK\x03\x04": "压缩包，或 xlsx、docx 一类的文档，请先解压，或在表格软件中另存为文本",
    b"\x1f\x8b": "gzip 压缩文件，请先解压",
    b"PAR1": "Parquet 文件，请先转成 JSONL",
    b"%PDF": "PDF 文档，请先取出文字",
    b"\xd0\xcf\x11\xe0": "旧版 Office 文档，请另存为文本",
}


def _is_duie(record: Mapping[str, Any]) -> bool:
    spo_list = record.get("spo_list")
    return isinstance(spo_list, list) and all(
        isinstance(item, dict) and {"subject_type", "object_type"} <= set(item) for item in spo_list
    )


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda record: all(name in record for name in names)


def _is_iepile(record: Mapping[str, Any]) -> bool:
    instruction = record.get("instruction")
    return "output" in record and isinstance(instruction, str) and '"schema"' in instruction


# Name, and whether a record is such a one; the first that fits. The fields are shown beside the name.
_FORMATS: tuple[tuple[str, tuple[str, ...], Callable[[Mapping[str, Any]], bool]], ...] = (
    ("DuIE 格式", ("text", "spo_list"), lambda record: "text" in record and _is_duie(record)),
    ("没有类型的三元组", ("text", "spo_list"), _has("text", "spo_list")),
    ("IEPile 格式", ("instruction", "output"), _is_iepile),
    ("alpaca 格式", ("instruction", "output"), _has("instruction", "output")),
    ("ShareGPT 格式", ("conversations",), _has("conversations")),
    ("对话格式", ("messages",), _has("messages")),
    ("doccano 格式", ("text", "entities", "relations"), _has("text", "entities", "relations")),
    ("doccano 格式", ("text", "label"), _has("text", "label")),
    ("Label Studio 格式", ("data", "annotations"), _has("data", "annotations")),
    ("Label Studio 格式", ("data", "completions"), _has("data", "completions")),
    ("head/relation/tail 格式", ("head", "relation", "tail"), _has("head", "relation", "tail")),
    ("head/relation/tail 格式", ("sentence", "spo"), _has("sentence", "spo")),
    ("head/relation/tail 格式", ("sentText", "relationMentions"), _has("sentText", "relationMentions")),
    (
        "schema 文件",
        ("predicate", "subject_type", "object_type"),
        _has("predicate", "subject_type", "object_type"),
    ),
    ("句子与关系的列表", ("text", "relations"), _has("text", "relations")),
)
_SENTENCE_FIELDS = ("text", "sentence", "content")


def name_foreign_record(record: Mapping[str, Any]) -> str | None:
    """Name the format of a record by its fields, as "alpaca 格式（字段 instruction、output）".

    Returns:
        None if it is none that is known.
    """
    for name, fields, fits in _FORMATS:
        if fits(record):
            return f"{name}（字段 {'、'.join(fields)}）"
    field = next((name for name in _SENTENCE_FIELDS if isinstance(record.get(name), str)), None)
    return f"没有答案的句子（字段 {field}）" if field and "context" not in record else None


def remedy_for(kind: str, path: str | Path) -> str:
    """Say what turns a file of such records into training data.

    Args:
        kind: what `name_foreign_record` returned.
        path: the file.
    """
    if kind.startswith("DuIE"):
        return f"请先转换：python -m data_handle.convert_duie {path} 输出.jsonl"
    if kind.startswith("schema"):
        return "它可以用作 --schema，不能用来训练"
    if kind.startswith("没有答案"):
        return f"它可以用来抽取（inference_triplet.py --input），不能用来训练；{_EXPECTED}"
    return f"请先改写，{_EXPECTED}"


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
    return _name_table(lines)


def _name_table(lines: list[str]) -> str | None:
    if len(lines) < 2 or lines[0].startswith(("{", "[", '"{')):
        return None
    for name, separator in (("CSV", ","), ("TSV", "\t")):
        if separator in lines[0] and separator in lines[1]:
            return f"它是 {name} 表格（第一行：{lines[0][:60]}），请先转成 JSONL；{_EXPECTED}"
    return None
