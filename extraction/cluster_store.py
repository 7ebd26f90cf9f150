"""What a cluster's job has finished: small parquet files of results, joined in the order of the input.

A row is `file` (number of the input file), `line`, `sub` (which of several records of that line) and `result`
(the line that the command would write). Workers write files in any order and may do a row twice.
"""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import PurePosixPath
from typing import Any

from extraction.distant import file_system
from utils.common_utils import UserError, log

Key = tuple[int, int, int]  # file, line, sub
KEY = ["file", "line", "sub"]
TRIPLET_FIELDS = ("predicate", "object_type", "subject_type", "object", "subject")
JOB_FILE, DONE_FILE, PARTS = "job.json", "done.json", "parts"
MAX_JSON_BYTES = 1 << 28  # of what a job notes: some hundred bytes for each part of each input
ROWS = 10_000  # of a row group in joined parquet files


class Store:
    """The folder of a job.

    Args:
        address: a folder on a disk that all machines see, or an address such as `s3://…`.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._files, self._root = file_system(self.address)
        self._first_keys: dict[str, Key] = {}

    @property
    def parts(self) -> str:
        """Where workers write: an address."""
        return f"{self.address}/{PARTS}"

    def check_is_free(self) -> None:
        """Make sure that nothing is there yet, before anything is written.

        Raises:
            UserError: something is, which is not of this job: it could be written over.
        """
        from pyarrow import fs

        with self._told():
            found = self._files.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        if found:
            raise UserError(
                f"{self.address} 里已有别的东西（{found[0].base_name}），又没有 {JOB_FILE}："
                "请给一个新的或空的 --output。"
            )

    def read_json(self, name: str) -> Any:
        """Return the content of a file of the job; None if it isn't there.

        Raises:
            UserError: it can't be read, or is none of a job.
        """
        with self._told():
            info = self._files.get_file_info(f"{self._root}/{name}")
            if not info.is_file:
                return None
            if info.size > MAX_JSON_BYTES:
                raise _damaged(f"{self.address}/{name}")
            with self._files.open_input_stream(f"{self._root}/{name}") as file:
                content = file.read(MAX_JSON_BYTES)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _damaged(f"{self.address}/{name}") from error

    def read_done(self, form: str) -> list[tuple[str, int, int]] | None:
        """Return what `join` has returned for a job that is finished; None if it isn't.

        Raises:
            UserError: its note can't be read, or the results were asked for in another form.
        """
        content = self.read_json(DONE_FILE)
        if content is None:
            return None
        try:
            if not isinstance(content, list):
                raise TypeError(type(content))
            done = [(str(name), int(rows), int(failed)) for name, rows, failed in content]
        except (TypeError, ValueError) as error:
            raise _damaged(f"{self.address}/{DONE_FILE}") from error
        if other := next((name for name, *_ in done if not name.endswith(f".{form}")), None):
            raise UserError(
                f"{self.address} 里的结果已经做好，是 {other} 这样的：要别的 --format 请换一个 --output。"
            )
        return done

    def write_json(self, name: str, content: Any) -> None:
        """Write a file of the job.

        Raises:
            UserError: the folder can't be written.
        """
        try:
            self._files.create_dir(self._root, recursive=True)
            with self._files.open_output_stream(f"{self._root}/{name}") as file:
                file.write(json.dumps(content, ensure_ascii=False).encode())
        except OSError as error:
            raise UserError(f"写不了 {self.address}/{name}（{error}），请检查路径和权限。") from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in Chinese what the file system refuses.

        Raises:
            UserError: it does.
        """
        try:
            yield
        except OSError as error:
            raise UserError(f"读不了 {self.address}（{error}），请检查路径和权限。") from error

    def find_done(self) -> dict[int, list[tuple[int, int, int]]]:
        """Look at what is finished; a file that a kill has left unfinished is removed.

        Returns:
            For each input file ranges of finished lines, as (first, last, sub), in order.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        done: dict[int, set[tuple[int, int]]] = defaultdict(set)
        self._first_keys = {}
        for path in self._part_files():
            try:
                columns = pq.read_table(path, columns=KEY, filesystem=self._files)
            except pa.ArrowInvalid:
                log(f"{path} 没有写完，里面的行重新抽取。")
                self._files.delete_file(path)
                continue
            except (
                OSError,
                ValueError,
                pa.ArrowException,
            ) as error:  # a disk that has lost bytes, the network
                raise _damaged(path) from error
            keys = list(zip(*(columns[name].to_pylist() for name in KEY), strict=True))
            if any(type(value) is not int for key in keys for value in key):
                raise _damaged(path)
            if keys:
                self._first_keys[path] = min(keys)
            for file, line, sub in keys:
                done[file].add((sub, line))
        return {file: _ranges(sorted(lines)) for file, lines in done.items()}

    def join(self, names: list[str], form: str) -> list[tuple[str, int, int]]:
        """Write the results of each input file in order, and remove what workers wrote.

        Args:
            names: of the results of each input file, without ending.
            form: "jsonl" or "parquet".

        Returns:
            For each file its name, its rows, and how many of them failed.
        """
        counts: list[tuple[str, int, int]] = []
        rows = self._in_order()
        row = next(rows, None)
        with ExitStack() as stack:
            for number, name in enumerate(names):
                path = f"{self._root}/{name}.{form}"
                self._files.create_dir(str(PurePosixPath(path).parent), recursive=True)
                writer = stack.enter_context(_WRITERS[form](self._files.open_output_stream(path)))
                written = failed = 0
                while row is not None and row[0][0] == number:
                    try:
                        failed += writer.write(row)
                    except (ValueError, TypeError, AttributeError) as error:
                        raise _damaged(self.parts) from error
                    written += 1
                    row = next(rows, None)
                writer.close()
                counts.append((f"{name}.{form}", written, failed))
        return counts

    def remove_parts(self) -> None:
        """Remove what workers wrote."""
        self._files.delete_dir(f"{self._root}/{PARTS}")

    def _part_files(self) -> list[str]:
        from pyarrow import fs

        selector = fs.FileSelector(f"{self._root}/{PARTS}", recursive=True, allow_not_found=True)
        entries = self._files.get_file_info(selector)
        return sorted(entry.path for entry in entries if entry.is_file and entry.path.endswith(".parquet"))

    def _in_order(self) -> Iterator[tuple[Key, str]]:
        """Yield all rows by their keys, each once, with no more files in memory than overlap."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        waiting: list[tuple[Key, str]] = []
        last: Key | None = None
        files = sorted(self._first_keys, key=self._first_keys.__getitem__)
        for path, following in zip(files, [*files[1:], None], strict=False):  # no file at all: no row
            try:
                table = pq.read_table(path, columns=[*KEY, "result"], filesystem=self._files)
            except (OSError, ValueError, pa.ArrowException) as error:
                raise _damaged(path) from error
            keys = zip(*(table[name].to_pylist() for name in KEY), strict=True)
            for item in zip(keys, table["result"].to_pylist(), strict=True):
                heapq.heappush(waiting, item)
            while waiting and (following is None or waiting[0][0] < self._first_keys[following]):
                item = heapq.heappop(waiting)
                if item[0] != last:
                    yield item
                last = item[0]


class _Lines:
    """Joined results as the command writes them."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, row: tuple[Key, str]) -> bool:
        self._stream.write(row[1].encode() + b"\n")
        return "error" in json.loads(row[1])

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


class _Columns:
    """Joined results as parquet: what is in all results in columns, other fields of the input as JSON."""

    def __init__(self, stream: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        spans = [pa.field(name, pa.list_(pa.int32())) for name in ("object_span", "subject_span")]
        names = [pa.field(name, pa.string()) for name in TRIPLET_FIELDS]
        triplet = pa.struct([*names, pa.field("score", pa.float32()), *spans])
        columns = {"line": pa.int64(), "text": pa.string(), "triplets": pa.list_(triplet)}
        self._schema = pa.schema(columns | {"error": pa.string(), "others": pa.string()})
        self._stream, self._rows, self._pa = stream, [], pa  # type: ignore[var-annotated]
        self._writer = pq.ParquetWriter(stream, self._schema)

    def write(self, row: tuple[Key, str]) -> bool:
        fields = json.loads(row[1])
        main = {name: fields.pop(name, None) for name in ("text", "triplets", "error")}
        others = json.dumps(fields, ensure_ascii=False) if fields else None
        self._rows.append({"line": row[0][1], **main, "others": others})
        if len(self._rows) >= ROWS:
            self._flush()
        return main["error"] is not None

    def _flush(self) -> None:
        self._writer.write_table(self._pa.Table.from_pylist(self._rows, self._schema))
        self._rows.clear()

    def close(self) -> None:
        if self._writer.is_open:
            self._flush()
            self._writer.close()
            self._stream.close()

    def __enter__(self) -> _Columns:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _damaged(path: str) -> UserError:
    return UserError(f"{path} 读不出来或已损坏：请删除它，再运行同一命令，缺的会重新做。")


_WRITERS: dict[str, Any] = {"jsonl": _Lines, "parquet": _Columns}


def _ranges(lines: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Put (sub, line) pairs, in order, together to ranges (first line, last line, sub)."""
    ranges: list[list[int]] = []
    for sub, line in lines:
        if ranges and ranges[-1][2] == sub and ranges[-1][1] == line - 1:
            ranges[-1][1] = line
        else:
            ranges.append([line, line, sub])
    return [(first, last, sub) for first, last, sub in ranges]
