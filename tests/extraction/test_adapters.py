"""Where an adapter is found, and which ones are named if it isn't."""

from __future__ import annotations

from pathlib import Path

import pytest

from extraction import adapters
from extraction.adapters import META_FILE, check_merged, find_default_adapter, resolve_adapter
from utils.common_utils import UserError
from utils.directories import write_directory


def make_adapter(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").touch()
    return directory


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is not the project's, with the project beside it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(adapters, "PROJECT", tmp_path / "project")
    return tmp_path / "here"


def test_model_best_of_a_run(tmp_path: Path) -> None:
    best = make_adapter(tmp_path / "run" / "model_best")
    assert resolve_adapter(tmp_path / "run") == best
    assert resolve_adapter(best) == best
    assert resolve_adapter(tmp_path) == tmp_path  # what reads it says what is missing


def test_the_default_one(elsewhere: Path) -> None:
    wanted = Path("output/mine")
    assert find_default_adapter(wanted) == wanted / "model_best"  # nothing anywhere: the usual message
    in_project = make_adapter(elsewhere.parent / "project" / "output" / "mine" / "model_best")
    assert find_default_adapter(wanted) == in_project
    make_adapter(elsewhere / "output" / "mine" / "model_best")
    assert find_default_adapter(wanted) == wanted / "model_best"


def test_others_are_named(elsewhere: Path) -> None:
    make_adapter(elsewhere / "output" / "demo" / "model_best")
    make_adapter(elsewhere / "runs" / "plain")
    project = make_adapter(elsewhere.parent / "project" / "output" / "old" / "model_best")
    with pytest.raises(UserError) as caught:
        find_default_adapter(Path("runs/mine"))
    assert str(caught.value) == (
        "找不到适配器 runs/mine/model_best（缺 adapter_config.json）；"
        f"现有的适配器：runs/plain、output/demo/model_best、{project}。"
        "请用 --adapter 指定其中一个，或先运行 python train.py。"
    )


def test_many_are_cut(elsewhere: Path) -> None:
    for number in range(15):
        make_adapter(elsewhere / "output" / f"run{number:02}" / "model_best")
    with pytest.raises(UserError, match="run09/model_best等。"):
        find_default_adapter(Path("output/mine"))


def test_a_merged_model_is_as_it_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merged = tmp_path / "merged"

    def fill(directory: Path) -> None:
        for name in (META_FILE, "config.json", "model.safetensors"):
            (directory / name).write_text(name)

    write_directory(merged, fill)
    check_merged(str(merged))
    assert capsys.readouterr().err == ""
    for name in ("model.safetensors", "config.json"):
        (merged / name).write_text(name[::-1])  # of the same size
        with pytest.raises(UserError, match=f"与写成时不同（{name} 的内容与校验和不符）"):
            check_merged(str(merged))
        (merged / name).write_text(name)
    (merged / "manifest.json").unlink()
    check_merged(str(merged))
    assert "无法核对" in capsys.readouterr().err
    (merged / META_FILE).unlink()
    check_merged(str(merged))  # a model like any other
    assert capsys.readouterr().err == ""
