"""A file's lines shared out among processes (`accelerate launch`), and their results joined in order."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from extraction.files import FileSummary
from utils.common_utils import UserError
from utils.launcher import PATIENCE, read_launcher

T = TypeVar("T")
# Lines that go to the same process together; whatever the batch size, so that a restart may change it.
SHARE = 16


@dataclass(frozen=True)
class Shards:
    """One process's view of the job.

    Args:
        output: the file that all results end in.
        rank, count: this process and all of them.
    """

    output: Path
    rank: int = 0
    count: int = 1

    @classmethod
    def of_this_process(cls, output: Path) -> Shards:
        """Read from the environment, as launchers set it, which process this is.

        With an output that is there already, of this job in one process or finished, all is left to the
        first process, which continues or checks it.

        Raises:
            UserError: another number of processes has left unfinished results.
        """
        rank, count = read_launcher()
        shards = cls(output, rank, count)
        shards._refuse_others()
        if count > 1:
            PartialState(cpu=True, timeout=PATIENCE)  # they meet here, and again when they are done
            if output.exists() and not any(shards._path(rank).exists() for rank in range(count)):
                return cls(output, rank, 1)
        return shards

    @property
    def path(self) -> Path:
        """The file that this process writes."""
        return self.output if self.rank == 0 and self.count == 1 else self._path(self.rank)

    def _refuse_others(self) -> None:
        """Make sure that no files of another number of processes wait to be finished."""
        pattern = re.compile(re.escape(self.output.name) + r"\.\d+-of-(\d+)")
        with os.scandir(self.output.parent) as entries:
            for entry in entries:
                if (match := pattern.fullmatch(entry.name)) and int(match[1]) != self.count:
                    raise UserError(
                        f"{self.output} 有 {match[1]} 个进程没有做完的结果（{entry.name} 等）："
                        f"请仍用 {match[1]} 个进程继续，或先删除这些文件。"
                    )

    def _path(self, rank: int) -> Path:
        return self.output.with_name(f"{self.output.name}.{rank + 1}-of-{self.count}")

    def device(self) -> str | None:
        """Return the GPU of this process, if there are several processes; None without GPUs."""
        if self.count == 1 or not torch.cuda.is_available():
            return None
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"

    def mine(self, lines: Iterable[T]) -> Iterator[T]:
        """Yield the lines of this process: every `count`-th share."""
        for number, line in enumerate(lines):
            if number // SHARE % self.count == self.rank:
                yield line

    def join(self, summary: FileSummary) -> FileSummary:
        """Wait for the other processes, and let the first one put their files together.

        Returns:
            In the first process, the counts of all; in the others, their own.

        Raises:
            OSError: a file can't be read or written.
        """
        if self.count == 1:
            return summary
        summaries: list[FileSummary] = gather_object([summary])  # waits for all
        if self.rank == 0:
            self._join_files()
            summary = FileSummary(
                sum(item.resumed for item in summaries),
                sum(item.written for item in summaries),
                sum(item.failed for item in summaries),
                sum(item.extracted for item in summaries),
            )
        gather_object([None])  # a process that ends before the files are joined would end the first one too
        return summary

    def _join_files(self) -> None:
        """Write the shares of all files in turn, then remove the files."""
        paths = [self._path(rank) for rank in range(self.count)]
        paths = [path for path in paths if path.exists()]  # a process without lines writes none
        whole = self.output.with_name(f"{self.output.name}.joining")
        files = [path.open("rb") for path in paths]
        try:
            whole.unlink(missing_ok=True)  # of a run that was killed, or a link that somebody has put there
            with whole.open("xb") as target:
                waiting = deque(files)
                while waiting:
                    file = waiting.popleft()
                    if lines := list(islice(file, SHARE)):
                        target.writelines(lines)
                        waiting.append(file)
        finally:
            for file in files:
                file.close()
        whole.replace(self.output)
        for path in paths:
            path.unlink()
