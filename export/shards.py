"""Weight files written one after the other, each whole or absent, so that a run that was killed goes on.

A unit is what becomes of one tensor that is read: one tensor, or the parts that it is quantised to.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from bases.weights import full_disk_told
from utils.common_utils import UserError
from utils.directories import file_digest, remove, write_file
from utils.progress import Progress
from utils.small_json import read_json_object

Note = tuple[torch.dtype, tuple[int, ...]]
Units = Mapping[str, Mapping[str, Note]]  # of each tensor that is read: what is written, by name
STATE_FILE = "merge.json"
_OURS = re.compile(
    rf"\.?{re.escape(STATE_FILE)}(\..*)?|model[-0-9of]*\.safetensors(\.part)?|\.?half(\.new|\.old)?"
)
RESERVE = 50_000_000  # bytes of free space that are left over, and hold config and tokenizer


class ShardPlan(NamedTuple):
    """What is written, and which units each file holds, in the order of reading."""

    units: Units
    files: dict[str, list[str]]

    def bytes_of(self, file: str) -> int:
        """Return how many bytes of numbers a file holds."""
        return sum(_bytes_of(self.units[name]) for name in self.files[file])

    def weight_index(self) -> dict[str, object]:
        """Return what `model.safetensors.index.json` says."""
        weight_map = {
            part: file for file, names in self.files.items() for name in names for part in self.units[name]
        }
        return {"metadata": {"total_size": sum(map(self.bytes_of, self.files))}, "weight_map": weight_map}


def plan_shards(units: Units, limit: int) -> ShardPlan:
    """Share units out to files of at most `limit` bytes; a larger unit has a file of its own."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, parts in units.items():
        own = _bytes_of(parts)
        if groups[-1] and size + own > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += own
    if len(groups) == 1:
        return ShardPlan(units, {"model.safetensors": groups[0]})
    count = len(groups)
    names = (f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1))
    return ShardPlan(units, dict(zip(names, groups, strict=True)))


class ShardWriter:
    """Writes the files of a plan into a work directory; those that an earlier run finished are kept.

    Args:
        work: the directory; made if it isn't there, emptied if another job left it.
        plan: what to write.
        key: names all that the result depends on.

    Raises:
        UserError: there is something in the directory that no merge has left.
    """

    def __init__(self, work: Path, plan: ShardPlan, key: str) -> None:
        self.work, self.plan, self._key = work, plan, key
        self.done: dict[str, str] = {}  # SHA-256 of the finished files
        try:
            state = read_json_object(work / STATE_FILE)
        except (OSError, ValueError):
            state = {}
        if state.get("key") != key:
            _check_is_ours(work)
            remove(work)
            work.mkdir(parents=True)
        elif isinstance(found := state.get("done"), dict):
            self.done = {file: digest for file, digest in found.items() if self._is_whole(file, digest)}
        self._note()

    def check_space(self) -> None:
        """Make sure that the disk has room for what is to be written.

        Raises:
            UserError: it hasn't.
        """
        need = RESERVE + sum(self.plan.bytes_of(file) for file in self.plan.files if file not in self.done)
        free = shutil.disk_usage(self.work).free
        if free < need:
            raise UserError(
                f"{self.work.parent} 所在的磁盘只剩 {free / 1e9:.1f} GB，还要写 {need / 1e9:.1f} GB，"
                "请清理磁盘或换一个 --output。"
            )

    def write(
        self,
        tensors: Iterable[tuple[str, torch.Tensor]],
        transform: Callable[[str, torch.Tensor], dict[str, torch.Tensor]],
    ) -> None:
        """Write what is missing, one file at a time in memory.

        Args:
            tensors: the units' tensors, in the plan's order; those of finished files are passed over.
            transform: makes of one the unit's parts.

        Raises:
            OSError: the disk is full or not writable.
            UserError: a part holds what is no finite number.
        """
        file_of = {name: file for file, names in self.plan.files.items() for name in names}
        parts: dict[str, torch.Tensor] = {}
        waiting = {file: set(names) for file, names in self.plan.files.items() if file not in self.done}
        with Progress(len(file_of), unit="个张量") as progress:
            progress.skip(sum(len(self.plan.files[file]) for file in self.done))
            for name, tensor in tensors:
                file = file_of[name]
                if name not in waiting.get(file, ()):
                    continue
                # Copies: no view of a mapped file, and no two names for one memory.
                for key, part in transform(name, tensor).items():
                    if part.is_floating_point() and not part.isfinite().all():
                        raise UserError(f"{key} 里有 NaN 或无穷大，没有合并：基座或适配器的权重坏了。")
                    parts[key] = part.clone().contiguous()
                waiting[file].remove(name)
                progress.advance()
                if not waiting[file]:
                    self._save(file, parts)
                    parts = {}

    def _save(self, file: str, parts: dict[str, torch.Tensor]) -> None:
        unfinished = self.work / f"{file}.part"
        with full_disk_told():
            save_file(parts, unfinished, metadata={"format": "pt"})
        with unfinished.open("rb") as content:
            os.fsync(content.fileno())
        digest = file_digest(unfinished)
        unfinished.replace(self.work / file)
        self.done[file] = digest
        self._note()

    def _note(self) -> None:
        write_file(self.work / STATE_FILE, json.dumps({"key": self._key, "done": self.done}))

    def _is_whole(self, file: str, digest: object) -> bool:
        path = self.work / file
        return file in self.plan.files and path.is_file() and file_digest(path) == digest


def _check_is_ours(work: Path) -> None:
    """Make sure that a directory which will be emptied holds nothing but what merges leave.

    Raises:
        UserError: it does.
    """
    entries = work.iterdir() if work.is_dir() and not work.is_symlink() else ()
    if foreign := next((path.name for path in entries if not _OURS.fullmatch(path.name)), None):
        raise UserError(
            f"{work} 里有不是合并时写的东西（{foreign}），不会动它；请移走它，或换一个 --output。"
        )


def _bytes_of(parts: Mapping[str, Note]) -> int:
    total = 0
    for kind, shape in parts.values():
        total += torch.Size(shape).numel() * kind.itemsize
    return total
