"""Where a run stands, and its way into a checkpoint and back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.checkpoint import STATE_FILE, load_state, random_state, restore_random_state
from utils.common_utils import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class RunState:
    """The counters of a run, over all processes.

    Args:
        epoch: the one under way, from 0; `windows_done` optimiser steps of it are done.
        global_step: optimiser steps done, those skipped for numerical reasons included.
        evaluation_due: an evaluation was begun and given up.
        best_score: of the best evaluation so far, larger being better; empty before the first.
        nonfinite_steps: skipped for a loss or gradient that is no number; `nonfinite_in_a_row` the last ones.
        scaler_skips: skipped by the fp16 loss scaler, which is its normal way to find its scale.
    """

    epoch: int = 0
    windows_done: int = 0
    global_step: int = 0
    tokens_seen: int = 0
    evaluation_due: bool = False
    best_score: list[float] = field(default_factory=list)
    best_step: int = 0
    evaluations_without_gain: int = 0
    nonfinite_steps: int = 0
    nonfinite_in_a_row: int = 0
    scaler_skips: int = 0


def collect(
    accelerator: Accelerator, optimizer: Any, state: RunState, base_fingerprint: str
) -> dict[str, Any]:
    """Gather what, beside the adapter, a run needs to go on (a collective call: every process makes it)."""
    from accelerate.utils import gather_object

    return {
        "state": dataclasses.asdict(state),
        "optimizer": optimizer.state_dict(),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
        "random_states": gather_object([random_state()]),
        "base_fingerprint": base_fingerprint,
    }


def save(content: dict[str, Any], directory: Path) -> None:
    """Write what `collect` gathered into a checkpoint directory."""
    import torch

    torch.save(content, directory / STATE_FILE)


def restore(accelerator: Accelerator, optimizer: Any, directory: Path, base_fingerprint: str) -> RunState:
    """Put optimiser, scaler and random generators back, and return the counters.

    Raises:
        UserError: the checkpoint is damaged, or belongs to another base model or LoRA shape.
    """
    content = load_state(directory)
    if content["base_fingerprint"] != base_fingerprint:
        raise UserError(f"检查点 {directory} 属于另一个基座模型，不能在当前的 pre_model 上继续。")
    try:
        optimizer.load_state_dict(content["optimizer"])
    except (ValueError, KeyError) as error:
        raise UserError(f"检查点 {directory} 与当前的 LoRA 参数不符，无法继续：{error}") from error
    if accelerator.scaler and content["scaler"]:
        accelerator.scaler.load_state_dict(content["scaler"])
    states = content["random_states"]
    restore_random_state(states[accelerator.process_index % len(states)])
    return RunState(**content["state"])
