"""Runs that are really killed (SIGKILL) at random moments and resumed, compared with one that never was."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from training.run_directory import list_checkpoints
from utils.directories import find_damage

TIMED = ("tokens_per_second", "memory_")  # figures of the machine, not of the run


def train_command(root: Path, base: Path, directory: Path, save_dir: Path, epochs: int) -> list[str]:
    """Write a small data set if it isn't there, and return the command of a short run with many saves."""
    lines = (root / "data" / "mixed_train_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    for name, part in (("train.jsonl", lines[:16]), ("dev.jsonl", lines[16:20])):
        (directory / name).write_text("\n".join(part) + "\n", encoding="utf-8")
    knobs = {
        "pre_model": base, "train_path": directory / "train.jsonl", "dev_path": directory / "dev.jsonl",
        "save_dir": save_dir, "epochs": epochs, "device": "cpu", "learning_rate": 1e-2, "logging_steps": 3,
        "save_freq": 1, "save_total_limit": 2, "eval_steps": 3, "eval_samples": 2, "max_source_seq_len": 96,
        "max_target_seq_len": 48, "tensorboard": "false", "token_cache_dir": directory / "cache",
    }  # fmt: skip
    words = [word for name, value in knobs.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "train.py", *words]


def outcome(save_dir: Path) -> dict[str, object]:
    """Return all that a run leaves that must not depend on kills, the weights as bytes."""
    lines = map(json.loads, (save_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    metrics = [{k: v for k, v in line.items() if not k.startswith(TIMED)} for line in lines]
    last = list_checkpoints(save_dir)[-1]
    weights = {path.parent.name: path.read_bytes() for path in save_dir.glob("*/adapter_model.safetensors")}
    return {"metrics": metrics, "last": last.name, **weights}


def run_with_kills(
    root: Path, command: list[str], save_dir: Path, kills: int, rng: random.Random, window: float
) -> int:
    """Kill the run `kills` times at random moments of up to `window` seconds of training, then let it end.

    Returns:
        How many kills really hit a running training (a run that ends before its kill is not counted).
    """
    hits = 0
    for attempt in range(kills + 1):
        process = subprocess.Popen(  # one command for the first start and every restart
            [*command, "--resume_from_checkpoint", "auto"],
            cwd=root,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        assert process.stderr is not None
        said = []
        if attempt < kills:
            for line in process.stderr:
                said.append(line)
                if "开始训练" in line:
                    break
            time.sleep(rng.uniform(0, window))
            hits += process.poll() is None
            process.kill()
        said += process.stderr.readlines()
        code = process.wait(timeout=300)
        assert code in (0, -9), "".join(said)
        if attempt == kills:
            assert code == 0, "".join(said)
    assert all(find_damage(path) is None for path in list_checkpoints(save_dir))
    assert not list(save_dir.glob(".*.new")) + list(save_dir.glob(".*.old"))
    return hits
