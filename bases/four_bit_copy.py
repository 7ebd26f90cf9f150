"""Directories that `export.quantized` wrote: 4-bit layers as they are, and a note of what they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bases.interface import CheckpointError
from bases.linear4bit import QUANTIZATION_NOTE
from bases.weights import fingerprint
from utils.digest_cache import remembered_digest


def read_note(config: Any, model_dir: Path) -> dict[str, Any] | None:
    """Return what a config says of a 4-bit copy; None for weights that are not quantised.

    Raises:
        CheckpointError: it is quantised in another way than `export.quantized` does.
    """
    note = getattr(config, "quantization_config", None)
    if note is None:
        return None
    fingerprints = ("base_fingerprint", "content_fingerprint")
    if (
        not isinstance(note, dict)
        or {key: note.get(key) for key in QUANTIZATION_NOTE} != QUANTIZATION_NOTE
        or not all(isinstance(note.get(key), str) for key in fingerprints)
    ):
        raise CheckpointError(
            f"{model_dir} 的 config.json 里的 quantization_config 不是本项目写的 4-bit 量化；"
            "请用原来的半精度权重，或用 python -m export.quantized 重新量化。"
        )
    return note


def refuse_other_precision(model_dir: Path, load_in_8bit: bool) -> None:
    """Say that a copy can be had in 4-bit only.

    Raises:
        CheckpointError: always.
    """
    wanted = " 8-bit " if load_in_8bit else "半精度"
    raise CheckpointError(
        f"{model_dir} 是 4-bit 量化副本，不能按{wanted}加载；"
        "请打开 load_in_4bit，或改用原来的半精度权重目录。"
    )


def refuse_as_source(config: Any, model_dir: Path) -> None:
    """Make sure that half-precision weights can be had of a directory.

    Raises:
        CheckpointError: it is a copy.
    """
    if getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(
            f"{model_dir} 是 4-bit 量化副本，从它得不到半精度的权重；请用 --pre_model 指定量化前的基座目录。"
        )


def check_copy(
    model_dir: Path, note: Mapping[str, Any], digests: Mapping[str, str], shards: list[Path]
) -> None:
    """Make sure that a copy's files are what was written.

    Args:
        model_dir: the directory.
        note: of `read_note`.
        digests: of each of its tensors, by name.
        shards: its weight files.

    Raises:
        CheckpointError: they aren't.
    """
    same = fingerprint(dict(digests)) == note["content_fingerprint"]
    written = note.get("files")  # every byte of them; older copies lack it
    if isinstance(written, dict):
        same = same and {shard.name: remembered_digest(shard) for shard in shards} == written
    if not same:
        raise CheckpointError(
            f"{model_dir} 的权重与量化时写下的不同，文件可能已损坏或被换过；"
            "请重新运行 python -m export.quantized。"
        )
