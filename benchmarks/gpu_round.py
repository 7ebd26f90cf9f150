"""All GPU figures of docs/performance.md in one go, within minutes: extraction, training, memory, the demo.

Usage: python -m benchmarks.gpu_round --out DIR [--data FILE --tokenizer DIR] [--seconds 330]

Each stage is a process of its own with a limit of time, the most important first; what it measures goes to
DIR/results.jsonl as it is known, so that nothing is lost if the time is up. `--model block --device cpu`
rehearses everything without a card.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu_extraction import ExtractionStage
from benchmarks.gpu_stages import note
from benchmarks.gpu_training import TrainingStage
from benchmarks.training_paths import model_directory
from utils.command_line import ChineseArgumentParser
from utils.common_utils import quiet_libraries, run_main, set_seed
from utils.device import avoid_planning_kernels

# Stages that are no matter of speed, and run side by side; then the others. With the seconds that each may
# take of the whole.
MEMORY_STAGES, MEMORY_SECONDS = ("budget10", "budget8"), 75
STAGES = (("extraction", 150), ("training", 120))
DEMO_SECONDS = 130
SECONDS = 330


def main() -> int:
    """Run all stages, or one."""
    parser = ChineseArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory of the results")
    parser.add_argument("--model", choices=("tiny", "block", "full"), default="full")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--pre_model", type=Path, help="model directory, if there is one already")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/gpu_round"))
    parser.add_argument("--tokenizer", type=Path, help="tokenizer directory for the random weights")
    parser.add_argument("--data", type=Path, default=Path("data/mixed_train_dataset.jsonl"))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for everything together")
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--no_demo", action="store_true")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.fp32 = args.bf16 = args.no_4bit = args.in_8bit = False
    args.out.mkdir(parents=True, exist_ok=True)
    quiet_libraries()
    set_seed(0)
    if args.stage:
        avoid_planning_kernels()
        kind = ExtractionStage if args.stage == "extraction" else TrainingStage
        kind(args).run()
        return 0
    return run_all(args)


def run_all(args: argparse.Namespace) -> int:
    """Make the weights, run the stages; the demo beside what is no matter of speed."""
    deadline = time.monotonic() + args.seconds
    scale = max(1.0, args.seconds / SECONDS)
    args.scratch.mkdir(parents=True, exist_ok=True)
    demo = None if args.no_demo else start_demo(args)
    started = time.monotonic()
    if (args.scratch / "model" / "pytorch_model.bin.index.json").exists():  # of an earlier round
        args.pre_model = args.scratch / "model"
    pre_model = model_directory(args, args.scratch)
    note(args, "checkpoint", seconds=round(time.monotonic() - started, 1))
    jobs = [start_stage(args, name, pre_model) for name in MEMORY_STAGES]
    for name, job in zip(MEMORY_STAGES, jobs, strict=True):
        wait(args, name, job, min(MEMORY_SECONDS * scale, deadline - time.monotonic()))
    if demo is not None:  # nothing else may run from now on
        end_demo(args, demo, min(deadline, started + DEMO_SECONDS * scale) - time.monotonic(), started)
    for name, limit in STAGES:
        left = deadline - time.monotonic()
        if left < 15:
            note(args, name, skipped="no time left")
            continue
        wait(args, name, start_stage(args, name, pre_model), min(limit * scale, left))
    return 0


def start_stage(args: argparse.Namespace, name: str, pre_model: Path) -> subprocess.Popen[bytes]:
    """Start a stage."""
    command = [sys.executable, "-m", "benchmarks.gpu_round", *sys.argv[1:]]
    return subprocess.Popen([*command, "--stage", name, "--pre_model", str(pre_model)])


def wait(args: argparse.Namespace, name: str, job: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for a stage, end it when its time is up, and note how it ended."""
    begun = time.monotonic()
    try:
        code = job.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        job.kill()
        code = -1
    note(args, name, exit_code=code, seconds=round(time.monotonic() - begun, 1))


def start_demo(args: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start the demo's training on the device."""
    directory = args.scratch / "demo"
    text = Path("Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    knobs = next(line for line in text.splitlines() if line.startswith("DEMO := ")).split()[2:]
    knobs[knobs.index("--save_dir") + 1] = str(directory)
    command = [sys.executable, "train.py", *knobs, "--device", args.device]
    with (args.out / "demo.log").open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def end_demo(args: argparse.Namespace, demo: subprocess.Popen[bytes], seconds: float, started: float) -> None:
    """Wait for the demo, and note what it came to."""
    try:
        code = demo.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        demo.kill()
        code = -1
    lines = (args.out / "demo.log").read_text(encoding="utf-8", errors="replace").splitlines()
    tail = [line for line in lines if "F1" in line or "token/s" in line or "秒" in line][-6:]
    note(args, "demo", exit_code=code, seconds=round(time.monotonic() - started, 1), tail=tail)


if __name__ == "__main__":
    run_main(main)
