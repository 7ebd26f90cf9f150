"""Files of torch.save looked through: tensors become notes, and what asks for more than it has is refused."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.torch_file import TensorNote, look_through


def saved(path: Path, content: Any, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_become_notes(tmp_path: Path, legacy: bool) -> None:
    state = OrderedDict(
        half=torch.ones(2, 3, dtype=torch.float16),
        turned=torch.ones(4, 5).T,
        part=torch.arange(10)[3:7],
        parameter=torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        scalar=torch.tensor(1.0),
        empty=torch.ones(0, 7),
    )
    state._metadata = OrderedDict(version=1)  # as every state_dict has it
    notes = look_through(saved(tmp_path / "a.bin", {"state_dict": state, "epoch": 3, "note": "好"}, legacy))
    assert notes["epoch"] == 3 and notes["note"] == "好"
    assert dict(notes["state_dict"]) == {
        "half": TensorNote("Half", (2, 3)),
        "turned": TensorNote("Float", (5, 4)),
        "part": TensorNote("Long", (4,)),
        "parameter": TensorNote("BFloat16", (2,)),
        "scalar": TensorNote("Float", ()),
        "empty": TensorNote("Float", (0, 7)),
    }


class Bytearrays:
    """A pickle of some hundred bytes that weights-only loading would make gigabytes of."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (2**30,)


class Command:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([Bytearrays()] * 40, "张量以外的内容"),
        (Command(), "张量以外的内容"),
        ({"a": torch.zeros(1).expand(10**9)}, "比它的数据还大"),
        ({"a": torch.zeros(3).as_strided((3, 3), (1, 0))}, "比它的数据还大"),
        ({"a": torch.eye(3).to_sparse()}, "张量以外的内容"),
        ({"a": torch.ones(3, device="meta")}, "张量以外的内容"),
        (torch.nn.Linear(1, 1), "张量以外的内容"),
    ],
    ids=["bytearray", "command", "stride 0", "overlap", "sparse", "meta", "module"],
)
def test_what_is_refused(tmp_path: Path, content: Any, message: str, legacy: bool) -> None:
    path = saved(tmp_path / "a.bin", content, legacy)
    with pytest.raises(ValueError, match=message):
        look_through(path)
    assert not (tmp_path / "owned").exists()


def rewritten(path: Path, compression: int = zipfile.ZIP_STORED, **contents: bytes) -> None:
    """Write an archive anew, entries replaced by the last part of their name."""
    with zipfile.ZipFile(path) as old:
        entries = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, content in entries.items():
            new.writestr(name, contents.get(name.rpartition("/")[2].replace(".", "_"), content))


def test_archives_that_are_traps(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.bin", {"a": torch.ones(1000)})
    rewritten(path, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="压缩过的文件"):
        look_through(path)
    saved(path, {"a": torch.ones(1000)})
    with zipfile.ZipFile(path) as archive:
        data = next(name for name in archive.namelist() if name.endswith("/data/0"))
    content = path.read_bytes()
    short = tmp_path / "short.bin"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(short, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, b"1234" if info.filename == data else old.read(info))
    with pytest.raises(ValueError, match="声明的大小超过了文件本身"):
        look_through(short)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="不是完整的压缩包"):
        look_through(path)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo of sixteen gigabytes
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number of two gigabytes
        b"\x80\x02ccollections\nOrderedDict\n",
        b"\x80\x02(((((",
        b"garbage",
        b"",
        pickle.dumps({"a": [1] * 3}, protocol=5).replace(b"a", b"\xff"),
        b"\x80\x02}K\x01K\x02sQ.",
    ],
)
def test_pickles_that_are_none(tmp_path: Path, pickled: bytes) -> None:
    path = saved(tmp_path / "a.bin", {"a": torch.ones(3)})
    rewritten(path, data_pkl=pickled)
    with pytest.raises(ValueError, match=r"."):
        look_through(path)
    path.write_bytes(pickled)
    with pytest.raises(ValueError, match=r"."):
        look_through(path)


def test_storages_larger_than_an_old_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.bin", {"a": torch.ones(1000)}, legacy=True)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<BH", ord("M"), 1000), struct.pack("<BH", ord("M"), 60000)))
    with pytest.raises(ValueError, match=r"超过了文件本身|比它的数据还大"):
        look_through(path)


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.bin")
    with pytest.raises(OSError, match="不是普通文件"):
        look_through(tmp_path / "fifo.bin")


def test_the_numbers_are_not_read(tmp_path: Path) -> None:
    """A file of 40 GB (of holes) is looked through at once."""
    path = tmp_path / "a.bin"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    with path.open("r+b") as file:
        file.truncate(40 * 2**30)
    assert look_through(path) == {"a": TensorNote("Float", (3,))}
