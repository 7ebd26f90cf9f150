"""The file that a whole evaluation is kept in: never put over anything else than an earlier one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extraction.adapters import is_adapter
from extraction.evaluation.evaluate import Evaluation
from extraction.files import check_output
from utils.common_utils import UserError, to_json
from utils.directories import MANIFEST_FILE, write_file
from utils.jsonl import BadLine

_OURS = re.compile(rb'\{\n  "file": "[^\n]*",\n  "lines": \d+,\n')  # how every report begins
_START_BYTES = 1 << 16


@dataclass(frozen=True)
class Report:
    """An evaluation and what it was made on.

    Args:
        evaluation: of the good lines.
        file: its name.
        lines: good ones.
        bad_lines: those that could not be read.
        seconds: that the answers took.
    """

    evaluation: Evaluation
    file: str
    lines: int
    bad_lines: Sequence[BadLine]
    seconds: float

    def to_dict(self, max_errors: int | None = None) -> dict[str, Any]:
        """Return everything for JSON, the lists of errors in full or up to `max_errors` each."""
        return {
            "file": self.file,
            "lines": self.lines + len(self.bad_lines),
            "bad_lines": [str(line) for line in self.bad_lines[:max_errors]],
            "seconds": round(self.seconds, 3),
            **self.evaluation.to_dict(max_errors),
        }


def check_report(path: Path) -> None:
    """Make sure, before a model is loaded for it, that a report can be written, and over nothing else.

    Raises:
        UserError: it can't; or there is another file, or the directory is that of an adapter or checkpoint.
    """
    check_output(path, "报告", "--report")
    if is_adapter(path.parent) or (path.parent / MANIFEST_FILE).exists():
        raise UserError(f"写不了报告 {path}：{path.parent} 是适配器或检查点的目录，请换一个 --report。")
    if path.exists() and path.stat().st_size:
        try:
            with path.open("rb") as file:
                start = file.read(_START_BYTES)
        except OSError as error:
            raise UserError(f"写不了报告 {path}（{error.strerror}），请检查路径和权限。") from error
        if not _OURS.match(start):
            raise UserError(f"写不了报告 {path}：这个文件不是以前的评估报告，不会覆盖它，请换一个 --report。")


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report beside its place and put it there as a whole.

    Raises:
        OSError: it can't be written; what was at `path` before is still there.
    """
    write_file(path, to_json(report, indent=2) + "\n")
