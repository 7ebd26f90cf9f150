"""Time and memory of writing a knowledge graph in each format.

Usage: python -m benchmarks.bench_graph --triplets 1000000 [--formats csv cypher …]

The results are made up: two triplets a sentence with spans and scores, three entities for ten triplets, one
fact in ten said again. Each export is a process of its own: its seconds include the start, its CPU seconds
say what it takes where nothing else runs, its memory is the largest resident set that the system saw. The
work file and the output are on the disk of the temporary directory (`TMPDIR`). A tenth of the lines is
measured beside, to show whether memory grows with the file. The last line is a JSON object.
"""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from export.graph import FORMATS
from utils.command_line import ChineseArgumentParser, positive_int
from utils.common_utils import log, run_main
from utils.table import format_table

ROOT = Path(__file__).resolve().parent.parent
MB = 1_000_000
_PREDICATES = ("出生地", "作者", "导演", "主演", "毕业院校", "创始人", "总部地点", "所属专辑", "国籍", "父亲")
_SYLLABLES = "安北城东方高国海华江金林明南平青山石天文西新阳云中"


def make_results(path: Path, triplets: int, seed: int = 0) -> None:
    """Write made-up results, the same for the same arguments."""
    draw = random.Random(seed)
    people, places = max(triplets // 4, 1), max(triplets // 20, 1)

    def name(number: int, base: str) -> str:
        letters = base
        while number:
            number, digit = divmod(number, len(_SYLLABLES))
            letters += _SYLLABLES[digit]
        return letters

    recent: list[dict[str, Any]] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(-(-triplets // 2)):
            found = []
            for _ in range(min(2, triplets - 2 * number)):
                again = recent[draw.randrange(len(recent))] if recent and draw.random() < 0.1 else None
                fact = again or {
                    "predicate": draw.choice(_PREDICATES),
                    "object_type": "地点",
                    "subject_type": "人物",
                    "object": name(draw.randrange(places), "镇"),
                    "subject": name(draw.randrange(people), "赵"),
                }
                if again is None and len(recent) < 1000:
                    recent.append(fact)
                start = draw.randrange(20)
                spans = {"object_span": [start + 8, start + 12], "subject_span": [start, start + 4]}
                found.append(fact | {"score": round(draw.random(), 4)} | spans)
            text = "，".join(f"{fact['subject']}的{fact['predicate']}是{fact['object']}" for fact in found)
            file.write(json.dumps({"text": f"{text}。", "triplets": found}, ensure_ascii=False) + "\n")


def measure(results: Path, name: str, output: Path) -> dict[str, float]:
    """Export once; return seconds, those of the CPU, peak bytes, and the bytes written.

    Raises:
        RuntimeError: the export failed.
    """
    command = [sys.executable, "-m", "export.graph", str(results), "--format", name, "--output", str(output)]
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    written = sum(file.stat().st_size for file in (output, *output.rglob("*")) if file.is_file())
    busy = usage.ru_utime + usage.ru_stime
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(busy, 2),
        "peak_bytes": peak,
        "bytes": written,
    }


def cpu_name() -> str:
    """Return the kind of the CPU and how many of its cores this machine has."""
    kind = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        kind = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), kind)
    return f"{kind}, {os.cpu_count()} cores"


def main() -> int:
    """Run the benchmark."""
    parser = ChineseArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--triplets", type=positive_int, default=1_000_000, help="多少个三元组")
    parser.add_argument(
        "--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS), help="测哪些格式"
    )
    parser.add_argument("--model", choices=("tiny",), default="tiny", help="不用模型，只为与其他测速一致")
    options = parser.parse_args()
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"all": options.triplets, "tenth": max(options.triplets // 10, 1)}
        for size, triplets in sizes.items():
            make_results(Path(folder) / f"{size}.jsonl", triplets)
        for name in options.formats:
            figures[name] = {}
            for size in sizes:
                output = Path(folder) / (f"{size}.ttl" if name == "rdf" else f"{size}.{name}")
                figures[name][size] = measure(Path(folder) / f"{size}.jsonl", name, output)
                subprocess.run(["rm", "-rf", str(output)], check=True)
            log(f"{name}: {figures[name]}")
    rows = [
        [
            name,
            f"{one['all']['seconds']:.1f}",
            f"{one['all']['cpu_seconds']:.1f}",
            f"{one['all']['peak_bytes'] / MB:.0f}",
            f"{one['tenth']['peak_bytes'] / MB:.0f}",
            f"{one['all']['bytes'] / MB:.0f}",
        ]
        for name, one in figures.items()
    ]
    heads = ["format", "seconds", "CPU seconds", "peak MB", "peak MB, a tenth", "output MB"]
    print(format_table(heads, rows))
    print(json.dumps({"triplets": options.triplets, "cpu": cpu_name(), "formats": figures}))
    return 0


if __name__ == "__main__":
    run_main(main)
