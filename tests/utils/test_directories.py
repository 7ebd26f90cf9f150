"""Directories that are replaced as a whole, whatever fails meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from utils import directories
from utils.directories import MANIFEST_FILE, find_damage, write_directory


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model_best"
    for content in ("old", "new"):
        directories.write_directory(target, lambda new, content=content: (new / content).write_text(content))
    assert sorted(path.name for path in target.iterdir()) == ["manifest.json", "new"]
    assert directories.find_damage(target) is None
    assert [path.name for path in tmp_path.iterdir()] == ["model_best"]


def test_a_failure_leaves_the_old_directory(tmp_path: Path) -> None:
    target = tmp_path / "model_best"
    directories.write_directory(target, lambda new: (new / "old").write_text("old"))

    def fail(new: Path) -> None:
        (new / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        directories.write_directory(target, fail)
    assert sorted(path.name for path in target.iterdir()) == ["manifest.json", "old"]
    assert [path.name for path in tmp_path.iterdir()] == ["model_best"]


def test_a_failure_between_the_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model_best"
    directories.write_directory(target, lambda new: (new / "old").write_text("old"))
    original = Path.rename

    def rename(self: Path, destination: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError("no")
        return original(self, destination)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="no"):
        directories.write_directory(target, lambda new: (new / "new").write_text("new"))
    assert sorted(path.name for path in target.iterdir()) == ["manifest.json", "old"]


@pytest.mark.parametrize("call", ["mkdir", "rename", "write_text", "chmod", "fsync", "scandir"])
def test_any_call_that_fails_leaves_the_old_or_the_new(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Systematically: the first such call fails, then the second alone, and so on."""
    target = tmp_path / "model_best"
    owner = os if call in ("fsync", "scandir") else Path
    original, calls = getattr(owner, call), []

    def fail_at(number: int) -> Callable[..., object]:
        def wrapped(*args: object, **options: object) -> object:
            calls.append(args)
            if len(calls) == number:
                raise PermissionError(13, "Permission denied")  # which pathlib keeps to itself in places
            return original(*args, **options)

        return wrapped

    write_directory(target, lambda new: (new / "file").write_bytes(b"0"))
    for number in range(1, 20):
        calls.clear()
        content = str(number).encode()
        with monkeypatch.context() as patch:
            patch.setattr(owner, call, fail_at(number))
            with contextlib.suppress(OSError):
                write_directory(target, lambda new, content=content: (new / "file").write_bytes(content))
        directories.recover_directory(target)
        assert find_damage(target) is None
        assert (target / "file").read_bytes() in (content, str(number - 1).encode(), b"0")
        assert [path.name for path in tmp_path.iterdir()] == ["model_best"]
        if len(calls) < number:
            return
    raise AssertionError("more calls than expected")


@pytest.mark.parametrize("name", ["a.bin", MANIFEST_FILE])
def test_links_out_of_a_directory_are_damage(tmp_path: Path, name: str) -> None:
    write_directory(tmp_path / "d", lambda new: (new / "a.bin").write_bytes(b"abc"))
    (tmp_path / "d" / name).rename(tmp_path / "elsewhere")
    (tmp_path / "d" / name).symlink_to(tmp_path / "elsewhere")
    assert find_damage(tmp_path / "d") == f"{name} 指向目录之外的文件"


def test_a_circle_of_links_is_no_file(tmp_path: Path) -> None:
    write_directory(tmp_path / "d", lambda new: (new / "a.bin").write_bytes(b"abc"))
    (tmp_path / "d" / "a.bin").unlink()
    (tmp_path / "d" / "a.bin").symlink_to("a.bin")
    assert find_damage(tmp_path / "d") == "缺少 a.bin"


def test_a_small_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    write_directory(tmp_path / "d", lambda new: (new / "a.json").write_text("{}"))
    with (tmp_path / "d" / "a.json").open("wb") as file:
        file.truncate(60 * 2**30)
    entry = {"size": 60 * 2**30, "sha256": "0" * 64}
    (tmp_path / "d" / "manifest.json").write_text(json.dumps({"files": {"a.json": entry}}))
    assert find_damage(tmp_path / "d") == "a.json 的大小不对"
