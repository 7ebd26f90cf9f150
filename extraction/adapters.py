"""Where an adapter is: the directory itself, `model_best` in a run's, or the default; else what there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from utils.common_utils import UserError, find_bundled, is_there, log
from utils.digest_cache import remembered_digest
from utils.directories import MANIFEST_FILE, find_damage

LORA_FILE = "adapter_config.json"  # PEFT's, by which every adapter is known; nothing of ours is loaded for it
META_FILE = "adapter_meta.json"  # what an adapter was trained for; a merged model has it too
BEST = "model_best"  # what training calls its best adapter, in the directory of a run
PROJECT = Path(__file__).resolve().parent.parent
SHOWN = 10  # adapters in a message


def is_adapter(directory: Path) -> bool:
    """Tell whether a directory holds an adapter."""
    return (directory / LORA_FILE).is_file()


def find_merged(pre_model: str | None) -> Path | None:
    """Return the directory of a base that an adapter was merged into (`export.merge`); None if it is none."""
    directory = Path(find_bundled(pre_model)) if pre_model else None
    if directory is None or not is_there(directory / META_FILE) or is_adapter(directory):
        return None
    return directory


def check_merged(pre_model: str) -> None:
    """Make sure that a model which an adapter was merged into is as it was written, byte by byte.

    Raises:
        UserError: it isn't.
    """
    directory = find_merged(pre_model)
    if directory is None:
        return
    if not is_there(directory / MANIFEST_FILE):
        log(f"合并的模型 {directory} 没有 {MANIFEST_FILE}，它的文件有没有损坏或被改过，无法核对。")
    elif damage := find_damage(directory, digest=remembered_digest):
        raise UserError(
            f"合并的模型 {directory} 与写成时不同（{damage}），请重新合并或重新拷贝；"
            f"若是你自己改的，删去其中的 {MANIFEST_FILE} 即可使用。"
        )


def resolve_adapter(directory: Path) -> Path:
    """Return the adapter's directory for that of an adapter or of a run; as it is if there is none."""
    return directory / BEST if not is_adapter(directory) and is_adapter(directory / BEST) else directory


def find_default_adapter(save_dir: Path) -> Path:
    """Return the best adapter of the configured run, in the current directory or in the project's.

    Raises:
        UserError: there is none; those of other runs are named.
    """
    wanted = save_dir / BEST
    for place in (wanted, PROJECT / wanted):
        if is_adapter(place):
            return place
    others = list(dict.fromkeys(_others(save_dir)))
    if not others:
        return wanted  # what reads it says what is missing
    names = "、".join(map(str, others[:SHOWN])) + ("等" if len(others) > SHOWN else "")
    raise UserError(
        f"找不到适配器 {wanted}（缺 {LORA_FILE}）；现有的适配器：{names}。请用 --adapter 指定其中一个，"
        "或先运行 python train.py。"
    )


def _others(save_dir: Path) -> Iterator[Path]:
    """Yield the adapters of runs beside the configured one and under output/, those of this folder first."""
    for parent in (save_dir.parent, Path("output"), PROJECT / "output"):
        try:
            runs = sorted(parent.iterdir())
        except OSError:
            continue
        yield from (resolve_adapter(run) for run in runs if is_adapter(resolve_adapter(run)))
