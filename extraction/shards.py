"""A file extracted by several processes: each takes parts that nobody has, and results are joined in order.

Beside the output stands a folder `OUTPUT.parts`: `index.json` (how the input is cut), and for each part its
results, a lock while a process works on it, and what came of it when it is done. Whoever has the input and
the folder may take part, at any time: processes of one launcher, further ones, or a single one later. What a
process leaves that dies is free for the others. Finished parts are moved to the output's end in order, so
that nothing is read twice, and the disk holds everything once.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from extraction.files import FileJob, FileSummary, ResultFile, line_heads, lock_results
from extraction.parts import CutFile, cut_file
from extraction.result import Extractor
from utils.common_utils import UserError
from utils.directories import remove, write_file
from utils.progress import Progress
from utils.small_json import read_json_object

PARTS_A_PROCESS = 8  # so that the last ones are shared out, too
WAIT = 0.2  # seconds between looks at what others do
INDEX, LOCK, JOINING = "index.json", "lock", "joining"


def parts_folder(output: Path) -> Path:
    """Return the folder where parts of a file of results are, if there are any."""
    return output.with_name(f"{output.name}.parts")


@dataclass(frozen=True)
class Done:
    """What came of a part: its summary, and the size of its results in bytes."""

    resumed: int
    written: int
    failed: int
    extracted: int
    size: int


class SharedFile:
    """One process's view of a job that others may share.

    Args:
        output: the file that all results end in.
        cut: the input in parts.
    """

    def __init__(self, output: Path, cut: CutFile) -> None:
        self.cut = cut
        self._output, self._folder = output, parts_folder(output)
        self._done: dict[int, Done] = {}
        self._joined = self._end = 0  # parts at the output's beginning, and their bytes
        for number in range(len(cut.parts)):
            self._look(number)
        self._before = frozenset(self._done)  # of earlier runs

    @classmethod
    def open(cls, source: Path, output: Path, text_field: str | None, processes: int) -> SharedFile:
        """Join a job, or begin it: with what one process alone has written already, if the output is there.

        Raises:
            UserError: the input has changed since the job was begun, or the output is not of this input.
            OSError: the folder can't be written.
        """
        folder = parts_folder(output)
        folder.mkdir(exist_ok=True)
        with FileLock(folder / LOCK):
            if (folder / INDEX).exists():
                try:
                    cut = CutFile.from_dict(source, read_json_object(folder / INDEX))
                except (ValueError, KeyError, TypeError) as error:
                    raise _damaged(folder / INDEX, output) from error
                if not cut.is_still(source, text_field):
                    raise UserError(
                        f"{source}（或 --text_field）在上次运行之后变了，{folder} 里是按原来的做的结果："
                        f"请换回原来的，或换一个 --output；不要那些结果就删除 {output} 和这个目录。"
                    )
            else:
                cut = _begin(source, output, text_field, processes * PARTS_A_PROCESS)
            return cls(output, cut)

    def work(
        self, make_job: Callable[[int], FileJob], load: Callable[[], Extractor], progress: Progress
    ) -> FileSummary:
        """Do parts until all are done; those that others are at are waited for, in case they die.

        Args:
            make_job: from a part's number.
            load: the model; called when there is something to extract.
            progress: of all parts.

        Returns:
            The counts of all processes.

        Raises:
            OSError: a file can't be read or written.
        """
        extractor: Extractor | None = None
        seen = 0
        try:
            for number in self._free_parts():
                progress.skip(sum(self._lines(other) for other in list(self._done)[seen:]))
                with closing(make_job(number)) as job:
                    if job.find_rest():
                        extractor = extractor or load()
                        job.finish(extractor, progress)
                    else:
                        progress.skip(job.summary.resumed)
                self._finish(number, job.summary)
                seen = len(self._done)
            progress.skip(sum(self._lines(other) for other in list(self._done)[seen:]))
            with FileLock(self._folder / JOINING):
                self._append_finished()
        except FileNotFoundError:  # another process has seen that all are done, and put the folder away
            if self._folder.exists():
                raise
        return self._summary()

    def result_path(self, number: int) -> Path:
        """Return where the results of a part are written."""
        return self._folder / f"{number:06d}.jsonl"

    def close(self) -> None:
        """Put the folder away: all is in the output."""
        old = self._folder.with_name(f"{self._folder.name}.old")
        remove(old)
        try:
            self._folder.rename(old)  # first: half a folder would be taken for unfinished work
        except FileNotFoundError:
            return
        shutil.rmtree(old, ignore_errors=True)

    def _lines(self, number: int) -> int:
        done = self._done[number]
        return done.resumed + done.written

    def _look(self, number: int) -> bool:
        """Tell whether a part is done."""
        if number not in self._done:
            path = self._folder / f"{number:06d}.done"
            try:
                done = Done(**read_json_object(path))
            except FileNotFoundError:
                return False
            except (ValueError, TypeError) as error:
                raise _damaged(path, self._output) from error
            if not all(type(count) is int and count >= 0 for count in asdict(done).values()):
                raise _damaged(path, self._output)
            self._done[number] = done
        return True

    def _free_parts(self) -> Iterator[int]:
        """Yield the numbers of parts, each locked until the next is asked for, as long as some are undone."""
        waiting = list(range(len(self.cut.parts)))
        while waiting := [number for number in waiting if not self._look(number)]:
            worked = False
            for number in waiting:
                with _try_lock(self._folder / f"{number:06d}.lock") as is_free:
                    if is_free and not self._look(number):
                        worked = True
                        yield number
            if not worked:
                time.sleep(WAIT)

    def _finish(self, number: int, summary: FileSummary) -> None:
        """Note that a part is done, and append what is next in turn to the output."""
        path, size = self.result_path(number), 0
        if path.exists():  # of blank lines only nothing is written
            with path.open("rb") as file:
                os.fsync(file.fileno())  # before it is said to be done
                size = file.seek(0, os.SEEK_END)
        self._done[number] = _note_done(self._folder, number, summary, size)
        with _try_lock(self._folder / JOINING) as is_free:
            if is_free:
                self._append_finished()

    def _append_finished(self) -> None:
        """Move the results of the parts that are next in turn to the output's end.

        A part's own file is removed when the output is safe on the disk, so a kill at any moment costs
        nothing: what it leaves behind the joined parts is cut off and written again.
        """
        while self._joined < len(self.cut.parts) and self._look(self._joined):
            path, size = self.result_path(self._joined), self._done[self._joined].size
            if path.exists():
                with path.open("rb") as part, open(self._output, "r+b", opener=_create) as whole:
                    whole.truncate(self._end)
                    whole.seek(self._end)
                    _append(part, whole, size)
                    os.fsync(whole.fileno())
                path.unlink()
            self._end += size
            self._joined += 1
        if self._joined == len(self.cut.parts) and self._output.exists():
            os.truncate(self._output, self._end)

    def _summary(self) -> FileSummary:
        summary = FileSummary()
        for number, done in self._done.items():
            is_new = number not in self._before
            summary.resumed += done.resumed if is_new else self._lines(number)
            summary.written += done.written if is_new else 0
            summary.extracted += done.extracted if is_new else 0
            summary.failed += done.failed
        return summary


def _damaged(path: Path, output: Path) -> UserError:
    return UserError(
        f"{path} 已损坏，不知道上次做到哪里：请删除目录 {path.parent} 后重新运行，"
        f"{output} 里已有的结果会接着用。"
    )


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


@contextmanager
def _try_lock(path: Path) -> Iterator[bool]:
    """Hold a lock, if nobody else does; say which."""
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _append(source: BinaryIO, target: BinaryIO, size: int) -> None:
    """Copy so many bytes to the end of a file, within the kernel where it can."""
    start = target.tell()
    if hasattr(os, "copy_file_range"):
        try:
            while size and (copied := os.copy_file_range(source.fileno(), target.fileno(), size)):
                size -= copied
            return
        except OSError:  # not on this kind of disk, or not between these two; errors of the disk come again
            source.seek(0)
            target.seek(start)
            target.truncate()
    shutil.copyfileobj(source, target)
    target.flush()


def _note_done(folder: Path, number: int, summary: FileSummary, size: int) -> Done:
    done = Done(**asdict(summary), size=size)
    write_file(folder / f"{number:06d}.done", json.dumps(asdict(done)))
    return done


def _begin(source: Path, output: Path, text_field: str | None, shares: int) -> CutFile:
    """Cut the input, and note as done the parts that the output has already.

    Raises:
        UserError: the output is not of this input, or a process is writing it.
    """
    folder = parts_folder(output)
    for leftover in folder.iterdir():
        if leftover.name != LOCK:
            remove(leftover)
    cut = cut_file(source, text_field, shares)
    if output.exists():
        with output.open("r+b") as file:
            lock_results(file, output)
        _take_over(output, cut)
    write_file(folder / INDEX, json.dumps(cut.to_dict(), ensure_ascii=False))
    return cut


def _take_over(output: Path, cut: CutFile) -> None:
    """Note the parts whose results stand in the output; the beginning of the next one becomes its own file.

    Raises:
        UserError: the output is not of this input.
    """
    folder = parts_folder(output)
    with closing(ResultFile(output)) as results:
        for number in range(len(cut.parts)):
            start, summary = results.end, FileSummary()
            records = cut.records(number)
            while heads := line_heads(islice(records, 64)):
                if results.match(heads, summary) < len(heads):
                    with output.open("rb") as whole, (folder / f"{number:06d}.jsonl").open("wb") as part:
                        whole.seek(start)
                        part.write(whole.read(results.end - start))
                    return
            _note_done(folder, number, summary, results.end - start)
        results.check_end()
