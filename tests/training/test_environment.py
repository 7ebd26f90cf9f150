"""What training needs of a machine, computed by hand: memory, disk, packages, whole files; table columns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.environment import (
    estimate_output_bytes,
    is_whole_weight_file,
    is_writable_directory,
    nearest_directory,
    read_requirements,
)


def test_what_a_run_writes() -> None:
    # 3 checkpoints and the one being written (weights and two moments in fp32), the best adapter, logs
    assert estimate_output_bytes(1_000_000, 3) == 4 * 12_000_000 + 4_000_000 + 50_000_000


def test_requirements_are_compared_with_what_is_installed(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(
        "# 注释\n\n-r other.txt\npytest>=1  # 为什么\nno-such-package-here==1.0\n"
        "pytest==0.1\nonly-there==2; sys_platform == 'nowhere'\n",
        encoding="utf-8",
    )
    rows = read_requirements(path)
    assert [(row.name, row.wanted, row.satisfied) for row in rows] == [
        ("pytest", ">=1", True),
        ("no-such-package-here", "==1.0", False),
        ("pytest", "==0.1", False),
    ]
    assert (rows[0].installed, rows[1].installed) == (pytest.__version__, None)


def test_whole_and_damaged_weight_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"weight": torch.zeros(1000)}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "b.bin")
    torch.save(tensors, tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.bin", "c.bin"):
        assert is_whole_weight_file(tmp_path / name), name
    for name in ("a.safetensors", "b.bin"):
        damaged = tmp_path / f"damaged-{name}"
        damaged.write_bytes((tmp_path / name).read_bytes()[:-500])
        assert not is_whole_weight_file(damaged), name
        damaged.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        assert not is_whole_weight_file(damaged), name


def test_a_folder_is_writable_or_not(tmp_path: Path) -> None:
    assert is_writable_directory(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not is_writable_directory(tmp_path / "missing")


def test_the_nearest_folder_of_a_path_to_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nearest_directory(tmp_path / "a" / "b") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert nearest_directory("a/b") == tmp_path
