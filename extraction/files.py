"""Records in, JSON lines out: results written as they come; a restart goes on after the last whole line."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from extraction.parsing import AnswerStatus
from extraction.records import STANDARD, Record
from extraction.result import Extraction, Extractor
from utils.common_utils import UserError, log, to_json, visible_json
from utils.launcher import read_launcher
from utils.progress import Progress

# Fields that an output line adds to those of its input; fields of these names in the input are replaced.
RESULT_FIELDS = ("triplets", "repaired", "truncated", "source_truncated", "error", "raw")
# Batches of records worked on together, one group after the other. Rows that finish make room for others, so
# the larger the better; the first results shall be there soon, so small ones first.
GROUP_BATCHES = (1, 2, 4, 8)
MAX_RESULT_BYTES = 1 << 24  # of a line beyond its input's fields; answers are limited to some thousand tokens
# Formats that results can't be written in, with the name of those that they can be turned into.
_FOREIGN_SUFFIXES = {
    ".csv": "csv",
    ".xlsx": "xlsx",
    ".ttl": "rdf",
    ".nt": "rdf",
    ".graphml": "graphml",
    ".cypher": "cypher",
    ".jsonld": "jsonld",
    **dict.fromkeys((".tsv", ".xls", ".ods", ".et", ".docx", ".doc", ".pdf", ".md", ".html", ".htm"), ""),
    **dict.fromkeys((".xml", ".yaml", ".yml", ".parquet", ".arrow", ".feather", ".rdf", ".owl"), ""),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3", ".gexf", ".gz", ".zip"), ""),
}


@dataclass
class FileSummary:
    """Lines of the output: found from an earlier run, written now, and the failures among both."""

    resumed: int = 0
    written: int = 0
    failed: int = 0
    extracted: int = 0  # of those written: by the model

    def describe(self, place: str, loading: float, extracting: float) -> list[str]:
        """Return what there is to say at the end, in Chinese lines.

        Args:
            place: where the results are.
            loading, extracting: the seconds that both took in this run.
        """
        whole = self.resumed + self.written
        lines = [f"共 {whole} 行（其中 {self.resumed} 行是上次完成的），结果在 {place}。"]
        if self.resumed:
            lines.append(
                "上次完成的行没有重新抽取；要换用别的选项，或重试带 error 字段的行，请另用一个 --output。"
            )
        if self.extracted:
            lines.append(
                f"本次抽取 {self.extracted} 句，用时 {extracting:.1f} 秒，"
                f"平均 {self.extracted / max(extracting, 1e-9):.2f} 句/秒（另用 {loading:.1f} 秒加载模型）。"
            )
        if self.failed:
            lines.append(f"{self.failed} 行没有得到结果，原因见输出中的 error 字段。")
        return lines


def check_output(path: Path, what: str = "输出文件", option: str = "--output") -> None:
    """Make sure, before a model is loaded for it, that a file of results can be written.

    Args:
        path: the file.
        what, option: how messages name it.

    Raises:
        UserError: it can't.
    """
    if not path.parent.is_dir():
        raise UserError(f"写不了{what} {path}：目录 {path.parent} 不存在，请先建好或改正路径。")
    if path.exists() and not path.is_file():
        raise UserError(f"写不了{what} {path}：它不是普通文件，请换一个 {option}。")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"写不了{what} {path}：没有写权限，请检查权限或换一个 {option}。")


def check_files(source: Path, target: Path) -> None:
    """Make sure, before anything is read, that an input can be extracted into an output.

    Raises:
        UserError: with what to do instead.
    """
    several = read_launcher().world_size > 1
    if several and (source == STANDARD or source.is_fifo()):
        raise UserError(f"--input {source} 是管道，只能读一次：多进程抽取请先存成文件。")
    if several and target == STANDARD:
        raise UserError("--output - 是标准输出，多进程抽取请写到文件。")
    if source == STANDARD and sys.stdin.isatty():
        log("从标准输入读句子，每行一个；Ctrl-D 结束。")
    if target != STANDARD:
        if target.exists() and source.exists() and target.samefile(source):
            raise UserError("--output 与 --input 是同一个文件，请换一个 --output。")
        check_output(target)
        if target.suffix.lower() == ".json":
            log(f"注意：{target} 里会是 JSONL（每行一个 JSON 对象），不是一整个 JSON。")


def output_name_problem(path: Path) -> str | None:
    """Say what to do about a name that promises another format than JSON lines; None if it does not."""
    suffix = path.suffix.lower()
    if (form := _FOREIGN_SUFFIXES.get(suffix)) is None:
        return None
    lines = path.with_suffix(".jsonl")
    then = f"，再运行 python -m export.graph {lines} --format {form} --output {path}" if form else ""
    return (
        f"--output {path}：结果是 JSONL（每行一个 JSON 对象），不能直接写成 {suffix}：请写到 {lines}{then}。"
    )


def result_fields(
    extraction: Extraction, with_scores: bool = False, with_spans: bool = False
) -> dict[str, Any]:
    """Return what an output line adds to the fields of its input: triplets, flags, and what went wrong."""
    result: dict[str, Any] = {"triplets": extraction.to_list(with_scores, with_spans)}
    flags = {
        "repaired": extraction.status is AnswerStatus.REPAIRED,
        "truncated": extraction.truncated,
        "source_truncated": extraction.source_truncated,
    }
    result |= {name: flag for name, flag in flags.items() if flag}
    if extraction.problem is not None:
        result |= {"error": extraction.problem, "raw": extraction.raw}
    return result


def lock_results(file: BinaryIO, path: Path) -> None:
    """Lock a file of results until it is closed.

    Raises:
        UserError: another process is writing it.
    """
    try:
        if fcntl is not None:  # not on Windows; the system drops the lock with the process
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"另一个进程正在写 {path}，请等它结束，或换一个 --output。") from error
    except OSError:  # a file system without locks
        pass


class ResultFile:
    """A file of results, one line for each record: what an earlier run left is read along with the input.

    Args:
        path: may hold the first lines of the same job, cut off anywhere.

    Attributes:
        end: of the last whole line that matched, in bytes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: BinaryIO | None = path.open("rb") if path.exists() else None
        self._writer: BinaryIO | None = None
        self.end = 0  # of the last whole line that matched

    def match(self, heads: list[bytes], summary: FileSummary) -> int:
        """Count the lines already there for these records; the first missing one ends the old results.

        Args:
            heads: how the lines begin.
            summary: counts along.

        Raises:
            UserError: the file holds something else than results of these records.
        """
        for done, head in enumerate(heads):
            limit = len(head) + MAX_RESULT_BYTES  # what is longer is none of ours
            line = self._reader.readline(limit) if self._reader else b""
            if not line.endswith(b"\n"):
                # Cut off: it must be a beginning of this line, or this is not our file.
                if len(line) == limit or not (line.startswith(head) or head.startswith(line)):
                    raise self._foreign(summary.resumed)
                return done
            if not line.startswith(head + b", ") or (result := _loads(line)) is None:
                raise self._foreign(summary.resumed)
            self.end += len(line)
            summary.resumed += 1
            summary.failed += "error" in result
        return len(heads)

    def check_end(self) -> None:
        """Make sure that the file holds no more lines than the input.

        Raises:
            UserError: it does.
        """
        if self._reader and self._reader.read(1):
            raise UserError(f"输出文件 {self._path} 的行比输入多，不是这个输入的结果，请换一个 --output。")

    def write(self, line: bytes) -> None:
        """Append a line, behind the last whole one of an earlier run.

        Raises:
            UserError: another process is writing the file.
        """
        if self._writer is None:
            self._writer = self._continue_writing()
        self._writer.write(line)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        for file in (self._reader, self._writer):
            if file is not None:
                file.close()

    def _continue_writing(self) -> BinaryIO:
        if self._reader:
            self._reader.close()
        writer = self._path.open("r+b" if self._path.exists() else "wb")
        try:
            lock_results(writer, self._path)
        except UserError:
            writer.close()
            raise
        writer.truncate(self.end)
        writer.seek(self.end)
        return writer

    def _foreign(self, done: int) -> UserError:
        return UserError(
            f"输出文件 {self._path} 的第 {done + 1} 行与输入对不上，不是这个输入的结果，请换一个 --output。"
        )


class ResultStream:
    """The standard output, or a pipe, as a place for results: nothing is there from an earlier run."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def match(self, heads: list[bytes], summary: FileSummary) -> int:
        """Return 0: nothing is there yet."""
        return 0

    def check_end(self) -> None:
        """Find nothing to complain about."""

    def write(self, line: bytes) -> None:
        """Write a line."""
        self._stream.write(visible_json(line.decode()).encode() if self._stream.isatty() else line)
        self._stream.flush()

    def close(self) -> None:
        """Leave the stream open: it is not ours."""


class Results(Protocol):
    """A place for results: a `ResultFile`, or what behaves like one."""

    def match(self, heads: list[bytes], summary: FileSummary) -> int: ...

    def check_end(self) -> None: ...

    def write(self, line: bytes) -> None: ...

    def close(self) -> None: ...


@dataclass
class _Group:
    """Records worked on together, how their output lines begin, and how many of those are there already."""

    records: list[Record]
    heads: list[bytes]
    done: int = 0


class FileJob:
    """The records of a file, to be extracted into a place for results, in groups of batches.

    First `find_rest` reads what an earlier run left; if there is anything to do, a model is loaded, and
    `finish` extracts the rest. A restart repeats the calls of an uninterrupted run from its group on, so that
    batches, and with them the results, are the same.

    Args:
        records: in the order of the input file.
        output: where the lines go.
        batch_size: sentences generated together.
        with_scores, with_spans: what lines say of their triplets.
    """

    def __init__(
        self,
        records: Iterable[Record],
        output: Results,
        batch_size: int,
        with_scores: bool = False,
        with_spans: bool = False,
    ) -> None:
        self.summary = FileSummary()  # counts along; valid at any time
        self._output = output
        self._groups = _in_groups(iter(records), batch_size)
        self._details = with_scores, with_spans
        self._unfinished: _Group | None = None

    def find_rest(self) -> bool:
        """Pass over what an earlier run has done; tell whether anything is left to do.

        Raises:
            UserError: the output holds something else than results of these records; it is left as it is.
        """
        for group in self._groups:
            group.done = self._output.match(group.heads, self.summary)
            if group.done < len(group.heads):
                self._unfinished = group
                return True
        self._output.check_end()
        return False

    def finish(self, extractor: Extractor, progress: Progress) -> None:
        """Extract what is left, and write each line as soon as it and all before it are there."""
        rest = [] if self._unfinished is None else [self._unfinished]
        progress.skip(self.summary.resumed)
        for group in chain(rest, self._groups):
            for fields in self._results(group, extractor, progress):
                self._output.write(group.heads[group.done] + b", " + _dump(fields)[1:] + b"\n")
                self.summary.written += 1
                self.summary.failed += "error" in fields
                group.done += 1

    def close(self) -> None:
        """Close the output."""
        self._output.close()

    def _results(self, group: _Group, extractor: Extractor, progress: Progress) -> Iterator[dict[str, Any]]:
        """Yield what the lines of a group add to their input's, from its first unfinished one on."""
        ready: dict[int, dict[str, Any]] = {
            place: {"triplets": [], "error": record.problem}
            for place, record in enumerate(group.records)
            if record.problem is not None
        }
        good = [place for place in range(len(group.records)) if place not in ready]
        progress.skip(sum(place >= group.done for place in ready))
        yield from _take(ready, group)
        if group.done == len(group.records):
            return  # all that is left was bad
        sentences = [str(group.records[place].fields["text"]) for place in good]
        for number, extraction in extractor.stream(sentences, on_piece=partial(_tell_pieces, progress)):
            place = good[number]
            if place < group.done:  # written by an earlier run; here as company only
                continue
            ready[place] = result_fields(extraction, *self._details)
            self.summary.extracted += 1
            progress.advance(status="")
            yield from _take(ready, group)


def _tell_pieces(progress: Progress, answered: int, total: int) -> None:
    """Show that a long sentence is being worked on."""
    progress.advance(0, f"长句分段抽取 {answered}/{total}")


def _take(ready: dict[int, dict[str, Any]], group: _Group) -> Iterator[dict[str, Any]]:
    """Yield the results that are next in turn; the caller counts `group.done` up."""
    while group.done in ready:
        yield ready.pop(group.done)


def _in_groups(records: Iterator[Record], batch_size: int) -> Iterator[_Group]:
    sizes = chain(GROUP_BATCHES, iter(lambda: GROUP_BATCHES[-1], None))
    for batches in sizes:
        group = list(islice(records, batches * batch_size))
        if not group:
            return
        yield _Group(group, line_heads(group))


def line_heads(records: Iterable[Record]) -> list[bytes]:
    """Return how the output lines of records begin."""
    return [_head(record.fields) for record in records]


def _dump(fields: dict[str, Any]) -> bytes:
    """Serialise to UTF-8; lone surrogates, which have no encoding, stay JSON escapes; NaN becomes null."""
    try:
        return to_json(fields, allow_nan=False).encode()
    except (ValueError, RecursionError):  # Python reads NaN and Infinity, which JSON does not have
        try:
            return _dump(_without_nan(fields))
        except RecursionError:  # only the input's own fields can be as deep
            return _dump({name: value if isinstance(value, str) else None for name, value in fields.items()})


def _without_nan(value: Any) -> Any:
    """Put None in place of floats that are not finite."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _head(fields: dict[str, Any]) -> bytes:
    """Return the beginning of an output line: the input's fields, without the closing brace."""
    return _dump({name: value for name, value in fields.items() if name not in RESULT_FIELDS})[:-1]


def _loads(line: bytes) -> dict[str, Any] | None:
    """Decode a whole line of results; None if it is none."""
    try:
        result = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) and "triplets" in result else None
