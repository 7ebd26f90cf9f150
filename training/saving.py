"""What a run saves and when: the best adapter after an evaluation, checkpoints to go on from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from accelerate.utils import broadcast_object_list

from bases.adapter import AdapterMeta, write_adapter_files
from bases.fsdp import unsharded
from training import state as run_state
from training.run import Run


def save_checkpoint(run: Run) -> bool:
    """Save all that an interrupted run needs to go on (all processes); return whether that worked."""
    step = run.state.global_step
    with run.log.paused(f"保存第 {step} 步的检查点"):
        content = run_state.collect(run.accelerator, run.optimizer, run.state, run.description)
        with unsharded(run.model):
            saved = run.is_main and run.files.save_checkpoint(
                step, lambda directory: _write_adapter(run, directory, {}), content
            )
        (saved,) = broadcast_object_list([saved])
        if saved:
            run.saved_step = step
    return saved


def save_best(run: Run, values: dict[str, float]) -> bool:
    """Make the present adapter `model_best`, with its evaluation's figures; return whether it is.

    To be called by the main process, within `unsharded`.
    """
    return run.files.save_best(lambda directory: _write_adapter(run, directory, values))


def _write_adapter(run: Run, directory: Path, metrics: dict[str, float]) -> None:
    """Write the adapter's files.

    Raises:
        ValueError: its weights are not finite.
    """
    model = run.accelerator.unwrap_model(run.model)
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.isfinite().all():
            raise ValueError("LoRA 权重里有 NaN 或无穷大")
    meta = AdapterMeta(
        base_fingerprint=run.base_fingerprint,
        pre_model=str(run.config.pre_model),
        max_source_seq_len=run.config.max_source_seq_len,
        max_target_seq_len=run.config.max_target_seq_len,
        metrics={"step": run.state.global_step, **metrics},
        prompt_frame=run.tokenizer.prompt_frame,
        relations_per_prompt=run.config.relations_per_prompt if run.config.schema_prompt else 0,
        versions={name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")},
    )
    write_adapter_files(model, directory, meta, run.config.to_dict(), run.schema.to_dict())


@contextlib.contextmanager
def saved_on_failure(run: Run) -> Iterator[None]:
    """Should the loop fail (out of memory, a killed data worker), save what is done before passing it on."""
    try:
        yield
    except Exception:
        if run.accelerator.num_processes == 1 and run.state.global_step:
            save_checkpoint(run)
        raise
