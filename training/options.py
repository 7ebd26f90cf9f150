"""What the knobs of a run are where a checkpoint, an adapter or a rule says it. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from bases.adapter_files import LORA_FILE, load_adapter_meta, read_lora_shape
from glm_config import ProjectConfig
from training.run_directory import find_checkpoint, is_unfinished, read_knobs_of
from utils.common_utils import UserError
from utils.knobs import same_value

BUNDLED_TRAIN, BUNDLED_DEV = "data/mixed_train_dataset.jsonl", "data/mixed_dev_dataset.jsonl"
# How a run starts: never taken from a checkpoint.
_OF_THE_START = ("save_dir", "resume_from_checkpoint", "overwrite_output_dir", "init_adapter")


def prefer_resuming(config: ProjectConfig, given: Collection[str]) -> None:
    """Where resuming is asked for, what the file says of how runs begin does not stand against it.

    Args:
        config: changed in place.
        given: knobs that were set on the command line.
    """
    if config.resume_from_checkpoint is not None:
        if "overwrite_output_dir" not in given:
            config.overwrite_output_dir = False
        if "init_adapter" not in given:
            config.init_adapter = None


def settle(config: ProjectConfig, given: Collection[str], say: Callable[[str], None]) -> None:
    """Complete the knobs by what the checkpoint or adapter says that the run starts from.

    Args:
        config: sound; changed in place.
        given: knobs that were set on the command line.
        say: tells the user what was taken.

    Raises:
        UserError: the checkpoint or adapter can't be used.
    """
    if config.resume_from_checkpoint is not None:
        take_knobs_of_checkpoint(config, given, say)
    if config.init_adapter is not None:
        take_shape_of_adapter(config, given)
    settle_data_paths(config, given)


def settle_data_paths(config: ProjectConfig, given: Collection[str]) -> None:
    """Choose the evaluation data, and find the bundled data from any folder.

    Own training data is never evaluated on the bundled dev set, unless that is asked for by name: then a
    share of it is split off (`dev_path` is set to "").

    Args:
        config: changed in place.
        given: knobs that were set on the command line.
    """
    if "dev_path" not in given and config.dev_path == BUNDLED_DEV and config.train_path != BUNDLED_TRAIN:
        config.dev_path = ""
    config.find_bundled_files()


def settle_save_dir(config: ProjectConfig, given: Collection[str]) -> None:
    """A run goes on in the directory of the checkpoint that is named, unless another one is given.

    Args:
        config: changed in place.
        given: knobs that were set on the command line.
    """
    if config.resume_from_checkpoint not in (None, "auto") and "save_dir" not in given:
        config.save_dir = str(Path(config.resume_from_checkpoint).parent)


def take_knobs_of_checkpoint(
    config: ProjectConfig, given: Collection[str], say: Callable[[str], None]
) -> None:
    """Give every knob that was not given the value that it has in the checkpoint to resume from.

    Args:
        config: changed in place, after `prefer_resuming`; `resume_from_checkpoint` is set. Afterwards it is
            the directory of the checkpoint, or None where "auto" finds none and the run begins.
        given: knobs that were set on the command line.
        say: tells the user what was taken.

    Raises:
        UserError: the checkpoint can't be used.
    """
    save_dir = Path(config.save_dir)
    checkpoint = find_checkpoint(save_dir, config.resume_from_checkpoint or "auto")
    if checkpoint is None:
        config.resume_from_checkpoint = None
        if "init_adapter" not in given:
            config.init_adapter = ProjectConfig().init_adapter  # as the file says, for runs that begin
        # What a run of this directory left that was ended before its first checkpoint is made again.
        config.overwrite_output_dir |= is_unfinished(save_dir)
        say(f"{save_dir} 里没有检查点，从头开始训练。")
        return
    config.resume_from_checkpoint = str(checkpoint)
    if changed := _take(config, read_knobs_of(checkpoint), given):
        say(f"沿用检查点的设置：{'，'.join(changed)}（要改请写在命令行上）。")


def take_shape_of_adapter(config: ProjectConfig, given: Collection[str]) -> None:
    """Give LoRA the shape of the adapter that training starts from, and prompts what it knows them by.

    Args:
        config: changed in place; `init_adapter` is set.
        given: knobs that were set on the command line; they have to agree.

    Raises:
        UserError: there is no such adapter, or another shape was given.
    """
    directory = Path(config.init_adapter or "")
    if not (directory / LORA_FILE).is_file() and (directory / "model_best").is_dir():
        directory = directory / "model_best"
        config.init_adapter = str(directory)
    if not directory.is_dir():
        raise UserError(f"找不到 --init_adapter 指定的适配器目录 {directory}。")
    shape = read_lora_shape(directory)
    if shape.alpha != int(shape.alpha):
        raise UserError(f"适配器 {directory} 的 lora_alpha 是 {shape.alpha}，不是整数，不能接着训练。")
    values = {
        "lora_rank": shape.rank,
        "lora_alpha": int(shape.alpha),
        "lora_target_modules": shape.target_modules,
    }
    differences = [
        f"{name} 给的是 {getattr(config, name)}，适配器是 {value}"
        for name, value in values.items()
        if name in given and not same_value(getattr(config, name), value)
    ]
    if differences:
        raise UserError(
            f"--init_adapter 要沿用适配器 {directory} 的 LoRA 形状，但 {'；'.join(differences)}。"
            "请去掉这些参数，或去掉 --init_adapter 从头训练。"
        )
    if (size := load_adapter_meta(directory).relations_per_prompt) and "schema_prompt" not in given:
        config.schema_prompt = True
        if "relations_per_prompt" not in given:
            config.relations_per_prompt = size
    for name, value in values.items():
        setattr(config, name, value)


def _take(config: ProjectConfig, saved: Mapping[str, Any], given: Collection[str]) -> list[str]:
    """Take saved values over; return "name value" of those that change something."""
    changed = []
    for name in vars(config):
        if name in given or name in _OF_THE_START or name not in saved:
            continue
        if getattr(config, name) != saved[name]:
            changed.append(f"{name} {saved[name]}")
            setattr(config, name, saved[name])
    return changed
