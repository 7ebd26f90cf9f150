"""Puts a run together: checks, data, memory plan, model, optimiser, and what a checkpoint brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from bases import find_family
from bases.adapter import SCHEMA_FILE, adapter_file, attach_lora, check_adapter, load_adapter_weights
from bases.four_bit import choose_4bit
from bases.hub_cache import resolve_model_dir
from bases.lora_product import shorten_lora
from data_handle.data_loader import build_dataloader
from glm_config import ProjectConfig
from task.schema import Schema
from training import state as run_state
from training.checks import refuse_failures
from training.data import RunData, read_data
from training.device_checks import BEFORE_LOADING
from training.evaluation import score_of
from training.files import RunFiles
from training.gradients import Gradients
from training.lanes import Lanes, lane_count
from training.log import RunLog
from training.memory_plan import (
    LORA_BYTES,
    MemoryPlan,
    TrainingSettings,
    plan_memory,
    shape_of,
)
from training.run import Run
from training.run_directory import RunLock, clear_results, write_marker
from training.schedule import StepBatches
from training.state import RunState
from training.stop import StopRequest
from utils.common_utils import UserError, log, set_seed
from utils.device import make_accelerator, quant_storage, weight_dtype
from utils.memory import GB, map_large_allocations, memory_budget, read_memory

STOP_PROMISE = "收到中断信号：完成当前这一步并保存检查点后退出（再按一次立即退出，不保存）。"
MAP_ABOVE = 2 * GB  # bytes of a plan for the CPU, above which freed memory goes back to the system at once


def assemble(config: ProjectConfig, lock: RunLock | None, run_log: RunLog) -> Run:
    """Put a run together, cheap checks first.

    Args:
        config: the knobs, a `ProjectConfig`; `resume_from_checkpoint` is a directory or None.
        lock: on the output directory, in the main process.
        run_log: tells of what is under way.

    Raises:
        UserError: data, model, memory, disk or checkpoint are not what the run needs.
    """
    refuse_failures(config, BEFORE_LOADING)
    accelerator = make_accelerator(config.device, fp16=config.fp16, bf16=config.bf16)
    _agree(config)
    config.load_in_4bit = choose_4bit(config.load_in_4bit, accelerator.device)
    run_log.begin("读取数据")
    model_dir = resolve_model_dir(config.pre_model)
    family = find_family(model_dir)
    config.lora_target_modules = shape_of(family.load_config(model_dir)).targets(config.lora_target_modules)
    tokenizer = family.load_tokenizer(model_dir)
    data = read_data(config, tokenizer, run_log.say)
    samples_per_step = config.batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    description = run_state.describe_run(config.to_dict(), tokenizer.vocab_file, samples_per_step)
    checkpoint = Path(config.resume_from_checkpoint) if config.resume_from_checkpoint else None
    content = run_state.read(checkpoint, description) if checkpoint is not None else None
    if config.init_adapter is not None:
        data = _with_schema_of_adapter(data, Path(config.init_adapter))

    run_log.begin("加载模型")
    plan = _make_plan(config, accelerator, model_dir, run_log)
    model = _load_model(config, accelerator, model_dir, plan.checkpoint_every, run_log)
    description = {run_state.BASE_WEIGHTS: model.get_base_model().base_fingerprint[:16], **description}
    run_log.begin("准备训练")
    run = _prepare(config, accelerator, model, tokenizer, data, plan, description, lock, run_log)
    if checkpoint is not None and content is not None:
        _resume(run, checkpoint, content)
    _begin_writing(run, len(data.train.features), samples_per_step)
    return run


def _agree(config: ProjectConfig) -> None:
    """Let all processes have the knobs of the main one, and so the checkpoint that it has found.

    (While it puts right what a kill has left, others may find another one.)
    """
    (knobs,) = broadcast_object_list([config.to_dict()])
    vars(config).update(knobs | {"device": config.device})


def _with_schema_of_adapter(data: RunData, directory: Path) -> RunData:
    """Let the schema keep the relations of the adapter that training starts from, if it tells them.

    Raises:
        UserError: its schema is damaged.
    """
    if not (directory / SCHEMA_FILE).exists():  # saved by plain peft
        return data
    earlier = Schema.load(adapter_file(directory, SCHEMA_FILE))
    return data._replace(schema=Schema(data.schema.combinations | earlier.combinations))


def _make_plan(
    config: ProjectConfig, accelerator: Accelerator, model_dir: Path, run_log: RunLog
) -> MemoryPlan:
    """Plan how the run uses its memory, and show it.

    Raises:
        UserError: it does not fit.
    """
    device, family = accelerator.device, find_family(model_dir)
    largest_file = max(file.stat().st_size for file in family.weight_files(model_dir))
    plan = plan_memory(
        shape_of(family.load_config(model_dir)),
        TrainingSettings.of(config.to_dict(), device.type == "cuda", largest_file),
        config.gradient_checkpointing,
        memory_budget(device, config.vram_budget_gb),
    )
    run_log.say(plan.table())
    if device.type == "cpu" and plan.peak > MAP_ABOVE:
        map_large_allocations()
    return plan


def _load_model(
    config: ProjectConfig, accelerator: Accelerator, model_dir: Path, checkpoint_every: int, run_log: RunLog
) -> Any:
    """Load the base model (in 4-bit unless told otherwise) and attach LoRA, new or from an adapter.

    Args:
        config: sets the adapter.
        accelerator: for device and precision.
        model_dir: of the base model.
        checkpoint_every: every n-th layer is checkpointed; 0 for none.
        run_log: tells what was loaded.

    Raises:
        UserError: the model directory is damaged, or the LoRA knobs or the adapter do not fit the model.
    """
    set_seed(config.seed)
    family = find_family(model_dir)
    model, _ = family.load(
        model_dir,
        load_in_4bit=config.load_in_4bit,
        load_in_8bit=config.load_in_8bit,
        quant_storage=quant_storage(accelerator),
        dtype=weight_dtype(accelerator),
        device=accelerator.device,
    )
    model.label_smoothing = config.label_smoothing
    loaded = read_memory(accelerator.device)
    if checkpoint_every:
        family.checkpoint_layers(model, checkpoint_every)
    peft_model = attach_lora(
        model,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=config.lora_target_modules,
    )
    if accelerator.distributed_type != "FSDP":  # which gathers weights when their own module is called
        shorten_lora(peft_model)
    kind = "4-bit NF4" if config.load_in_4bit else "8-bit 整数" if config.load_in_8bit else "未量化"
    run_log.say(f"模型已加载：{config.pre_model}（{kind}），{loaded.describe()}")
    trainable, total = peft_model.get_nb_trainable_parameters()
    share = f"{trainable:,} / {total:,}（{trainable / total:.3%}）"
    run_log.say(f"LoRA 已就绪：可训练参数 {share}，{read_memory(accelerator.device).describe()}")
    if config.init_adapter is not None:
        _start_from_adapter(peft_model, Path(config.init_adapter), run_log)
    return peft_model


def _start_from_adapter(peft_model: Any, directory: Path, run_log: RunLog) -> None:
    """Take over the weights of an adapter.

    Raises:
        UserError: it belongs to another base model or prompt, is damaged, or does not fit.
    """
    check_adapter(peft_model.get_base_model(), directory)
    load_adapter_weights(peft_model, directory)
    run_log.say(
        f"以适配器 {directory} 的权重为起点，用新的数据开始一次新的训练（步数、学习率和优化器都从头开始；"
        "接着做没做完的训练请用 --resume_from_checkpoint）。"
    )


def _prepare(
    config: ProjectConfig,
    accelerator: Accelerator,
    model: Any,
    tokenizer: Any,
    data: RunData,
    plan: MemoryPlan,
    description: dict[str, str],
    lock: RunLock | None,
    run_log: RunLog,
) -> Run:
    """Make optimiser and batches, and hand everything to accelerate."""
    fingerprint = model.get_base_model().base_fingerprint
    loader, sampler = build_dataloader(
        data.train.dataset,
        config.batch_size,
        seed=config.seed,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_processes=accelerator.num_processes,
        num_workers=config.dataloader_num_workers,
    )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    lora_weights = sum(parameter.numel() for parameter in trainable)
    optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    batches = StepBatches(loader, sampler, config.gradient_accumulation_steps, accelerator.num_processes)
    total_steps = batches.steps_per_epoch * config.epochs
    if config.max_steps > 0:
        total_steps = min(total_steps, config.max_steps)
    is_main = accelerator.is_main_process
    hidden_size = accelerator.unwrap_model(model).config.hidden_size
    lanes = lane_count(accelerator, model, hidden_size, checkpointing=plan.checkpoint_every > 0)
    return Run(
        config=config,
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        tokenizer=tokenizer,
        base_fingerprint=fingerprint,
        dev=data.dev,
        schema=data.schema,
        batches=batches,
        gradients=Gradients(
            accelerator, model, plan.tokens_per_pass, run_log.say if is_main else log, Lanes(lanes)
        ),
        plan=plan,
        total_steps=total_steps,
        description=description,
        state=RunState(),
        files=RunFiles(
            Path(config.save_dir),
            config.save_total_limit,
            adapter_bytes=4 * lora_weights,
            checkpoint_bytes=(LORA_BYTES - 4) * lora_weights,  # all but the gradients
            lock=lock,
        ),
        log=run_log,
        stop=StopRequest(STOP_PROMISE if is_main else None),
    )


def _resume(run: Run, checkpoint: Path, content: dict[str, Any]) -> None:
    """Put model, optimiser, scaler, random generators and counters where a checkpoint left them.

    A checkpoint of another directory brings the best adapter from there along.

    Raises:
        UserError: the checkpoint is damaged, or was made with another base model.
    """
    run_state.check_same_run(
        checkpoint, content["run"], {run_state.BASE_WEIGHTS: run.description[run_state.BASE_WEIGHTS]}
    )
    load_adapter_weights(run.accelerator.unwrap_model(run.model), checkpoint)
    run.state = state = run_state.restore(run.accelerator, run.optimizer, content, checkpoint)
    best = run.files.adopt_best(checkpoint.parent, state.best_step) if run.is_main else None
    (best,) = broadcast_object_list([best])
    if best is None or "dev_loss" not in best:
        state.best_score, state.best_step = [], 0
    elif best["step"] != state.best_step:  # newer checkpoints were moved away
        state.best_score, state.best_step = score_of(run.config, best), best["step"]
        run.log.say(f"{run.best} 是第 {best['step']} 步的，比它更好才会替换。")
    if state.nonfinite_in_a_row >= run.config.max_nonfinite_steps:  # it had stopped for them
        state.nonfinite_in_a_row = 0
    run.log.say(f"从 {checkpoint} 继续：第 {state.epoch + 1} 轮，已完成 {state.global_step} 步。")


def _begin_writing(run: Run, samples: int, samples_per_step: int) -> None:
    """Make the directory the run's own, open its files, and say that training begins.

    Raises:
        UserError: the files can't be written.
    """
    save_dir = run.files.save_dir
    if run.is_main:
        if run.config.overwrite_output_dir:
            clear_results(save_dir)
        try:
            write_marker(save_dir, finished=False, about=_about(run, samples, samples_per_step))
        except OSError as error:
            raise UserError(
                f"写不了 {error.filename or save_dir}（{error.strerror}），请检查权限和磁盘空间。"
            ) from error
    run.log.open(run.config, run.state, run.total_steps, run.batches.steps_per_epoch)
    run.log.say(
        f"开始训练：{samples} 条样本，{run.config.epochs} 轮，共 {run.total_steps} 步，"
        f"每步 {samples_per_step} 条，输出到 {save_dir}"
    )
    run.model.train()


def _about(run: Run, samples: int, samples_per_step: int) -> dict[str, Any]:
    """Return what those want to know who look on at a run."""
    return {
        "knobs": run.config.to_dict(),
        "samples": samples,
        "samples_per_step": samples_per_step,
        "total_steps": run.total_steps,
        "steps_per_epoch": run.batches.steps_per_epoch,
        "processes": run.accelerator.num_processes,
        "device": run.accelerator.device.type,
        "plan": {
            "parts": run.plan.parts,
            "budget": run.plan.budget,
            "checkpoint_every": run.plan.checkpoint_every,
            "tokens_per_pass": run.plan.tokens_per_pass,
        },
    }
