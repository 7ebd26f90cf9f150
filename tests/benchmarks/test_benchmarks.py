"""The benchmarks run, on the smallest sizes, and end in a line of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import (
    bench_data,
    bench_graph,
    bench_inference,
    bench_quality,
    bench_select,
    bench_serving,
    bench_training,
    gpu_round,
    overlap,
)
from data_handle.data_preprocess import Features
from tests.helpers.causal_bases import make_base
from tests.helpers.extraction_samples import TinyRun
from tests.helpers.runs import process_as_before

Bench = Callable[..., dict[str, Any]]


@pytest.fixture
def bench(root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    """Run a benchmark in this process; gives the object of its last line."""

    def run(module: ModuleType, *words: object) -> dict[str, Any]:
        monkeypatch.chdir(root)  # its own processes are of `python -m`
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, words)])
        monkeypatch.setattr(module, "quiet_libraries", lambda: None, raising=False)  # it lasts
        with process_as_before():
            assert module.main() == 0
        figures: dict[str, Any] = json.loads(capfd.readouterr().out.splitlines()[-1])
        return figures

    return run


def result(root: Path, script: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark that measures its own process in one of its own."""
    command = [sys.executable, "-m", f"benchmarks.{script}", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def test_training_against_the_recipe(bench: Bench, random_base: Path) -> None:
    figures = bench(bench_training, "--model", "tiny", "--pre_model", random_base, "--steps", 1)
    assert figures["ratio"] == pytest.approx(
        figures["samples_per_s"] / figures["recipe_samples_per_s"], rel=0.01
    )
    assert figures["ratio"] > 1
    assert {"peak_bytes", "recipe_peak_bytes", "device", "versions"} <= figures.keys()


def test_peers_that_draw_at_random_take_the_same_samples() -> None:
    steps = [[Features([step, place], [0, 0]) for place in range(8)] for step in range(4)]
    drawn = bench_training.shuffled(steps)
    assert drawn[0] == steps[0]
    assert drawn != steps
    pools = [sorted(repr(sample) for samples in each for sample in samples) for each in (steps, drawn)]
    assert pools[0] == pools[1]
    costs = [((1.0, 2.0), (3.0, 4.0)), ((2.0, 1.0), (2.0, 5.0)), ((1.0, 1.0), (1.0, 1.0))]
    assert bench_training.compare(costs, 0, of_sums=False) == 1
    assert bench_training.compare(costs, 0, of_sums=True) == 1.5
    assert bench_training.compare(costs, 1, of_sums=True) == 2.5


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from /proc")
def test_memory_of_one_case(root: Path, random_base: Path, tmp_path: Path) -> None:
    figures = result(
        root, "bench_memory", "--model", "tiny", "--case", "all", "--scratch", str(tmp_path),
        "--pre_model", str(random_base),
    )  # fmt: skip
    assert 0 < figures["step"] <= figures["peak"]
    assert figures["tokens"] > 0


def test_inference_against_generate(bench: Bench, tmp_path: Path) -> None:
    sizes = ["--sentences", 4, "--single", 2, "--batch_size", 2, "--repeats", 1]
    figures = bench(bench_inference, "--model", "tiny", *sizes, "--adapter", tmp_path / "none")
    assert 0 < figures["passes_per_token"] < 1
    assert figures["throughput_ratio"] > 0
    assert figures["latency_ratio"] > 0
    assert 0 < figures["constraint_share"] < 1


def test_a_simulated_device_hides_the_host_s_work(bench: Bench) -> None:
    words = ["--simulate", 5, 25, 4.5, "--sentences", 40, "--batch_size", 16]
    groups = bench(bench_inference, *words)["groups"]
    assert groups["1"]["exposed_constraint"] == pytest.approx(groups["1"]["constraint"], abs=1e-3)
    assert 0 < groups["2"]["exposed_constraint"] < 0.7 * groups["2"]["constraint"]
    assert groups["2"]["busy"] > groups["1"]["busy"] > 0


@pytest.mark.parametrize("stage", ["budget8", "extraction"])
def test_the_card_s_round_is_rehearsed(
    stage: str, random_base: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a card a mistake in it would show when there is one, and little time."""
    words = ["--out", tmp_path, "--model", "tiny", "--device", "cpu", "--stage", stage, "--scratch", tmp_path]
    words += ["--pre_model", random_base, "--sentences", 2]
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["gpu_round", *map(str, words)])
    monkeypatch.setattr(gpu_round, "quiet_libraries", lambda: None)
    with process_as_before():
        assert gpu_round.main() == 0
    found = [json.loads(line) for line in (tmp_path / "results.jsonl").open(encoding="utf-8")]
    names = {line["what"] for line in found}
    assert (
        names >= {"extraction": {"overlap", "rows move", "peak"}, "budget8": {"budget 8 GB", "peak"}}[stage]
    )


def test_work_beside_a_busy_device() -> None:
    busy = [(1.0, 2.0), (3.0, 5.0)]
    assert overlap.exposed([(0.5, 1.5), (1.5, 3.5), (6.0, 6.25)], busy) == pytest.approx(0.5 + 1.0 + 0.25)
    assert overlap.exposed([(0.0, 1.0)], []) == 1.0


def test_data_twice(bench: Bench) -> None:
    figures = bench(bench_data, "--model", "tiny", "--lines", 300)
    assert figures["lines"] == 300
    assert figures["first_seconds"] > 0
    assert figures["second_seconds"] > 0
    assert figures["peak_bytes"] > 0


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the peak of a process is asked of the system")
def test_graph_export(bench: Bench) -> None:
    figures = bench(bench_graph, "--triplets", 200, "--formats", "csv", "cypher")
    assert figures["triplets"] == 200 and figures["cpu"]
    for name in ("csv", "cypher"):
        assert figures["formats"][name]["all"]["bytes"] > figures["formats"][name]["tenth"]["bytes"] > 0
        assert figures["formats"][name]["all"]["peak_bytes"] > 0


def test_quality_by_lines(bench: Bench, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (root / "data" / "mixed_dev_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    (data := tmp_path / "lines.jsonl").write_text("\n".join(lines[:8]) + "\n", encoding="utf-8")
    files = [word for name in ("train", "dev", "test") for word in (f"--{name}", data)]
    words = [*files, "--lines", 8, "--seeds", 1, "--output", tmp_path / "out", "--", "--epochs", 1]
    first = bench(bench_quality, *words)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it trains again"))
    again = bench(bench_quality, *words)
    assert again == first
    size = again["sizes"][0]
    assert size["lines"] == 8 and size["interval"][0] <= size["strict"] <= size["interval"][1]
    assert (tmp_path / "out" / "curve.svg").read_text(encoding="utf-8").startswith("<svg")


def test_quality_trains_all_linear_layers_of_any_base(root: Path, tmp_path: Path) -> None:
    assert "dense_h_to_4h" in bench_quality.lora_modules(root / "models" / "chatglm-tiny")
    assert bench_quality.lora_modules(make_base(tmp_path / "llama", "llama")) == ("auto",)


def test_study_of_select(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways get as many lines; select goes on from what it has, and never takes a sentence twice."""
    pool = bench_select.Pool(bench_select.TRAIN)
    study = bench_select.Study(pool, tmp_path, seed=1, model="base", epochs=1)
    trained = []

    def call(*command: str) -> None:
        def value(name: str) -> Path:
            return Path(command[command.index(name) + 1])

        if command[0] == "train.py":
            lines = [json.loads(line) for line in value("--train_path").read_text("utf-8").splitlines()]
            trained.append({line["context"] for line in lines})
            value("--save_dir").mkdir()
            report = {"triplets": {"strict": {"precision": 0.5, "recall": 0.5, "f1": len(lines) / 100}}}
            (value("--save_dir") / "eval_report.json").write_text(json.dumps(report), "utf-8")
        elif "select" in command:
            taken = value("--exclude").read_text("utf-8").splitlines()
            rest = (tmp_path / "sentences.jsonl").read_text("utf-8").splitlines()
            chosen = [line for line in rest if line not in taken][: int(str(value("-n")))]
            value("-o").write_text("\n".join(chosen), "utf-8")

    monkeypatch.setattr(study, "call", call)
    drawn, chosen = (study.follow(way, 5, [10, 20]) for way in ("random", "select"))
    assert [drawn[count]["f1"] for count in (5, 10, 20)] == [0.05, 0.1, 0.2]
    assert drawn.keys() == chosen.keys() and chosen[20]["f1"] == 0.2
    first, random_10, random_20, select_10, select_20 = trained  # the start is trained once
    assert first < random_10 < random_20 and first < select_10 < select_20
    bench_select.report({"random": [drawn], "select": [chosen]}, [5, 10, 20])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="bytes read are known from /proc")
def test_shares_of_a_file(root: Path) -> None:
    figures = result(root, "bench_shares", "--lines", "300", "--processes", "2")
    assert len(figures["shares"]["2"]) == 2
    assert min(share["read"] for share in figures["shares"]["2"]) < 2.2 * figures["bytes"]


def test_serving_three_ways(bench: Bench, tiny_run: TinyRun) -> None:
    sizes = ["--clients", 1, 3, "--requests", 6, "--batch_size", 2]
    figures = bench(bench_serving, "--adapter", tiny_run.adapter, *sizes)
    assert figures["ratios"]["rows_3"] == {"time": 1.0, "cpu": 1.0}
    assert figures["ratios"]["single_3"]["cpu"] > 0 and figures["ratios"]["generate_1"]["cpu"] > 0
