"""What training needs of a machine: installed packages, memory, disk; and whether it has them."""

from __future__ import annotations

import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from training.memory_plan import LORA_BYTES

# Above this many parameters a run on the CPU is more likely a missing driver than a wish.
CPU_PARAMETER_LIMIT = 1_000_000_000


class Requirement(NamedTuple):
    """A package as requirements.txt wants it and as it is installed (None: it isn't)."""

    name: str
    wanted: str
    installed: str | None
    satisfied: bool


def estimate_output_bytes(lora_weights: int, save_total_limit: int) -> int:
    """Estimate what a run writes: checkpoints with optimiser state, one more while rotating, best, logs."""
    checkpoint = (LORA_BYTES - 4) * lora_weights  # all but the gradients
    return checkpoint * (save_total_limit + 1) + 4 * lora_weights + 50_000_000


def read_requirements(path: str | Path) -> list[Requirement]:
    """Compare a requirements file with what is installed; lines for other platforms are left out.

    Raises:
        ImportError: the package `packaging` itself is missing.
    """
    from packaging.requirements import Requirement as Parsed

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


def nearest_directory(path: str | Path) -> Path:
    """The path itself or its nearest ancestor that exists (which may be no directory)."""
    path = Path(path).absolute()
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def is_writable_directory(path: str | Path) -> bool:
    """Tell whether files can be made in a directory, by making one that vanishes at once."""
    try:
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def is_whole_weight_file(path: Path) -> bool:
    """Tell whether a weight file has its end: the length its header gives, or a zip archive's directory.

    (Pickles of torch < 1.6 tell no length; they are taken to be whole.)
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt"):
                return True
        except SafetensorError:
            return False
    with path.open("rb") as file:
        is_old_pickle = file.read(1) == b"\x80"
    return is_old_pickle or zipfile.is_zipfile(path)
