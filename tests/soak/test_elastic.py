"""Elastic training: two agents of torchrun on one machine; a worker is killed, then an agent with its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from training.run_directory import list_checkpoints

pytestmark = pytest.mark.soak
EPOCHS = 8


def command(root: Path, base: Path, directory: Path, save_dir: Path) -> list[str]:
    lines = (root / "data" / "mixed_train_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    for name, part in (("train.jsonl", lines[:16]), ("dev.jsonl", lines[16:20])):
        (directory / name).write_text("\n".join(part) + "\n", encoding="utf-8")
    knobs = {
        "pre_model": base, "train_path": directory / "train.jsonl", "dev_path": directory / "dev.jsonl",
        "save_dir": save_dir, "epochs": EPOCHS, "device": "cpu", "learning_rate": 1e-2, "logging_steps": 1,
        "save_freq": 1, "save_total_limit": 2, "eval_samples": 2, "max_source_seq_len": 96,
        "max_target_seq_len": 48, "tensorboard": "false", "token_cache_dir": directory / "cache",
        "lora_dropout": 0, "bf16": "false", "fp16": "false",
    }  # fmt: skip
    return [word for name, value in knobs.items() for word in (f"--{name}", str(value))]


def losses(save_dir: Path) -> list[float]:
    lines = (save_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if record["kind"] == "train"]


def step(save_dir: Path) -> int:
    checkpoints = list_checkpoints(save_dir) if save_dir.exists() else []
    return int(checkpoints[-1].name.split("-")[1]) if checkpoints else 0


def wait_for_step(save_dir: Path, wanted: int, agents: list[subprocess.Popen[str]], log: Path) -> None:
    for _ in range(2400):
        if step(save_dir) >= wanted:
            return
        assert any(agent.poll() is None for agent in agents), log.read_text("utf-8")[-3000:]
        time.sleep(0.1)
    raise AssertionError(log.read_text("utf-8")[-3000:])


def test_a_killed_worker_and_a_lost_machine(root: Path, random_base: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "SAMPLES_PER_STEP": "4"}
    worker = ["bash", "configs/elastic_worker.sh"]
    subprocess.run(
        [*worker, *command(root, random_base, tmp_path, tmp_path / "alone")],
        cwd=root, env=environment, check=True, capture_output=True,
    )  # fmt: skip

    together = tmp_path / "together"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc-per-node", "1"]
    launch += ["--max-restarts", "5", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    launch += ["--rdzv-id", "test", "--local-addr", "127.0.0.1", "--rdzv-conf", "last_call_timeout=8"]
    launch += ["--monitor-interval", "0.5", "--no-python", *worker]
    launch += command(root, random_base, tmp_path, together)
    log = tmp_path / "log"
    with log.open("w") as output:
        agents = []
        for _ in range(2):
            agents.append(subprocess.Popen(launch, cwd=root, env=environment, stderr=output, stdout=output))
            time.sleep(1)  # the first one holds the rendezvous
        try:
            wait_for_step(together, 3, agents, log)
            (victim,) = psutil.Process(agents[1].pid).children()
            victim.kill()
            wait_for_step(together, step(together) + 3, agents, log)
            for child in psutil.Process(agents[1].pid).children():
                child.kill()
            agents[1].kill()
            assert agents[0].wait(600) == 0, log.read_text("utf-8")[-3000:]
        finally:
            for agent in agents:
                agent.kill()
    said = log.read_text("utf-8")
    assert said.count("从检查点") >= 2 or said.count("继续") >= 2
    assert step(together) == 4 * EPOCHS
    assert losses(together) == pytest.approx(losses(tmp_path / "alone"), abs=2e-3)
