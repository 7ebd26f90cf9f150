"""Runs of training as their directories tell of them: read while they train, by name, never by a path.

Only directories directly below one folder are runs, and of them only a few files by fixed names are read:
no links, nothing but plain files, and what is no record of training is passed over.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query

from serving.errors import RequestError

METRICS, REPORT, MARKER = "metrics.jsonl", "eval_report.json", ".training_run.json"
MAX_RUNS = 500
MAX_LINE = 1 << 16  # bytes of a record; ours have some hundred
MAX_READ = 4 << 20  # bytes of records in one answer
MAX_MARKER, MAX_REPORT = 1 << 20, 64 << 20
KINDS = ("train", "eval", "final")
TAIL = 1 << 16  # bytes of metrics that a list of runs looks at
_NAME = re.compile(r"[\w\-.]{1,100}")


@dataclass
class RunStore:
    """The runs below a folder.

    Args:
        root: the folder; it need not be there yet.
    """

    root: Path
    _reports: dict[str, tuple[tuple[int, int], dict[str, Any]]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Return the names of all runs, the latest first."""
        found = []
        try:
            with os.scandir(self.root) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False) and _NAME.fullmatch(entry.name):
                        found.append((self._changed(entry.name), entry.name))
        except OSError:
            return []
        return [name for changed, name in sorted(found, reverse=True)[:MAX_RUNS] if changed]

    def find(self, name: str) -> Path:
        """Return the directory of a run.

        Raises:
            RequestError: there is none of that name.
        """
        if name not in self.names():
            raise RequestError(404, "no_such_run", "没有这个训练。", param="name")
        return self.root / name

    def summary(self, name: str) -> dict[str, Any]:
        """Return what a list says of a run: where it stands, and its last figures."""
        path = self.root / name
        marker = self.marker(path)
        records = _records(_tail(path / METRICS))
        last: dict[str, Any] = {"step": 0}
        for record in records:
            last |= {key: value for key, value in record.items() if key != "kind" and value is not None}
        wanted = ("step", "epoch", "loss", "dev_loss", "triplet_f1", "learning_rate", "tokens_per_second")
        return {
            "name": name,
            "running": process_of(path) is not None,
            "finished": marker.get("finished") is True,
            "total_steps": marker.get("total_steps"),
            "changed": self._changed(name),
            "has_report": _is_file(path / REPORT),
            **{key: last[key] for key in wanted if key in last},
        }

    def marker(self, path: Path) -> dict[str, Any]:
        """Return what a run says of itself: its knobs, steps and memory plan."""
        try:
            content = json.loads(_read(path / MARKER, MAX_MARKER))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def metrics(self, path: Path, after: int) -> dict[str, Any]:
        """Return the records behind an offset, and the offset of what comes next.

        Args:
            path: of the run.
            after: 0, or what an earlier answer called `next`. Where the file is shorter by now, a resumed
                run has dropped records: all are given anew, and `from` is 0.
        """
        try:
            with _open(path / METRICS) as file:
                size = os.fstat(file.fileno()).st_size
                start = after if 0 <= after <= size else 0
                file.seek(start)
                content = file.read(MAX_READ)
        except OSError:
            return {"from": 0, "next": 0, "more": False, "records": []}
        end = content.rfind(b"\n") + 1  # the last line may be half written
        if not end and len(content) == MAX_READ:
            end = len(content)  # no line of ours is as long
        more = start + len(content) < size
        return {"from": start, "next": start + end, "more": more, "records": _records(content[:end])}

    def report(self, name: str, path: Path) -> dict[str, Any]:
        """Return a run's evaluation.

        Raises:
            RequestError: there is none, or it can't be read.
        """
        try:
            status = (path / REPORT).lstat()
            key = status.st_mtime_ns, status.st_size
            if name not in self._reports or self._reports[name][0] != key:
                content = json.loads(_read(path / REPORT, MAX_REPORT))
                if not isinstance(content, dict) or not isinstance(content.get("triplets"), dict):
                    raise ValueError("no report")
                self._reports = {name: (key, content)}  # the last one only
            return self._reports[name][1]
        except OSError:
            raise RequestError(404, "no_report", "这个训练还没有评估报告（训练结束时写）。") from None
        except (ValueError, RecursionError):
            raise RequestError(422, "broken_report", "这个训练的评估报告读不了。") from None

    def _changed(self, name: str) -> float:
        """Return when a run wrote last, in seconds; 0 if it is none."""
        for file in (METRICS, MARKER):
            try:
                status = (self.root / name / file).lstat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                return status.st_mtime
        return 0.0


def make_router(store: RunStore, allow_training: bool = False) -> APIRouter:
    """Return the routes that read runs.

    Args:
        store: of the runs.
        allow_training: said along with the list.
    """
    router = APIRouter(prefix="/v1/runs", tags=["训练"])

    @router.get("")
    def runs() -> dict[str, Any]:
        """所有的训练：走到哪里、最近的数字。"""
        return {"runs": [store.summary(name) for name in store.names()], "allow_training": allow_training}

    @router.get("/{name}")
    def run(name: str) -> dict[str, Any]:
        """一个训练：参数、步数、显存计划。"""
        path = store.find(name)
        return {**store.summary(name), "about": store.marker(path)}

    @router.get("/{name}/metrics")
    def metrics(name: str, after: Annotated[int, Query(ge=0)] = 0) -> dict[str, Any]:
        """metrics.jsonl 里 after 字节之后的记录；next 是下一次的 after。"""
        return store.metrics(store.find(name), after)

    @router.get("/{name}/report")
    def report(
        name: str,
        start: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=0, le=200)] = 50,
        search: Annotated[str, Query(max_length=200)] = "",
    ) -> dict[str, Any]:
        """最后的评估：成绩、每种关系、可靠性，和从 start 起的 count 个错句。"""
        content = store.report(name, store.find(name))
        triplets = content["triplets"]
        errors = triplets.get("errors")
        errors = [each for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []
        if search:
            errors = [each for each in errors if search in json.dumps(each, ensure_ascii=False)]
        return {
            "dev_loss": content.get("dev_loss"),
            "triplets": {key: value for key, value in triplets.items() if key != "errors"},
            "reliability": content.get("reliability"),
            "errors": errors[start : start + count],
            "error_count": len(errors),
        }

    return router


def process_of(path: Path) -> int | None:
    """Return the process that trains in a directory, which it has locked; None if there is none.

    The lock is looked up, not tried: to try it could refuse a training that starts in this moment.
    """
    try:
        status = path.stat()
        place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        lines = Path("/proc/locks").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    for line in lines:
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == place:
            return int(fields[4])
    return None


def _records(content: bytes) -> list[dict[str, Any]]:
    """Return the records among lines, with nothing in them but numbers and short names."""
    records = []
    for line in content.splitlines():
        if len(line) > MAX_LINE:
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if (
            not isinstance(record, dict)
            or record.get("kind") not in KINDS
            or type(record.get("step")) is not int
        ):
            continue
        figures = {key: value for key, value in record.items() if key == "kind" or _is_figure(value)}
        records.append(figures)
    return records


def _is_figure(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return value is None
    return isinstance(value, int | float) and abs(value) < 2**63 and math.isfinite(value)


def _open(path: Path) -> BinaryIO:
    """Open a plain file; links, pipes and devices are refused, not waited for.

    Raises:
        OSError: it is none, or can't be read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no plain file")
    return os.fdopen(descriptor, "rb")


def _read(path: Path, limit: int) -> bytes:
    with _open(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError("too large")
    return content


def _tail(path: Path) -> bytes:
    try:
        with _open(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL, 0))
            return file.read(TAIL)
    except OSError:
        return b""


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
