"""A requirements file compared with the packages that are installed."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import NamedTuple


class Requirement(NamedTuple):
    """A package as requirements.txt wants it and as it is installed (None: it isn't)."""

    name: str
    wanted: str
    installed: str | None
    satisfied: bool


def read_requirements(path: str | Path) -> list[Requirement]:
    """Compare a requirements file with what is installed; lines for other platforms are left out.

    Raises:
        ImportError: the package `packaging` itself is missing.
    """
    from packaging.requirements import Requirement as Parsed  # may be what is missing

    requirements = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-"):
            continue
        parsed = Parsed(text)
        if parsed.marker and not parsed.marker.evaluate():
            continue
        try:
            installed = metadata.version(parsed.name)
        except metadata.PackageNotFoundError:
            installed = None
        satisfied = installed is not None and parsed.specifier.contains(installed, prereleases=True)
        requirements.append(Requirement(parsed.name, str(parsed.specifier), installed, satisfied))
    return requirements
