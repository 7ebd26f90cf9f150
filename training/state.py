"""Where a run stands, and its way into a checkpoint and back."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bases.fsdp import gather, split_like
from utils.common_utils import UserError
from utils.directories import STATE_FILE, file_digest, load_state, random_state, restore_random_state

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class RunState:
    """The counters of a run, over all processes.

    Args:
        epoch: the one under way, from 0; `windows_done` optimiser steps of it are done.
        global_step: optimiser steps done, those skipped for numerical reasons included.
        evaluation_due: an evaluation was begun and given up.
        unlogged_steps: steps since the last line of the log; their losses and gradient norms are summed up.
        best_score: of the best evaluation so far, larger being better; empty before the first.
        nonfinite_steps: skipped for a loss or gradient that is no number; `nonfinite_in_a_row` the last ones.
        scaler_skips: skipped by the fp16 loss scaler, which is its normal way to find its scale.
    """

    epoch: int = 0
    windows_done: int = 0
    global_step: int = 0
    tokens_seen: int = 0
    evaluation_due: bool = False
    unlogged_steps: int = 0
    unlogged_loss: float = 0.0
    unlogged_grad_norm: float = 0.0
    best_score: list[float] = field(default_factory=list)
    best_step: int = 0
    evaluations_without_gain: int = 0
    nonfinite_steps: int = 0
    nonfinite_in_a_row: int = 0
    scaler_skips: int = 0


# Knobs that a checkpoint is bound to; to change any other one when resuming is safe. (The last two say what
# the scores so far mean.)
BINDING_KNOBS = (
    *("load_in_4bit", "lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules"),
    *("max_source_seq_len", "max_target_seq_len", "seed", "best_metric", "eval_samples"),
)


def describe_run(
    config: dict[str, Any], base_fingerprint: str, tokenizer_file: str, samples_per_step: int
) -> dict[str, str]:
    """Return what has to be the same for a checkpoint to be resumed, by its name for the user.

    Args:
        config: all knobs.
        base_fingerprint: of the base model's weights.
        tokenizer_file: path of its SentencePiece model.
        samples_per_step: of an optimiser step, over all processes. How it is split into batches, steps and
            processes may change.
    """
    files = {
        "分词器": tokenizer_file,
        "train_path 的内容": config["train_path"],
        "dev_path 的内容": config["dev_path"],
    }
    return {
        "pre_model 的权重": base_fingerprint[:16],
        "每步样本数（batch_size × gradient_accumulation_steps × 进程数）": str(samples_per_step),
        **{name: file_digest(Path(path))[:16] for name, path in files.items()},
        **{name: str(config[name]) for name in BINDING_KNOBS},
    }


def collect(accelerator: Accelerator, optimizer: Any, state: RunState, run: dict[str, str]) -> dict[str, Any]:
    """Gather what, beside the adapter, a run needs to go on (a collective call: every process makes it)."""
    from accelerate.utils import gather_object

    return {
        "state": dataclasses.asdict(state),
        "optimizer": gather(optimizer.state_dict()),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
        "random_states": gather_object([random_state()]),
        "run": run,
    }


def save(content: dict[str, Any], directory: Path) -> None:
    """Write what `collect` gathered into a checkpoint directory.

    Raises:
        OSError: the disk is full. (torch's own writer would hide that in an internal error.)
    """
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    (directory / STATE_FILE).write_bytes(buffer.getbuffer())


def read(directory: Path, run: dict[str, str]) -> dict[str, Any]:
    """Read a checkpoint's state and make sure that it belongs to this run.

    Raises:
        UserError: the checkpoint is damaged, or was made with other data, model or settings.
    """
    content = load_state(directory)
    saved = content["run"]
    differences = [
        f"  {name}：检查点 {saved.get(name, '无')}，现在 {value}"
        for name, value in run.items()
        if saved.get(name) != value
    ]
    if differences:
        raise UserError(
            f"检查点 {directory} 不能用现在的设置继续，以下各项不同：\n"
            + "\n".join(differences)
            + "\n请改回原来的设置，或用 --save_dir 另开一个训练。"
        )
    return content


def restore(accelerator: Accelerator, optimizer: Any, content: dict[str, Any]) -> RunState:
    """Put optimiser, scaler and random generators where `read` found them, and return the counters.

    The optimiser keeps the weight decay that it has now.
    """
    weight_decays = [group["weight_decay"] for group in optimizer.param_groups]
    saved = content["optimizer"]
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in saved["state"].items():  # split as FSDP, if there is one, splits the weights
        saved["state"][index] = {key: split_like(value, trained[index]) for key, value in values.items()}
    optimizer.load_state_dict(saved)
    for group, weight_decay in zip(optimizer.param_groups, weight_decays, strict=True):
        group["weight_decay"] = weight_decay
    if accelerator.scaler and content["scaler"]:
        accelerator.scaler.load_state_dict(content["scaler"])
    states = content["random_states"]
    restore_random_state(states[accelerator.process_index % len(states)])
    return RunState(**content["state"])
