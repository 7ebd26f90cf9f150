"""Checks that need no torch, and how `train.py` refuses what fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_config import ProjectConfig
from training.checks import (
    FAILED,
    PASSED,
    Result,
    is_writable_directory,
    nearest_directory,
    refuse_failures,
)
from utils.common_utils import UserError


def passes(config: ProjectConfig) -> Iterator[Result]:
    yield Result(PASSED, "甲", "好")


def fails(config: ProjectConfig) -> Iterator[Result]:
    yield Result(FAILED, "乙", "坏了", "去修")


def refuses(config: ProjectConfig) -> Iterator[Result]:
    raise UserError("丙不能用，请换一个。")
    yield


def breaks(config: ProjectConfig) -> Iterator[Result]:
    raise AssertionError("no such device")
    yield


def test_what_follows_from_a_failure_does_not_hide_it() -> None:
    with pytest.raises(UserError, match=r"^丙不能用"):
        refuse_failures(ProjectConfig(), (refuses, breaks))
    with pytest.raises(AssertionError):
        refuse_failures(ProjectConfig(), (passes, breaks))


def test_one_failure_is_its_sentence_and_several_are_a_list() -> None:
    config = ProjectConfig()
    refuse_failures(config, (passes,))
    with pytest.raises(UserError, match=r"^丙不能用，请换一个。$"):
        refuse_failures(config, (passes, refuses))
    with pytest.raises(UserError) as caught:
        refuse_failures(config, (fails, refuses))
    assert str(caught.value).splitlines() == [
        "现在还不能训练，有 2 处错误：",
        "  - 乙：坏了；去修。",
        "  - 丙不能用，请换一个。",
    ]


def test_a_folder_is_writable_or_not(tmp_path: Path) -> None:
    assert is_writable_directory(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not is_writable_directory(tmp_path / "missing")


def test_the_nearest_folder_of_a_path_to_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nearest_directory(tmp_path / "a" / "b") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert nearest_directory("a/b") == tmp_path
