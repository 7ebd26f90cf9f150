"""Directories of runs as training leaves them, and a stand-in for `train.py` that only waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Takes the lock of its directory, says its words, and at SIGTERM leaves a checkpoint.
TRAINER = """
import fcntl, json, os, signal, sys, time
words = dict(word[2:].split("=", 1) for word in sys.argv[1:])
path = words["save_dir"]
os.makedirs(path, exist_ok=True)
lock = os.open(path, os.O_RDONLY)
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
about = {"words": words, "key": os.environ.get("TRIPLET_API_KEY")}
open(path + "/.training_run.json", "w").write(json.dumps(about))
def stop(*_):
    os.makedirs(path + "/checkpoint-3", exist_ok=True)
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("训练中", flush=True)
time.sleep(60)
"""


def write_run(directory: Path, steps: int = 3, loss: float = 0.5, **marker: Any) -> Path:
    """Write what a run of so many steps has logged, a second and 100 tokens each."""
    directory.mkdir(parents=True)
    train = {
        "kind": "train",
        "loss": loss,
        "learning_rate": 2e-4,
        "memory_peak": 10,
        "tokens_per_second": 100,
    }
    records = [{**train, "step": step, "tokens_seen": 100 * step} for step in range(1, steps + 1)]
    records.append({"kind": "eval", "step": steps, "dev_loss": 0.4, "triplet_f1": 0.7})
    text = "".join(json.dumps(record) + "\n" for record in records)
    (directory / "metrics.jsonl").write_text(text, "utf-8")
    (directory / ".training_run.json").write_text(json.dumps({"finished": False, **marker}), "utf-8")
    return directory


def write_report(directory: Path, errors: int) -> None:
    """Write an evaluation with so many wrong sentences."""
    score = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "correct": 1, "predicted": 2, "expected": 2}
    match = {"strict": score, "relaxed": score}
    fact = {"predicate": "作者", "object_type": "人物", "subject_type": "图书作品", "subject": "活着"}
    wrong = [
        {
            "sentence": f"第{number}句：《活着》是余华写的<b>小说</b>。",
            "status": "ok",
            "missing": [{**fact, "object": "余华"}],
            "spurious": [{**fact, "object": "小说"}],
        }
        for number in range(errors)
    ]
    row = {"from": 0.5, "to": 0.6, "triplets": 4, "mean_score": 0.55, "precision": 0.5}
    bins = [{**row, "triplets_above": 4, "precision_above": 0.5}]
    report = {
        "dev_loss": 0.4,
        "triplets": {
            "sentences": errors, **match, "exact_match": 0.0, "per_predicate": {"作者": match},
            "error_count": errors, "errors": wrong,
        },
        "reliability": {"expected_calibration_error": 0.05, "half_right_score": 0.5, "bins": bins},
    }  # fmt: skip
    (directory / "eval_report.json").write_text(json.dumps(report, ensure_ascii=False), "utf-8")
