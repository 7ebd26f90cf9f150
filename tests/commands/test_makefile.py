"""Makefile, requirements and the CI script."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from utils.requirements import read_requirements


def make(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *argv], cwd=root, capture_output=True, text=True, encoding="utf-8", check=False
    )


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
def test_make_alone_says_what_there_is(root: Path) -> None:
    result = make(root)
    assert result.returncode == 0
    assert all(f"make {name}" in result.stdout for name in ("demo", "test", "lint"))


@needs_make
def test_make_soak_runs_the_long_tests_of_every_file(root: Path) -> None:
    commands = make(root, "-n", "soak").stdout
    words = [line.split()[1:] for line in commands.splitlines()]
    assert ["-m", "pytest", "-m", "soak", "tests"] in words


@needs_make
def test_make_refuses_an_old_python_and_a_missing_one(root: Path, tmp_path: Path) -> None:
    old = tmp_path / "python 3.8"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.10" && exit 0\nexit 1\n')
    old.chmod(0o755)
    result = make(root, "env", f"PYTHON={old}", f"VENV={tmp_path / 'env'}")
    assert result.returncode != 0
    assert "Python 3.8.10 太旧，需要 Python 3.11 或更高版本" in result.stderr
    result = make(root, "env", "PYTHON=no-such-python", f"VENV={tmp_path / 'env'}")
    assert result.returncode != 0
    assert "找不到 no-such-python" in result.stderr
    assert not (tmp_path / "env").exists()


@needs_make
def test_make_never_clears_a_folder_that_is_no_environment(root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    result = make(root, "env", f"PYTHON={sys.executable}", f"VENV={tmp_path}")
    assert result.returncode != 0
    assert "不是虚拟环境，不会动它" in result.stderr
    assert (tmp_path / "thesis.txt").exists()


def test_requirements_name_the_eight_packages_and_pin_all(root: Path) -> None:
    packages = {row.name: row.wanted for row in read_requirements(root / "requirements.txt")}
    eight = {
        "torch",
        "transformers",
        "peft",
        "bitsandbytes",
        "accelerate",
        "sentencepiece",
        "cpm_kernels",
        "tqdm",
    }
    assert eight <= packages.keys()
    assert all(wanted.startswith("==") for wanted in packages.values())
    assert all(row.wanted.startswith("==") for row in read_requirements(root / "requirements-dev.txt"))


def test_ci_runs_tests_and_linters(root: Path) -> None:
    script = root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    text = script.read_text("utf-8")
    assert "make test" in text and "make lint" in text
