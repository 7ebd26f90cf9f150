"""extract_ray.py: its command line, what it says without Ray; tests/soak/test_cluster.py has the rest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from extract_ray import main, read_job
from extraction import cluster
from tests.helpers.extraction_samples import TinyRun
from utils.common_utils import UserError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--input"),
        (["--input", "a", "--output", "b", "--workers", "3:1"], "--workers"),
        (["--input", "a", "--output", "b", "--gpus_per_worker", "-1"], "--gpus_per_worker"),
        (["--input", "a", "--output", "b", "--schema", "s", "--open_schema"], "不能同时使用"),
    ],
)
def test_mistakes_are_told(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_job(words)


def test_options(tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_run.adapter.parent)
    words = ["--input", "a", "b", "--output", "c", "--workers", "2:32", "--gpus_per_worker", "0.5"]
    job = read_job([*words, "--adapter", tiny_run.adapter.name, "--scores"])
    assert (job.inputs, job.workers, job.gpus, job.with_scores) == (("a", "b"), (2, 32), 0.5, True)
    assert job.options.adapter == tiny_run.adapter  # absolute: workers run elsewhere
    assert read_job([*words[:5], "--workers", "3", "--adapter", str(tiny_run.adapter)]).workers == (3, 3)


def test_what_is_missing(tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["--input", "a", "--output", str(tmp_path), "--adapter", str(tiny_run.adapter)]
    with pytest.raises(UserError, match=r"找不到适配器 .*nowhere（缺"):
        main([*words[:4], "--adapter", "nowhere"])
    with pytest.raises(UserError, match=r"没有安装 Ray：请先运行 pip install -r requirements-ray\.txt"):
        main(words)


def test_wrong_inputs_are_told_before_a_cluster_is_waited_for(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow", reason="pip install -r requirements-ray.txt")
    monkeypatch.setattr(cluster, "load_ray", lambda: None)  # whoever asks it for anything fails otherwise
    words = ["--output", str(tmp_path / "out"), "--adapter", str(tiny_run.adapter), "--input"]
    with pytest.raises(UserError, match="没有这样的文件"):
        main([*words, str(tmp_path / "*.txt")])
    with pytest.raises(UserError, match="打不开 nowhere://a"):
        main([*words, "nowhere://a"])
    assert not (tmp_path / "out").exists()
