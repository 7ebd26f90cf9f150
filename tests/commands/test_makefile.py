"""Makefile, requirements, packaging, the CI script and the pages for contributors."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
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


def test_the_makefile_holds_no_programs(root: Path) -> None:
    text = (root / "Makefile").read_text("utf-8")
    assert "define" not in text
    recipes: list[int] = []
    for line in text.splitlines():
        if line.startswith("\t"):
            recipes[-1] += 1
        else:
            recipes.append(0)
    assert max(recipes) <= 10  # the longest is the help
    for script in (root / "tools").glob("*.sh"):
        assert os.access(script, os.X_OK)
        assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_the_package_has_one_version_and_commands_that_exist(root: Path) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    module, _, name = settings["tool"]["setuptools"]["dynamic"]["version"]["attr"].rpartition(".")
    assert re.fullmatch(r"\d+\.\d+\.\d+", getattr(importlib.import_module(module), name))
    commands = settings["project"]["scripts"]
    assert {target.split(":")[0] for target in commands.values()} >= {"train", "inference_triplet"}
    for target in commands.values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
        assert module in settings["tool"]["setuptools"]["py-modules"]
    for path in settings["project"]["license-files"]:
        assert (root / path).is_file()


def test_whoever_comes_next_finds_what_the_pages_name(root: Path) -> None:
    workflow = (root / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert "run: .ci/run" in workflow
    hooks = (root / ".pre-commit-config.yaml").read_text("utf-8")
    assert all(f"-m {tool}" in hooks for tool in ("ruff check", "ruff format", "mypy"))
    for page in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        text = (root / page).read_text("utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("http") or (root / target).exists(), f"{page}: {target}"
        for command in re.findall(r"python -m ([a-z_.]+)", text):
            assert importlib.util.find_spec(command), f"{page}: {command}"


def test_the_lock_files_hold_the_versions_of_the_requirements_with_hashes(root: Path) -> None:
    def locked(name: str) -> dict[str, str]:
        text = (root / name).read_text("utf-8")
        assert text.count("==") <= text.count("--hash=sha256:")
        return dict(re.findall(r"^([a-z0-9.-]+)==([^ ]+) ", text, re.MULTILINE))

    cpu, cuda, dev = (locked(f"requirements-{kind}.lock") for kind in ("cpu", "cuda", "dev"))
    wanted = {
        row.name.lower().replace("_", "-"): row.wanted.removeprefix("==")
        for row in read_requirements(root / "requirements.txt")
    }
    assert wanted.items() <= cuda.items()
    assert wanted | {"torch": wanted["torch"] + "+cpu"} == {name: cpu[name] for name in wanted}
    assert not dev.keys() & (cpu.keys() | cuda.keys())
    for row in read_requirements(root / "requirements-dev.txt"):
        name, version = row.name.lower().replace("_", "-"), row.wanted.removeprefix("==")
        assert (dev | cuda)[name] == version, f"{name}: run tools/lock.sh"


@needs_make
def test_a_lock_that_is_not_there_is_refused(root: Path, tmp_path: Path) -> None:
    result = make(root, "env", f"PYTHON={sys.executable}", f"VENV={tmp_path / 'env'}", "LOCK=gpu")
    assert result.returncode != 0
    assert "LOCK 应为 cpu 或 cuda，现在是 gpu" in result.stderr


@needs_make
def test_what_is_installed_is_not_installed_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)  # it makes pip quiet
    environment = tmp_path / "env"
    (environment / "bin").mkdir(parents=True)
    called = tmp_path / "called"
    python = environment / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >>"{called}"\n', "utf-8")
    python.chmod(0o755)
    for _ in range(2):
        assert make(root, "env", f"VENV={environment}", "PIP_ARGS=--one --two").returncode == 0
    lines = called.read_text("utf-8").splitlines()
    assert [line for line in lines if " install " in line] == [
        "-m pip install --disable-pip-version-check --one --two -r requirements.txt"
    ]
    assert make(root, "env", f"VENV={environment}", "LOCK=cpu").returncode == 0
    assert called.read_text("utf-8").splitlines()[-1].endswith("--require-hashes -r requirements-cpu.lock")
