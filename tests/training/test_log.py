"""What a run records and says."""

from __future__ import annotations

import json
import math
import resource
import time
from pathlib import Path

import pytest

from training import log as metrics_log
from training.log import RunLog


def test_metrics_go_to_both_files(tmp_path: Path) -> None:
    log = metrics_log.MetricsLog(tmp_path / "run", tensorboard=True)
    log.write("train", 3, {"loss": 0.5, "note": "x", "flag": True})
    log.write("train", 3, {"grad_norm": 2.0})
    log.write("eval", 3, {"dev_loss": 0.25})
    log.close()
    record, *_ = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(record) == {"kind": "train", "step": 3, "loss": 0.5, "note": "x", "flag": True}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    # What is looked at first sorts before the rest.
    assert sorted(events.Tags()["scalars"]) == ["1_主要/dev_loss", "1_主要/loss", "2_训练/grad_norm"]
    assert [(event.step, event.value) for event in events.Scalars("1_主要/loss")] == [(3, 0.5)]


def test_metrics_stay_json(tmp_path: Path) -> None:
    log = metrics_log.MetricsLog(tmp_path, tensorboard=False)
    log.write("train", 1, {"loss": math.nan, "grad_norm": math.inf, "n": 1})
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None


def test_a_full_disk_costs_a_record_and_not_the_run(tmp_path: Path, capsys) -> None:
    path = tmp_path / "metrics.jsonl"
    log = metrics_log.MetricsLog(tmp_path, tensorboard=False)
    log.write("train", 1, {"loss": 1.0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        log.write("train", 2, {"loss": 2.0})  # ten bytes of it fit
        log.write("train", 3, {"loss": 3.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.write("train", 4, {"loss": 4.0})
    log.close()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 4]
    assert capsys.readouterr().err.count("少了一条记录；训练继续") == 2


def test_no_directory_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = metrics_log.MetricsLog(None, tensorboard=True)
    log.write("train", 1, {"loss": 1.0})
    log.close()
    assert not list(tmp_path.iterdir())


def test_records_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    log = metrics_log.MetricsLog(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": float(step)})
    log.write("final", 2, {})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a kill in the middle of a line
    log = metrics_log.MetricsLog(tmp_path, tensorboard=False, after_step=2)
    log.write("train", 3, {"loss": 3.5})
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.0, 2.0, 3.5]


def test_the_meter_measures() -> None:
    meter = metrics_log.Meter(total_steps=10)
    assert meter.tokens_per_second() == 0
    meter.add(50)
    assert meter.tokens_per_second() > 0
    meter.restart()
    assert meter.tokens_per_second() == 0
    meter._seconds_per_step = 3.0  # the last speed is remembered over a restart
    assert meter.time_left(8) == "0:00:06"


def test_a_long_silence_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunLog, "SILENCE", 0.2)
    with RunLog(is_main=True) as log:
        log.begin("评估：已生成 3/50 句的答案")
        time.sleep(2.5)
    assert "评估：已生成 3/50 句的答案（已 " in capsys.readouterr().err
    with RunLog(is_main=False):
        time.sleep(1.5)
    assert capsys.readouterr().err == ""
