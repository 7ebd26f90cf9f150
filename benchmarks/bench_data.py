"""Time and memory of reading a data file: first start, which tokenises it, and second, from the cache.

Usage: python -m benchmarks.bench_data --lines 100000 [--model full --tokenizer DIR]

Each start is a process of its own. Seconds are those of `load_data` (imports excluded). Peak memory is the
sum of the resident sets of the process (torch being most of it) and its workers, looked at 50 times a second.
A quarter of the lines is measured beside, to show that memory does not grow with the file; both should be
large enough for workers (8 MB). The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from utils.command_line import ChineseArgumentParser
from utils.common_utils import UserError, log, run_main

ROOT = Path(__file__).resolve().parent.parent

DATA = ROOT / "data" / "mixed_train_dataset.jsonl"
EMBEDDED = ROOT / "models" / "chatglm-tiny"


def main() -> int:
    """Run the benchmark."""
    parser = ChineseArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model",
        choices=("tiny", "block", "full"),
        default="tiny",
        help="whose tokenizer: tiny and block use the embedded one, full needs --tokenizer",
    )
    parser.add_argument("--tokenizer", type=Path, help="directory with ChatGLM-6B's tokenizer, for full")
    parser.add_argument("--device", choices=("cpu",), default="cpu", help="where this happens in any case")
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--load", nargs=2, type=Path, metavar=("FILE", "CACHE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if (args.model == "full") != (args.tokenizer is not None):
        raise UserError("--model full 要用 --tokenizer 指定 ChatGLM-6B 的分词器目录；其余的用内置分词器。")
    tokenizer_dir = args.tokenizer or EMBEDDED
    if args.load:
        file, cache = args.load
        print(json.dumps(load(file, cache, tokenizer_dir)))
        return 0

    results = {}
    for name, lines in (("all", args.lines), ("quarter", args.lines // 4)):
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data.jsonl"
            write_lines(data, lines)
            command = [
                sys.executable,
                "-m",
                "benchmarks.bench_data",
                *sys.argv[1:],
                "--load",
                str(data),
                f"{folder}/cache",
            ]
            for start in ("first", "second"):
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                results[name, start] = json.loads(output)
                log(f"{lines} 行，{'第一次' if start == 'first' else '第二次'}：完成")
    report(args, results)
    return 0


def write_lines(file: Path, lines: int) -> None:
    """Write so many lines: the bundled ones over and over, each with a number of its own in its sentence."""
    bundled = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    with file.open("w", encoding="utf-8") as output:
        for number in range(lines):
            line = bundled[number % len(bundled)]
            context = line["context"].replace("\nAnswer: ", f"（{number}）\nAnswer: ")
            output.write(json.dumps(line | {"context": context}, ensure_ascii=False) + "\n")


def load(file: Path, cache_dir: Path, tokenizer_dir: Path) -> dict[str, Any]:
    """Be one start: load a file and return what that took."""
    from bases.chatglm import load_tokenizer
    from data_handle.data_loader import load_data

    tokenizer = load_tokenizer(tokenizer_dir)
    done = threading.Event()
    peaks = {"own": 0, "all": 0}
    watch = threading.Thread(target=watch_memory, args=(done, peaks))
    watch.start()
    start = time.perf_counter()
    loaded = load_data(file, tokenizer, max_source_seq_len=256, max_target_seq_len=128, cache_dir=cache_dir)
    seconds = time.perf_counter() - start
    done.set()
    watch.join()
    return {"seconds": seconds, "tokens": loaded.summary.tokens, **peaks}


def watch_memory(done: threading.Event, peaks: dict[str, int]) -> None:
    """Record the most memory that this process, and it with its children, had until `done`, and then."""
    process = psutil.Process()
    ended = False
    while not ended:
        ended = done.wait(0.02)
        own = total = process.memory_info().rss
        for child in process.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += child.memory_info().rss
        peaks["own"], peaks["all"] = max(peaks["own"], own), max(peaks["all"], total)


def report(args: argparse.Namespace, results: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Print the table and the line of JSON."""
    import torch

    from benchmarks.measure import show

    rows = [("", "行", "token", "秒", "峰值内存（MB）", "其中主进程（MB）")]
    for (name, start), values in results.items():
        lines = args.lines if name == "all" else args.lines // 4
        rows.append(
            (
                "第一次" if start == "first" else "第二次",
                str(lines),
                str(values["tokens"]),
                f"{values['seconds']:.2f}",
                f"{values['all'] / 2**20:.0f}",
                f"{values['own'] / 2**20:.0f}",
            )
        )
    first, quarter = results["all", "first"], results["quarter", "first"]
    result = {
        "model": args.model,
        "lines": args.lines,
        "first_seconds": round(first["seconds"], 3),
        "second_seconds": round(results["all", "second"]["seconds"], 3),
        "peak_bytes": first["all"],
        "peak_bytes_quarter": quarter["all"],
        "second_peak_bytes": results["all", "second"]["all"],
        "second_peak_bytes_quarter": results["quarter", "second"]["all"],
    }
    show(rows, result, torch.device(args.device))


if __name__ == "__main__":
    run_main(main)
