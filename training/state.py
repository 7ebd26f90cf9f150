"""Where a run stands, and its way into a checkpoint and back."""

from __future__ import annotations

import dataclasses
import enum
import io
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from bases.fsdp import gather, split_like
from training.run_directory import STATE_FILE
from utils.common_utils import UserError
from utils.directories import file_digest
from utils.knobs import same_value
from utils.torch_file import look_through


class StepOutcome(enum.Enum):
    """What became of an optimiser step."""

    APPLIED = "applied"
    SKIPPED_BY_SCALER = "skipped by the fp16 loss scaler"  # its normal way to find its scale
    NOT_FINITE = "loss or gradient is no number"


@dataclass
class RunState:
    """The counters of a run, over all processes.

    Args:
        epoch: the one under way, from 0; `steps_in_epoch` optimiser steps of it are done.
        global_step: optimiser steps done, those skipped for numerical reasons included.
        evaluation_due: an evaluation was begun and given up.
        unlogged_steps: steps since the last record of the log; losses and gradient norms are summed up.
        best_score: of the best evaluation so far, larger being better; empty before the first.
        nonfinite_steps: skipped for a loss or gradient that is no number; `nonfinite_in_a_row` the last ones
            (those skipped by the scaler among them).
        scaler_skips: skipped by the fp16 loss scaler.
    """

    epoch: int = 0
    steps_in_epoch: int = 0
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

    def count(self, outcome: StepOutcome, tokens: int, loss: float, grad_norm: float) -> None:
        """Count an optimiser step.

        Args:
            outcome: of the step.
            tokens: of its samples (context and answer).
            loss: mean over its target tokens.
            grad_norm: before clipping.
        """
        self.scaler_skips += outcome is StepOutcome.SKIPPED_BY_SCALER
        self.nonfinite_steps += outcome is StepOutcome.NOT_FINITE
        self.nonfinite_in_a_row = 0 if outcome is StepOutcome.APPLIED else self.nonfinite_in_a_row + 1
        self.global_step += 1
        self.steps_in_epoch += 1
        self.tokens_seen += tokens
        self.unlogged_steps += 1
        self.unlogged_loss += loss
        self.unlogged_grad_norm += grad_norm if math.isfinite(grad_norm) else 0.0

    def means(self) -> dict[str, float]:
        """Return loss and gradient norm, means over the steps since the last record of the log."""
        steps = max(self.unlogged_steps, 1)
        return {"loss": self.unlogged_loss / steps, "grad_norm": self.unlogged_grad_norm / steps}

    def forget_means(self) -> None:
        """Begin the means anew: a record has been written."""
        self.unlogged_steps, self.unlogged_loss, self.unlogged_grad_norm = 0, 0.0, 0.0

    @classmethod
    def from_dict(cls, values: Any) -> RunState:
        """Read the counters of a checkpoint.

        Raises:
            ValueError: they are not what `dataclasses.asdict` gives.
        """
        values = dict(values)
        if "windows_done" in values:  # its name in earlier versions
            values["steps_in_epoch"] = values.pop("windows_done")
        state, names = cls(), {each.name for each in dataclasses.fields(cls)}
        if values.keys() != names:
            raise ValueError(f"计数器不对：{'、'.join(map(str, sorted(values.keys() ^ names)))}")
        for name, value in values.items():
            sound = type(value) is type(getattr(state, name))
            if sound and isinstance(value, int):
                sound = 0 <= value < 2**53
            elif sound and isinstance(value, list):
                sound = all(type(part) is float and math.isfinite(part) for part in value)
            if not sound:
                raise ValueError(f"计数器 {name} 不能是 {value!r}")
            setattr(state, name, value)
        return state


# Knobs that a checkpoint is bound to; to change any other one when resuming is safe. (The last two say what
# the scores so far mean.)
BINDING_KNOBS = (
    *("load_in_4bit", "load_in_8bit", "lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules"),
    *("max_source_seq_len", "max_target_seq_len", "seed", "best_metric", "eval_samples"),
)
BASE_WEIGHTS = "pre_model 的权重"
_UNSAID = {"schema_prompt": "False"}  # of checkpoints of earlier versions


def describe_run(config: dict[str, Any], tokenizer_file: str, samples_per_step: int) -> dict[str, str]:
    """Return what has to be the same for a checkpoint to be resumed, by its name for the user.

    (And the base model's fingerprint under `BASE_WEIGHTS`, which is only known when the model is loaded.)

    Args:
        config: all knobs.
        tokenizer_file: path of its SentencePiece model.
        samples_per_step: of an optimiser step, over all processes. How it is split into batches, steps and
            processes may change.
    """
    files = {"分词器": tokenizer_file, "train_path 的内容": config["train_path"]}
    if config["dev_path"]:
        files["dev_path 的内容"] = config["dev_path"]
    if config["schema_path"]:
        files["schema_path 的内容"] = config["schema_path"]
    run = {
        "每步样本数（batch_size × gradient_accumulation_steps × 进程数）": str(samples_per_step),
        **{name: file_digest(Path(path))[:16] for name, path in files.items()},
        **{name: str(config[name]) for name in (*BINDING_KNOBS, "schema_prompt")},
    }
    if config["schema_prompt"]:
        run |= {name: str(config[name]) for name in ("relations_per_prompt", "negative_ratio")}
    if not config["dev_path"]:
        run["dev_ratio"] = str(config["dev_ratio"])
    return run


def collect(accelerator: Accelerator, optimizer: Any, state: RunState, run: dict[str, str]) -> dict[str, Any]:
    """Gather what, beside the adapter, a run needs to go on (a collective call: every process makes it)."""
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
    buffer = io.BytesIO()
    torch.save(content, buffer)
    (directory / STATE_FILE).write_bytes(buffer.getbuffer())


def read(directory: Path, run: dict[str, str]) -> dict[str, Any]:
    """Read a checkpoint's state and make sure that it belongs to this run.

    Raises:
        UserError: the checkpoint is damaged, or was made with other data, model or settings.
    """
    content = load_state(directory)
    check_same_run(directory, content["run"], run)
    return content


def check_same_run(directory: Path, saved: dict[str, str], run: dict[str, str]) -> None:
    """Make sure that a checkpoint was made with what this run has (as far as `run` names it).

    Raises:
        UserError: something differs; all of it is named.
    """
    saved = {"load_in_8bit": "False"} | saved  # older ones don't name it
    differences = [
        f"  {name}：检查点 {saved.get(name, '无')}，现在 {value}"
        for name, value in run.items()
        if not same_value(saved.get(name, _UNSAID.get(name)), value)
    ]
    if differences:
        raise UserError(
            f"检查点 {directory} 不能用现在的设置继续，以下各项不同：\n"
            + "\n".join(differences)
            + "\n请改回原来的设置，或用 --save_dir 另开一个训练。"
        )


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Read the training state of a checkpoint; only tensors and plain values are accepted.

    Raises:
        UserError: the file is damaged, or its parts are not what `collect` makes.
    """
    try:
        look_through(checkpoint / STATE_FILE)
        content = torch.load(checkpoint / STATE_FILE, map_location="cpu", weights_only=True)
        for name in ("state", "optimizer", "scaler", "run"):
            if not isinstance(content[name], dict):
                raise ValueError(name)
        if not isinstance(content["random_states"], list) or not content["random_states"]:
            raise ValueError("random_states")
        content["state"] = RunState.from_dict(content["state"])
    except Exception as error:  # weights-only loading has no exception type of its own for refusals
        raise UserError(f"检查点 {checkpoint} 已损坏，无法继续，请换用更早的检查点。") from error
    return content


def restore(accelerator: Accelerator, optimizer: Any, content: dict[str, Any], checkpoint: Path) -> RunState:
    """Put optimiser, scaler and random generators where `read` found them, and return the counters.

    Of the optimiser only the moments come back; its settings are those of this run.

    Raises:
        UserError: the state does not fit this model, or holds numbers that are not finite.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        moments = _checked_moments(content["optimizer"]["state"], trained)
        optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
        if accelerator.scaler and content["scaler"]:
            accelerator.scaler.load_state_dict(content["scaler"])
        states = content["random_states"]
        restore_random_state(states[accelerator.process_index % len(states)])
    except (LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else "已损坏"
        raise UserError(f"检查点 {checkpoint} 的训练状态不能用（{reason}），请换用更早的检查点。") from error
    return content["state"]


def _checked_moments(saved: dict[int, dict[str, Any]], trained: list[torch.Tensor]) -> dict[int, Any]:
    """Return the optimiser's moments by parameter, split as FSDP, if there is one, splits the weights.

    Raises:
        ValueError: they are others than those of `trained`, or not finite.
    """
    moments = {}
    for index, values in saved.items():
        parameter = trained[index]
        for name, value in values.items():
            if name != "step" and value.shape != parameter.shape:
                raise ValueError(f"优化器状态的形状不对：{name}")
            if not value.isfinite().all():
                raise ValueError("优化器状态里有 NaN 或无穷大")
        moments[index] = {name: split_like(value, parameter) for name, value in values.items()}
    return moments


def random_state() -> dict[str, Any]:
    """Return the state of every random generator, as tensors and plain values."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    keys = torch.from_numpy(numpy_state["state"]["key"].astype("int64"))
    numpy_rest = numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]
    return {
        "python": random.getstate(),
        "numpy": (keys, *numpy_rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every random generator back where `random_state` found it."""
    random.setstate(state["python"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype("uint32"), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        for device, cuda_state in enumerate(
            state["cuda"][: torch.cuda.device_count()]
        ):  # there may be fewer now
            torch.cuda.set_rng_state(cuda_state, device)
