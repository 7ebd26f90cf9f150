"""An assembled run: what the loop, evaluations and saves work with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from data_handle.encoded_file import EncodedFile
from glm_config import ProjectConfig
from task.schema import Schema
from training.files import RunFiles
from training.gradients import Gradients
from training.log import RunLog
from training.memory_plan import MemoryPlan
from training.schedule import StepBatches
from training.state import RunState
from training.stop import StopRequest


@dataclass
class Run:
    """One run of training.

    Args:
        config: the knobs.
        accelerator: device, precision, processes.
        model, optimizer: as `accelerator.prepare` returned them.
        tokenizer: the base model's.
        base_fingerprint: identifies the base model's weights.
        dev: the evaluation data.
        schema: what answers may hold.
        batches: the samples of one optimiser step after the other.
        gradients: of such samples.
        plan: how memory is used.
        total_steps: at which the run ends.
        description: what a checkpoint is bound to, see `training.state.describe_run`.
        state: where the run stands.
        files: its directory.
        log: what it says.
        stop: whether this process was asked to stop.
        saved_step: optimiser step of the last checkpoint that was saved; the same in all processes.
    """

    config: ProjectConfig
    accelerator: Accelerator
    model: Any
    optimizer: Any
    tokenizer: Any
    base_fingerprint: str
    dev: EncodedFile
    schema: Schema
    batches: StepBatches
    gradients: Gradients
    plan: MemoryPlan
    total_steps: int
    description: dict[str, str]
    state: RunState
    files: RunFiles
    log: RunLog
    stop: StopRequest
    saved_step: int = -1

    @property
    def is_main(self) -> bool:
        """This is the process that generates, writes and talks."""
        return self.accelerator.is_main_process

    @property
    def best(self) -> Path:
        """Where the best adapter is."""
        return self.files.save_dir / "model_best"

    @property
    def is_over_an_epoch(self) -> bool:
        """The last step of an epoch, or of the run, was just done."""
        return (
            self.state.steps_in_epoch >= self.batches.steps_per_epoch
            or self.state.global_step >= self.total_steps
        )

    def is_stopping(self) -> bool:
        """Tell whether any process was asked to stop; all processes ask, and get the same answer."""
        asked = torch.tensor(int(self.stop.signal is not None), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum"))
