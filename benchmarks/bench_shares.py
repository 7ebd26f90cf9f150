"""What a file costs that several processes share, without a model: bytes read, and CPU seconds of each.

Usage: python -m benchmarks.bench_shares --lines 1000000 --processes 4

Answers are empty and come at once, so that only reading, sharing out, writing and joining are measured. Bytes
are those that system calls have read (`rchar` of /proc/self/io; joining within the kernel included). The last
line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_data import write_lines
from benchmarks.measure import show
from extraction.files import FileJob, ResultFile
from extraction.parsing import AnswerStatus
from extraction.result import Extraction
from extraction.shards import SharedFile
from utils.command_line import ChineseArgumentParser, positive_int
from utils.common_utils import run_main
from utils.progress import Progress

FIELD = "context"
BATCH_SIZE = 8


def main() -> int:
    """Run the benchmark."""
    parser = ChineseArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lines", type=positive_int, default=1_000_000, help="行数")
    parser.add_argument("--processes", type=positive_int, default=4, help="进程数")
    parser.add_argument("--share", nargs=2, type=Path, metavar=("FILE", "OUTPUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.share:
        print(json.dumps(share(args.share[0], args.share[1], args.processes)))
        return 0
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.jsonl"
        write_lines(source, args.lines)
        for count in dict.fromkeys((1, args.processes)):
            command = [sys.executable, "-m", "benchmarks.bench_shares", "--processes", str(count), "--share"]
            children = [
                subprocess.Popen([*command, source, f"{folder}/{count}"], stdout=subprocess.PIPE)
                for _ in range(count)
            ]
            results[count] = [json.loads(child.communicate()[0]) for child in children]
        assert all(
            Path(f"{folder}/{count}").read_bytes() == Path(f"{folder}/1").read_bytes() for count in results
        )
        size = source.stat().st_size
    rows = [("进程", "CPU 秒，最多的一个", "CPU 秒，合计", "读的字节 / 文件", "其中第一个进程")]
    for count, shares in results.items():
        cpu, read = ([item[name] for item in shares] for name in ("cpu", "read"))
        rows.append(
            (
                str(count),
                f"{max(cpu):.1f}",
                f"{sum(cpu):.1f}",
                f"{sum(read) / size:.2f}",
                f"{max(read) / size:.2f}",
            )
        )
    result = {
        "lines": args.lines,
        "bytes": size,
        "shares": {str(key): value for key, value in results.items()},
    }
    show(rows, result, torch.device("cpu"))
    return 0


class Silent:
    """Finds nothing, at once."""

    def stream(self, sentences: Sequence[str], **_: Any) -> Iterator[tuple[int, Extraction]]:
        """Answer sentences in turn."""
        for number in range(len(sentences)):
            yield number, Extraction([], "[]", AnswerStatus.OK)


def share(source: Path, output: Path, processes: int) -> dict[str, float]:
    """Be one of the processes; return what that took."""
    start, before = time.process_time(), read_so_far()
    shared = SharedFile.open(source, output, FIELD, processes)

    def make_job(number: int) -> FileJob:
        return FileJob(shared.cut.records(number), ResultFile(shared.result_path(number)), BATCH_SIZE)

    extractor: Any = Silent()
    shared.work(make_job, lambda: extractor, Progress(enabled=False))
    return {"cpu": round(time.process_time() - start, 2), "read": read_so_far() - before}


def read_so_far() -> int:
    """Return the bytes that this process has read."""
    return int(Path("/proc/self/io").read_text("ascii").split()[1])


if __name__ == "__main__":
    run_main(main)
