"""Reading results: lines of extracted triplets, or of training data, as sentences with what was found."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data_handle.reader import BadLine, iter_objects
from task.prompt import split_context
from task.triplets import Triplet, is_triplet_target, parse_target
from utils.common_utils import UserError, is_encodable
from utils.jsonl import iter_objects_in

UNKNOWN_TYPE = "实体"  # where a triplet names no type
EXAMPLES = 3  # of each kind of complaint that are shown
# An output line repeats its input's, which has 1 MiB at most, and adds the triplets.
MAX_LINE_BYTES = 16 << 20
STDIN = Path("-")
_GZIP = b"\x1f\x8b"


class Found(NamedTuple):
    """A triplet of a sentence: its score, and where its ends stand, [start, end) in characters."""

    triplet: Triplet
    score: float | None = None
    object_span: tuple[int, int] | None = None
    subject_span: tuple[int, int] | None = None


class Sentence(NamedTuple):
    """A line of results; `place` is its file and line."""

    id: str
    text: str
    place: str
    found: list[Found]


@dataclass
class Complaints:
    """What could not be used: how often, and the first few."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(text)

    def describe(self, what: str) -> list[str]:
        """Return what a log shows: a line with the count, then the examples."""
        if not self.count:
            return []
        more = [f"  ……还有 {self.count - len(self.examples)} 处"] if self.count > len(self.examples) else []
        return [f"{what} {self.count} 处：", *(f"  {example}" for example in self.examples), *more]


@dataclass
class ReadSummary:
    """Lines and triplets of the files read so far."""

    lines: int = 0
    without_triplets: int = 0
    failed: int = 0  # lines with an `error`: the extraction gave no result
    triplets: int = 0
    below_score: int = 0
    bad_lines: Complaints = field(default_factory=Complaints)
    bad_triplets: Complaints = field(default_factory=Complaints)


def read_sentences(
    paths: Sequence[Path], summary: ReadSummary, *, min_score: float = 0.0, id_field: str = "id"
) -> Iterator[Sentence]:
    """Read files of results, one line at a time.

    A line is what `inference_triplet.py --output` writes, `{"text": …, "triplets": […]}`, or a training
    line with `context` and `target`.

    Args:
        paths: the files, "-" for stdin; no two of one name, since names are part of the sentences' ids.
            What gzip has compressed is read as it is.
        summary: counts along.
        min_score: triplets below are left out.
        id_field: the field with a sentence's id; where it is missing, "file name:line" stands for it.

    Yields:
        The sentences that have triplets.

    Raises:
        UserError: a file can't be read, two have one name, or a score is asked for that the results lack.
    """
    names = [path.name for path in paths]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"有两个输入文件都叫 {twice}，句子编号会分不清，请改一个名字。")
    for path in paths:
        for item in _objects(path):
            summary.lines += 1
            if isinstance(item, BadLine):
                summary.bad_lines.add(str(item))
                continue
            line_number, record = item
            sentence = _read_line(
                record, f"{'stdin' if path == STDIN else path.name}:{line_number}", id_field, summary
            )
            if sentence is None:
                continue
            found = [one for one in sentence.found if _is_wanted(one, min_score, sentence.place)]
            summary.below_score += len(sentence.found) - len(found)
            summary.without_triplets += not sentence.found
            if found:
                yield sentence._replace(found=found)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]] | BadLine]:
    """Yield the lines of a file, of stdin, or of a file that gzip has compressed.

    Raises:
        UserError: it can't be read.
    """
    if path == STDIN or not _is_gzip(path):
        yield from iter_objects("/dev/stdin" if path == STDIN else path, MAX_LINE_BYTES)
        return
    try:
        with gzip.open(path) as file:
            yield from iter_objects_in(file, path, MAX_LINE_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} 解压到一半出错（{error}）：请检查文件是否完整。") from error


def _is_gzip(path: Path) -> bool:
    if not path.is_file():  # a pipe must not lose its first bytes
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(_GZIP)) == _GZIP
    except OSError:  # which reading it will explain
        return False


def _is_wanted(found: Found, min_score: float, place: str) -> bool:
    if min_score <= 0:
        return True
    if found.score is None:
        raise UserError(f"{place} 的三元组没有 score，--min_score 无从筛选：抽取时请加 --scores，或去掉它。")
    return found.score >= min_score


def _read_line(record: dict[str, Any], place: str, id_field: str, summary: ReadSummary) -> Sentence | None:
    """Read a line; None, and a count, if there is no result in it."""
    if "error" in record and not record.get("triplets"):
        summary.failed += 1
        return None
    try:
        text, items = text_and_items(record)
    except ValueError as error:
        summary.bad_lines.add(f"{place}: {error}")
        return None
    found = []
    for number, item in enumerate(items, 1):
        summary.triplets += 1
        try:
            found.append(read_triplet(item))
        except ValueError as error:
            summary.bad_triplets.add(f"{place} 的第 {number} 个三元组：{error}")
    given = record.get(id_field)
    usable = isinstance(given, (str, int)) and not isinstance(given, bool) and is_encodable(str(given))
    return Sentence(str(given) if usable and str(given).strip() else place, text, place, found)


def text_and_items(record: dict[str, Any]) -> tuple[str, list[Any]]:
    """Return the sentence of a line, and its triplets as they stand there.

    Raises:
        ValueError: it is neither a line of results nor one of training data.
    """
    if "triplets" in record:
        text, items = record.get("text", ""), record["triplets"]
        if not isinstance(items, list):
            raise ValueError("字段 triplets 不是列表")
    elif isinstance(record.get("context"), str) and isinstance(record.get("target"), str):
        text, items = split_context(record["context"])[1], []
        if is_triplet_target(record["target"]):  # a classification answer has none
            items = [triplet._asdict() for triplet in parse_target(record["target"])]
    else:
        raise ValueError("既没有 triplets，也不是训练数据（context 和 target）")
    return text if isinstance(text, str) and is_encodable(text) else "", items


def read_triplet(item: Any) -> Found:
    """Read one item of `triplets`.

    Raises:
        ValueError: it is no triplet.
    """
    if not isinstance(item, dict):
        raise ValueError("不是 JSON 对象")
    values = {}
    for name in Triplet._fields:
        value = item.get(name)
        if name.endswith("_type") and (value is None or value == ""):
            value = UNKNOWN_TYPE
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"字段 {name} {'缺失' if value is None else '不是非空的字符串'}")
        values[name] = value
    if not is_encodable("".join(values.values())):
        raise ValueError("含有不成对的代理字符（\\ud800–\\udfff）")
    score = item.get("score")
    if score is not None and (type(score) not in (int, float) or not -1e300 < score < 1e300):
        raise ValueError("字段 score 不是数")
    return Found(
        Triplet(**values),
        None if score is None else float(score),
        _read_span(item, "object_span"),
        _read_span(item, "subject_span"),
    )


def _read_span(item: dict[str, Any], name: str) -> tuple[int, int] | None:
    span = item.get(name)
    if span is None:
        return None
    if not (isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)):
        raise ValueError(f"字段 {name} 不是 [起, 止)")
    if not 0 <= span[0] <= span[1] < 2**31:
        raise ValueError(f"字段 {name} 不是 [起, 止)")
    return span[0], span[1]
