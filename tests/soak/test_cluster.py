"""Extraction on real clusters of Ray: one of this machine alone; one of two nodes, where a worker is killed,
then the driver. The joined results are those of the command in one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from inference_triplet import main
from tests.helpers.extraction_samples import FILM, NOVEL, RAIN, TinyRun

pytest.importorskip("ray", reason="pip install -r requirements-ray.txt")
pytestmark = pytest.mark.soak

LINES = 600
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",  # none is written to the home directory
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # others on this machine may need much memory
    "RAY_worker_niceness": "0",  # at 15, as Ray has it, a busy machine would not let them begin
}


def workers() -> list[psutil.Process]:
    """Return the processes of actors with a model."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "ray::MapWorker" in " ".join(process.info["cmdline"] or []):
            found.append(process)
    return found


def test_two_nodes_a_killed_worker_and_a_killed_driver(
    root: Path, tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    for name in ("a", "b"):
        lines = [FILM, NOVEL, RAIN, "  x"]
        text = "".join(f"{lines[number % 4]}\n" for number in range(LINES))
        (tmp_path / f"{name}.txt").write_bytes(text.encode() + b"\xff\n")
    options = ["--adapter", str(tiny_run.adapter), "--batch_size", "1"]
    for name in ("a", "b"):
        one = tmp_path / "one" / f"{name}.jsonl"
        one.parent.mkdir(exist_ok=True)
        assert main([*options, "--input", str(tmp_path / f"{name}.txt"), "--output", str(one)]) == 1

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    try:
        cluster.add_node(num_cpus=3)
        output = tmp_path / "out"
        command = [sys.executable, "extract_ray.py", *options, "--input", str(tmp_path / "?.txt")]
        command += ["--output", str(output), "--workers", "2:2", "--address", cluster.address]

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True, encoding="utf-8")

        def wait_for(files: int) -> None:
            for _ in range(1200):
                if len(list(output.glob("parts/*.parquet"))) >= files:
                    return
                assert driver.poll() is None, driver.stderr and driver.stderr.read()
                time.sleep(0.25)
            raise AssertionError("nothing is written")

        driver = start()
        wait_for(1)
        victim = workers()[0]
        os.kill(victim.pid, signal.SIGKILL)
        wait_for(4)
        driver.kill()
        driver.wait()
        kept = list(output.glob("parts/*.parquet"))
        (output / "parts" / "half.parquet").write_bytes(kept[0].read_bytes()[:-9])  # cut off by the kill
        driver = start()
        _, said = driver.communicate(timeout=900)
        assert driver.returncode == 1, said  # the bad lines
        assert f"共 {2 * (LINES + 1)} 行" in said
        for name in ("a", "b"):
            joined = (output / f"{name}.jsonl").read_bytes()
            assert joined == (tmp_path / "one" / f"{name}.jsonl").read_bytes()
        assert not (output / "parts").exists()
    finally:
        cluster.shutdown()


def test_a_job_gives_the_files_of_the_command(root: Path, tiny_run: TinyRun, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(f"{FILM}\n\n{NOVEL}\n".encode() + b"\xff\n")
    rows = [{"text": text, "n": number} for number, text in enumerate([RAIN, FILM])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / "b.parquet", row_group_size=1)
    options = ["--adapter", str(tiny_run.adapter), "--batch_size", "1"]
    one = tmp_path / "one.jsonl"
    assert main([*options, "--input", str(tmp_path / "in" / "a.txt"), "--output", str(one)]) == 1
    words = [*options, "--input", str(tmp_path / "in" / "*"), "--output", str(tmp_path / "out")]

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "extract_ray.py", *words, "--workers", "1"],
            cwd=root, env=os.environ | ENVIRONMENT, capture_output=True, encoding="utf-8",
            timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr  # for the line that is no text
        assert done.stdout == ""
        return done.stderr

    assert "共 5 行，2 个文件" in run()
    assert (tmp_path / "out" / "a.jsonl").read_bytes() == one.read_bytes()
    second = [json.loads(line) for line in (tmp_path / "out" / "b.jsonl").open(encoding="utf-8")]
    assert [(row["text"], row["n"]) for row in second] == [(RAIN, 0), (FILM, 1)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.jsonl", "b.jsonl", "done.json", "job.json",
    ]  # fmt: skip
