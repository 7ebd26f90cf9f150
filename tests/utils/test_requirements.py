"""requirements.txt compared with what is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.requirements import read_requirements


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
