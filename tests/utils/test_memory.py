"""How much memory there is and is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from utils import memory


def test_memory_of_this_process() -> None:
    before = memory.read_memory(torch.device("cpu"))
    block = torch.ones(64 * 2**20)  # 256 MiB
    reading = memory.read_memory(torch.device("cpu"))
    del block
    assert reading.allocated - before.allocated > 200 * 2**20
    assert reading.peak >= reading.allocated
    assert reading.total > reading.allocated
    assert "进程内存" in reading.describe()
    assert reading.brief().startswith("内存 ")
    assert memory.MemoryReading(2**30, 2 * 2**30, 3 * 2**30, 20 * 2**30, True).describe() == (
        "显存 已分配 1.00 已保留 2.00 峰值 3.00 共 20.0 GB"
    )


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/pod/job\n", {"pod/job": ("max", "5"), "pod": ("900", "500"), "": ("", "")}, [900 - 500 + 70]),
        ("0::/seen/from/outside\n", {"": ("1000", "300")}, [770]),
        ("4:cpu,memory:/a\n0::/\n", {"memory": ("800", "100"), "memory/a": ("400", "900")}, [770, 0]),
        ("0::/\n", {}, []),
    ],
)  # fmt: skip
def test_what_a_container_leaves(
    tmp_path: Path, membership: str, files: dict[str, tuple[str, str]], expected: list[int]
) -> None:
    (tmp_path / "membership").write_text(membership)
    for group, (limit, used) in files.items():
        folder = tmp_path / group
        folder.mkdir(parents=True, exist_ok=True)
        first_version = group.startswith("memory")
        (folder / ("memory.limit_in_bytes" if first_version else "memory.max")).write_text(limit + "\n")
        (folder / ("memory.usage_in_bytes" if first_version else "memory.current")).write_text(used + "\n")
        (folder / "memory.stat").write_text("anon 9\ninactive_file 60\nactive_file 10\n")
    assert memory._free_in_cgroups(tmp_path, tmp_path / "membership") == expected
    assert memory._free_in_cgroups(tmp_path, tmp_path / "missing") == []


def test_the_budget_is_what_the_container_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_free_in_cgroups", lambda: [3 * 2**20, 2**20])
    assert memory.memory_budget(torch.device("cpu"), 20) == 2**20
