"""Fine-tune ChatGLM-6B with QLoRA to extract triplets: `python train.py [--knob value …]`.

Reads top to bottom: check what is cheap to check, load in 4-bit, attach LoRA, train, evaluate, save. Every
knob of `glm_config.ProjectConfig` can be set on the command line under its own name.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from glm_config import ProjectConfig
from training.schedule import learning_rate_at, windows
from utils.command_line import apply_overrides
from utils.common_utils import UserError, log, quiet_libraries, run_main, set_seed
from utils.device import limit_primitive_cache

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from data_handle.data_preprocess import Features
    from data_handle.packing import Pass
    from extraction.evaluation.evaluate import Evaluation
    from training.log import Meter
    from training.memory_plan import MemoryPlan

Result = TypeVar("Result")
STOP_PROMISE = "收到中断信号：完成当前这一步并保存检查点后退出（再按一次立即退出，不保存）。"
OUT_OF_MEMORY_ADVICE = """显存（内存）不足，可以依次尝试：
  1. 调小预算，让每次前向少算一些：--vram_budget_gb 比现在小几 GB
  2. 减少序列长度：--max_source_seq_len 200 --max_target_seq_len 100
  3. 评估时显存不足：--eval_batch_size 1
  4. 确认 --load_in_4bit、--fp16 是 true，--gradient_checkpointing 是 auto 或 true
已保存的检查点不受影响：只改第 1、3 项，可加 --resume_from_checkpoint auto 继续；
改了序列长度或 load_in_4bit，要重新训练（--overwrite_output_dir true，或换 --save_dir）。"""


MAP_ABOVE = 2 * 2**30  # bytes of a plan for the CPU, above which freed memory goes back to the system at once


class EvaluationAbortedError(KeyboardInterrupt):
    """The user asked to stop during an evaluation; the step before it is complete.

    (An interrupt, so that the extractor does not take it for the failure of a sentence.)
    """


# ------------------------------------------------------------------------------------------------ assembly


def check_before_loading(config: ProjectConfig) -> None:
    """Find what is missing before minutes are spent on loading.

    Raises:
        UserError: a data file or a GPU is missing, or earlier results would be overwritten.
        CheckpointError: the model is missing or is no ChatGLM.
    """
    import torch

    from bases.chatglm import load_config, resolve_model_dir
    from training.environment import CPU_PARAMETER_LIMIT
    from training.run_directory import results_in_the_way
    from utils.device import check_device
    from utils.directories import list_checkpoints

    for name in ("train_path", "dev_path"):
        path = getattr(config, name)
        if not Path(path).is_file():
            raise UserError(f"找不到数据文件 {path}，请检查 {name}（格式见 README 的“数据格式”）。")
    save_dir = Path(config.save_dir)
    if results_in_the_way(save_dir, config.resume_from_checkpoint, config.overwrite_output_dir):
        resume = "继续训练请加 --resume_from_checkpoint auto；" if list_checkpoints(save_dir) else ""
        raise UserError(
            f"{save_dir} 里已有训练结果。{resume}"
            "清掉重来请加 --overwrite_output_dir；或用 --save_dir 换一个目录。"
        )
    check_device(config.device)
    parameters = load_config(resolve_model_dir(config.pre_model)).parameter_count()
    if config.device is None and not torch.cuda.is_available() and parameters > CPU_PARAMETER_LIMIT:
        raise UserError(
            f"没有可用的 CUDA GPU，而 {config.pre_model} 有 {parameters / 1e9:.1f}B 参数。"
            "请检查驱动（nvidia-smi）；没有 GPU 时可用内置小模型体验：make demo，"
            "或 --pre_model models/chatglm-tiny；确实要在 CPU 上训练请加 --device cpu。"
        )


def make_plan(config: ProjectConfig, accelerator: Accelerator) -> MemoryPlan:
    """Plan how the run uses its memory, and show it.

    Raises:
        UserError: it does not fit.
    """
    from bases.chatglm import load_config, resolve_model_dir
    from bases.chatglm.files import largest_shard_bytes
    from training.memory_plan import TrainingSettings, plan_memory, shape_of
    from utils.memory import memory_budget

    device, model_dir = accelerator.device, resolve_model_dir(config.pre_model)
    plan = plan_memory(
        shape_of(load_config(model_dir)),
        TrainingSettings.of(config.to_dict(), device.type == "cuda", largest_shard_bytes(model_dir)),
        config.gradient_checkpointing,
        memory_budget(device, config.vram_budget_gb),
    )
    if accelerator.is_main_process:
        log(plan.table())
    return plan


def load_model(config: ProjectConfig, accelerator: Accelerator, checkpoint_every: int) -> tuple[Any, Any]:
    """Load the base model (in 4-bit unless told otherwise) and attach LoRA; return it and its tokenizer.

    Args:
        config: names the model and sets the adapter.
        accelerator: for device and precision.
        checkpoint_every: every n-th layer is checkpointed; 0 for none.

    Raises:
        CheckpointError: the model directory is damaged.
        UserError: the LoRA knobs do not fit the model.
    """
    from bases.adapter import attach_lora
    from bases.chatglm import checkpoint_layers, load_base_model
    from utils.device import quant_storage, weight_dtype
    from utils.memory import read_memory

    model, tokenizer = load_base_model(
        config.pre_model,
        load_in_4bit=config.load_in_4bit,
        quant_storage=quant_storage(accelerator),
        dtype=weight_dtype(accelerator),
        device=accelerator.device,
    )
    loaded = read_memory(accelerator.device)
    if checkpoint_every:
        checkpoint_layers(model, checkpoint_every)
    peft_model = attach_lora(
        model,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=config.lora_target_modules,
    )
    if accelerator.is_main_process:
        kind = "4-bit NF4" if config.load_in_4bit else "未量化"
        log(f"模型已加载：{config.pre_model}（{kind}），{loaded.describe()}")
        trainable, total = peft_model.get_nb_trainable_parameters()
        share = f"{trainable:,} / {total:,}（{trainable / total:.3%}）"
        log(f"LoRA 已就绪：可训练参数 {share}，{read_memory(accelerator.device).describe()}")
    return peft_model, tokenizer


# ----------------------------------------------------------------------------------------------------- run


class Trainer:
    """One run: what it is made of, and what is done with it (step, evaluate, save, resume, train)."""

    def __init__(self, config: ProjectConfig) -> None:
        import torch

        from data_handle.data_loader import build_dataloader, load_data
        from task.schema import Schema
        from training.environment import estimate_output_bytes
        from training.log import Progress
        from training.run_directory import RunFiles, check_free_space
        from training.state import RunState, describe_run
        from training.stop import StopRequest
        from utils.device import make_accelerator
        from utils.memory import map_large_allocations

        self.config = config
        self.accelerator = accelerator = make_accelerator(config.device, fp16=config.fp16, bf16=config.bf16)
        self.is_main = accelerator.is_main_process
        self.is_split = accelerator.distributed_type == "FSDP"
        self.save_dir = Path(config.save_dir)
        set_seed(config.seed)
        plan = make_plan(config, accelerator)
        self.tokens_per_pass, self.checkpoint_every = plan.tokens_per_pass, plan.checkpoint_every
        if accelerator.device.type == "cpu" and plan.peak > MAP_ABOVE:
            map_large_allocations()
        model, self.tokenizer = load_model(config, accelerator, plan.checkpoint_every)
        self.base_fingerprint = model.get_base_model().base_fingerprint

        self.train_data, self.dev_data = (
            load_data(
                path,
                self.tokenizer,
                max_source_seq_len=config.max_source_seq_len,
                max_target_seq_len=config.max_target_seq_len,
                strict=config.strict_data,
                cache_dir=config.token_cache_dir or None,
            )
            for path in (config.train_path, config.dev_path)
        )
        for line in [*self.train_data.report(), *self.dev_data.report()] if self.is_main else []:
            log(line)
        self.schema = Schema(self.train_data.combinations)

        loader, self.sampler = build_dataloader(
            self.train_data.dataset,
            config.batch_size,
            seed=config.seed,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            num_processes=accelerator.num_processes,
            num_workers=config.dataloader_num_workers,
        )
        self.batches_per_window = config.gradient_accumulation_steps * accelerator.num_processes
        self.windows_per_epoch = math.ceil(len(self.sampler) / self.batches_per_window)
        self.total_steps = self.windows_per_epoch * config.epochs
        if config.max_steps > 0:
            self.total_steps = min(self.total_steps, config.max_steps)

        self.run = describe_run(
            config.to_dict(),
            self.base_fingerprint,
            self.tokenizer.vocab_file,
            config.batch_size * self.batches_per_window,
        )
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        lora_weights = sum(parameter.numel() for parameter in trainable)
        self.files = RunFiles(
            self.save_dir,
            config.save_total_limit,
            checkpoint_bytes=12 * lora_weights,  # fp32 weights and Adam's two moments
            write_adapter=self._write_adapter,
        )
        if self.is_main:
            check_free_space(self.save_dir, estimate_output_bytes(lora_weights, config.save_total_limit))
        optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.model, self.optimizer, self.loader = accelerator.prepare(model, optimizer, loader)
        self.state = RunState()
        self.stop = StopRequest(STOP_PROMISE if self.is_main else None)
        self.progress = Progress(self.total_steps, enabled=self.is_main)

    # ---- one optimiser step

    def train_window(self, window: list[list[Features]]) -> int:
        """Run one optimiser step over the samples of a window.

        The gradient is the mean over all target tokens of the window, over all processes: each pass's mean
        loss counts by its share of them, so the split into passes does not matter.

        Returns:
            the tokens of the window (context and answer).
        """
        import torch

        accelerator, config, state = self.accelerator, self.config, self.state
        samples = [sample for batch in window for sample in batch]
        own_totals = [
            sum(sample.num_targets for sample in samples),
            sum(len(sample.input_ids) for sample in samples),
        ]
        totals = accelerator.reduce(torch.tensor(own_totals, device=accelerator.device), "sum")
        target_tokens, tokens = totals.tolist()
        learning_rate = learning_rate_at(
            state.global_step, self.total_steps, config.learning_rate, config.warmup_ratio
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

        loss = self.accumulate_gradients(samples, target_tokens)
        loss_value = float(accelerator.reduce(loss, "sum"))
        norm = float(accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm or math.inf))

        # An fp16 overflow shows in the gradient only. The loss scaler must see every step: it skips one with
        # such a gradient and lowers its scale.
        scaler = accelerator.scaler
        finite = math.isfinite(loss_value) and (math.isfinite(norm) or scaler is not None)
        if finite or scaler is not None:
            self.optimizer.step()
        skipped = finite and bool(self.optimizer.step_was_skipped)
        state.scaler_skips += skipped
        state.nonfinite_steps += not finite
        state.nonfinite_in_a_row = 0 if finite and not skipped else state.nonfinite_in_a_row + 1
        self.optimizer.zero_grad(set_to_none=True)
        state.global_step += 1
        state.windows_done += 1
        state.tokens_seen += tokens
        state.unlogged_steps += 1
        state.unlogged_loss += loss_value
        state.unlogged_grad_norm += norm if math.isfinite(norm) else 0.0
        return tokens

    def accumulate_gradients(self, samples: list[Features], target_tokens: int) -> torch.Tensor:
        """Run forward and backward over samples, in as few passes as memory allows.

        Out of memory, the passes are halved and the samples begun again; so it stays for the rest of the run.
        Other processes wait meanwhile (under FSDP they are in the midst of the same pass, so there it is an
        error).

        Args:
            samples: of this process, in one optimiser step.
            target_tokens: labelled tokens of the step, over all processes.

        Returns:
            this process's share of the step's mean loss. The gradients are those of all processes.
        """
        import torch
        from peft.helpers import disable_input_dtype_casting

        from data_handle.packing import plan_passes

        accelerator = self.accelerator
        lengths = [len(sample.input_ids) for sample in samples]
        hidden_size = accelerator.unwrap_model(self.model).config.hidden_size
        passes = plan_passes(lengths, self.tokens_per_pass, hidden_size)
        if self.is_split:  # all processes have to take part in every pass
            counts = accelerator.gather(torch.tensor([len(passes)], device=accelerator.device))
            passes = plan_passes(lengths, self.tokens_per_pass, hidden_size, at_least=int(counts.max()))
        while True:
            largest = max(each.tokens for each in passes)
            # Autocast casts for LoRA's products; PEFT would make an fp32 copy of each input first.
            uncopied = disable_input_dtype_casting(self.model, active=accelerator.mixed_precision != "no")
            try:
                with uncopied:  # backward too: there checkpointed layers are computed again
                    loss = self._run_passes(samples, passes, target_tokens)
                break
            except torch.OutOfMemoryError:
                passes = plan_passes(lengths, largest // 2, hidden_size)
                if self.is_split or max(each.tokens for each in passes) >= largest:
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            if accelerator.device.type == "cuda":
                torch.cuda.empty_cache()
            self.tokens_per_pass = largest // 2
            where = f"进程 {accelerator.process_index} " if accelerator.num_processes > 1 else ""
            say = self.progress.message if self.is_main else log
            say(
                f"{where}显存不足：每次前向由至多 {largest} 个 token 减为 {self.tokens_per_pass} 个，"
                "重做这一步，什么也没有丢。"
            )
        if accelerator.num_processes > 1 and not self.is_split:
            self._sum_gradients()
        return loss

    def _sum_gradients(self) -> None:
        """Add up the gradients of all processes, once a step and by hand.

        DDP would do it within the last pass's backward, and what fails there can't be done again by one
        process alone. LoRA's gradients are so small that nothing is lost by not overlapping the two.
        """
        import torch

        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        own = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        total = self.accelerator.reduce(torch.cat([gradient.flatten() for gradient in own]), "sum")
        parts = total.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def _run_passes(self, samples: list[Features], passes: list[Pass], target_tokens: int) -> torch.Tensor:
        import torch

        from data_handle.packing import pack

        accelerator, model_config = self.accelerator, self.accelerator.unwrap_model(self.model).config
        loss = torch.zeros((), device=accelerator.device)
        for micro_step, one_pass in enumerate(passes, start=1):
            rows = [[samples[index] for index in row] for row in one_pass.rows]
            count = sum(sample.num_targets for row in rows for sample in row)
            batch = pack(rows, one_pass.row_length, model_config)
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            share = count / max(target_tokens, 1)
            synchronised = self.is_split and micro_step == len(passes)
            with contextlib.nullcontext() if synchronised else accelerator.no_sync(self.model):
                with accelerator.autocast():
                    pass_loss = self.model(**batch).loss * share
                # FSDP averages the gradients of the processes, where their sum is wanted.
                accelerator.backward(pass_loss * (accelerator.num_processes if self.is_split else 1))
            loss += pass_loss.detach()
        return loss

    # ---- evaluation

    def dev_loss(self) -> float:
        """Return the mean loss over all target tokens of the dev set; each process does its share."""
        from data_handle.data_loader import length_sorted_batches
        from training.loss import loss_sums

        accelerator = self.accelerator
        batches = length_sorted_batches(
            self.dev_data.dataset.features[accelerator.process_index :: accelerator.num_processes],
            self.config.eval_batch_size,
            self.tokenizer.pad_token_id,
        )
        sums = self._unless_stopped(
            lambda: loss_sums(accelerator, self.model, batches, self._abort_if_stopped)
        )
        loss_sum, count = accelerator.reduce(sums, "sum").tolist()
        return loss_sum / max(count, 1)

    def extract_dev(self, limit: int | None) -> Evaluation:
        """Let the model answer dev (a fixed sample of `limit` triplet lines, or all lines); score it."""
        from extraction.decoding.grammar import Constraint
        from extraction.evaluation.evaluate import evaluate
        from extraction.extractor import TripletExtractor
        from task.triplets import is_triplet_target

        examples = list(self.dev_data.examples)
        if limit is not None:
            examples = [example for example in examples if is_triplet_target(example.target)]
            random.Random(self.config.seed).shuffle(examples)
        extractor = TripletExtractor(
            self.accelerator.unwrap_model(self.model),
            self.tokenizer,
            max_source_seq_len=self.config.max_source_seq_len,
            max_new_tokens=self.config.max_target_seq_len,
            batch_size=self.config.eval_batch_size,
            constraint=Constraint(self.schema),
            with_scores=limit is None,
        )
        contexts = [example.context for example in examples[:limit]]
        targets = [example.target for example in examples[:limit]]
        with self.accelerator.autocast():
            return evaluate(extractor, contexts, targets, lambda _: self._abort_if_stopped())

    def evaluate(self) -> None:
        """Measure dev loss and triplet F1, and keep the adapter if it is the best so far.

        Generation runs on the main process only; the others wait for its figures.
        """
        from accelerate.utils import broadcast_object_list

        from bases.fsdp import whole_weights

        config, state, started = self.config, self.state, time.monotonic()
        state.evaluation_due = True
        self.model.eval()
        with whole_weights(self.model):
            values = {"dev_loss": self.dev_loss()}
            if config.eval_samples:
                evaluation = self._unless_stopped(
                    lambda: self.extract_dev(config.eval_samples) if self.is_main else None
                )
                values |= triplet_scores(evaluation) if evaluation is not None else {}
            score = self._score(values)
            better = all(map(math.isfinite, score)) and score > state.best_score
            better = self.is_main and better and self.files.save_best(values)
        score, better = broadcast_object_list([score, better])
        self.model.train()
        state.evaluation_due = False
        if better:
            state.best_score, state.best_step = score, state.global_step
        state.evaluations_without_gain = 0 if better else state.evaluations_without_gain + 1
        if self.is_main:
            self.metrics.write("eval", state.global_step, values)
            note = "目前最佳，已保存" if better else f"最佳在第 {state.best_step} 步"
            self.progress.message(
                f"评估 步 {state.global_step} | {describe_scores(values)} | "
                f"用时 {time.monotonic() - started:.0f} 秒 | {note}"
            )
        self.accelerator.wait_for_everyone()

    def _score(self, values: dict[str, float]) -> list[float]:
        """Return what evaluations are compared by, larger being better: F1 if asked for, then loss."""
        score = [values.get("triplet_f1", 0.0)] if self.config.best_metric == "triplet_f1" else []
        return [*score, -values["dev_loss"]]

    def _abort_if_stopped(self) -> None:
        """Give this process's part of an evaluation up when asked to stop; see `_unless_stopped`."""
        if self.stop.signal is not None:
            raise EvaluationAbortedError

    def _unless_stopped(self, work: Callable[[], Result]) -> Result:
        """Do this process's part of an evaluation; all processes call it.

        Raises:
            EvaluationAbortedError: in all processes, if one of them was asked to stop meanwhile.
        """
        with contextlib.suppress(EvaluationAbortedError):
            result = work()
        if self._stopping():
            raise EvaluationAbortedError
        return result

    # ---- saving and resuming

    def _write_adapter(self, directory: Path, metrics: dict[str, float]) -> None:
        from importlib.metadata import version

        from bases.adapter import AdapterMeta, write_adapter_files

        meta = AdapterMeta(
            base_fingerprint=self.base_fingerprint,
            pre_model=str(self.config.pre_model),
            max_source_seq_len=self.config.max_source_seq_len,
            max_target_seq_len=self.config.max_target_seq_len,
            metrics={"step": self.state.global_step, **metrics},
            versions={name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")},
        )
        model = self.accelerator.unwrap_model(self.model)
        write_adapter_files(model, directory, meta, self.config.to_dict(), self.schema.to_dict())

    def save_checkpoint(self) -> bool:
        """Save all that an interrupted run needs to go on; return whether that worked."""
        from accelerate.utils import broadcast_object_list

        from bases.fsdp import whole_weights
        from training import state as run_state

        content = run_state.collect(self.accelerator, self.optimizer, self.state, self.run)
        with whole_weights(self.model):
            saved = self.is_main and self.files.save_checkpoint(self.state.global_step, content)
        (saved,) = broadcast_object_list([saved])
        return saved

    def resume(self, directory: Path) -> None:
        """Put model, optimiser, scaler, random generators and counters where a checkpoint left them.

        A checkpoint of another directory brings the best adapter from there along.

        Raises:
            UserError: the checkpoint is damaged, or was made with other data, model or settings.
        """
        from accelerate.utils import broadcast_object_list

        from bases.adapter import load_adapter_weights
        from training import state as run_state

        content = run_state.read(directory, self.run)
        load_adapter_weights(self.accelerator.unwrap_model(self.model), directory)
        self.state = run_state.restore(self.accelerator, self.optimizer, content)
        best = self.files.adopt_best(directory.parent, self.state.best_step) if self.is_main else None
        (best,) = broadcast_object_list([best])
        if best is None or "dev_loss" not in best:
            self.state.best_score, self.state.best_step = [], 0
        elif best["step"] != self.state.best_step:  # newer checkpoints were moved away
            self.state.best_score, self.state.best_step = self._score(best), best["step"]
            if self.is_main:
                log(f"{self.save_dir / 'model_best'} 是第 {best['step']} 步的，比它更好才会替换。")
        if self.state.nonfinite_in_a_row >= self.config.max_nonfinite_steps:  # it had stopped for them
            self.state.nonfinite_in_a_row = 0
        if self.is_main:
            log(f"从 {directory} 继续：第 {self.state.epoch + 1} 轮，已完成 {self.state.global_step} 步。")

    # ---- the loop

    def train(self) -> int:
        """Train until the last step, a stop or the end of patience; return the exit code.

        Raises:
            UserError: losses or gradients were not finite for too many steps.
        """
        from training.log import MetricsLog
        from training.run_directory import clear_results
        from utils.directories import find_checkpoint

        config = self.config
        if config.resume_from_checkpoint is not None:
            self.resume(find_checkpoint(self.save_dir, config.resume_from_checkpoint))
        if config.overwrite_output_dir and self.is_main:
            clear_results(self.save_dir)
        directory = self.save_dir if self.is_main else None
        try:
            self.metrics = MetricsLog(directory, config.tensorboard, self.state.global_step)
        except OSError as error:
            raise UserError(f"写不了 {error.filename}（{error.strerror}），请检查权限。") from error
        if self.is_main:
            samples, per_step = len(self.train_data.dataset), config.batch_size * self.batches_per_window
            log(
                f"开始训练：{samples} 条样本，{config.epochs} 轮，共 {self.total_steps} 步，"
                f"每步 {per_step} 条，输出到 {self.save_dir}"
            )
        self.model.train()
        try:
            code = self._train_and_finish()
        finally:
            self.metrics.close()
        self.accelerator.end_training()  # not after an error: other processes would have to take part
        return code

    def _train_and_finish(self) -> int:
        """Run the loop, then what follows its end or its stop; return the exit code."""
        config = self.config
        try:
            with self.progress, contextlib.suppress(EvaluationAbortedError):  # `_stopping` tells of it
                self._run_loop_safely()
            if self._stopping():
                return self._save_and_leave()
            if self.state.nonfinite_in_a_row >= config.max_nonfinite_steps:
                saved = self.save_checkpoint()
                where = f"状态保存在 checkpoint-{self.state.global_step}" if saved else "这一步没有保存成功"
                raise UserError(
                    f"连续 {self.state.nonfinite_in_a_row} 步的损失或梯度不是有限数，已停止，{where}；"
                    "请调低 --learning_rate 后继续，或在支持的显卡上改用 --fp16 false --bf16 true。"
                )
            self.save_checkpoint()
            return self._finish()
        except EvaluationAbortedError:  # in the last evaluation, after everything is saved
            if self.is_main:
                log(f"训练已完成，最后的评估没有做完。要做完它请运行：\n  {resume_command()}")
            return self._stop_code()

    def _run_loop_safely(self) -> None:
        """Run the loop; should it fail (out of memory, a killed data worker), save what is done first."""
        try:
            self._run_loop()
        except Exception:
            if self.accelerator.num_processes == 1 and self.state.global_step:
                self.save_checkpoint()
            raise

    def _run_loop(self) -> None:
        """Step, log, evaluate, save; returns when `_finished`."""
        from training.log import Meter
        from utils.memory import read_memory

        config, state, meter = self.config, self.state, Meter(self.total_steps)
        self.progress.start(state.global_step)
        if state.evaluation_due or (state.global_step >= self.total_steps and not state.best_score):
            self.evaluate()  # given up by an earlier run, or what it found is not here
        while not self._finished():
            if state.windows_done >= self.windows_per_epoch:
                state.epoch, state.windows_done = state.epoch + 1, 0
            meter.start_clock()
            for window in self._epoch():
                meter.add(self.train_window(window))
                speed, memory = meter.tokens_per_second(), read_memory(self.accelerator.device).brief()
                self.progress.advance(f"{describe_steps(self._means())} | {speed:.0f} token/s | {memory}")
                if state.global_step % config.logging_steps == 0:
                    self._log(meter)
                ended = state.windows_done >= self.windows_per_epoch or state.global_step >= self.total_steps
                if ended or (config.eval_steps and state.global_step % config.eval_steps == 0):
                    self.evaluate()
                if config.save_freq and state.global_step % config.save_freq == 0:
                    self.save_checkpoint()
                meter.start_clock()
                if self._finished():
                    break

    def _epoch(self) -> Iterator[list[list[Features]]]:
        """Yield the windows of this epoch that are still to be done."""
        self.sampler.start_epoch(self.state.epoch, self.state.windows_done * self.batches_per_window)
        return windows(self.loader, self.config.gradient_accumulation_steps)

    def _finished(self) -> bool:
        state, config = self.state, self.config
        patience = config.early_stopping_patience
        return (
            state.global_step >= self.total_steps
            or bool(patience and state.evaluations_without_gain >= patience)
            or state.nonfinite_in_a_row >= config.max_nonfinite_steps
            or self._stopping()
        )

    def _stopping(self) -> bool:
        """Tell whether any process was asked to stop; all processes get the same answer."""
        import torch

        asked = torch.tensor(int(self.stop.signal is not None), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum"))

    def _means(self) -> dict[str, float]:
        """Return means over the steps since the last line of the log."""
        state, config = self.state, self.config
        steps, last_step = max(state.unlogged_steps, 1), max(state.global_step - 1, 0)
        return {
            "loss": state.unlogged_loss / steps,
            "grad_norm": state.unlogged_grad_norm / steps,
            "learning_rate": learning_rate_at(
                last_step, self.total_steps, config.learning_rate, config.warmup_ratio
            ),
        }

    def _log(self, meter: Meter) -> None:
        """Write the figures of the steps since the last line, memory included."""
        from utils.memory import read_memory

        state, memory, values = self.state, read_memory(self.accelerator.device), self._means()
        state.unlogged_steps, state.unlogged_loss, state.unlogged_grad_norm = 0, 0.0, 0.0
        if not self.is_main:
            return
        epoch, speed = state.epoch + state.windows_done / self.windows_per_epoch, meter.tokens_per_second()
        counts = {name: getattr(state, name) for name in ("tokens_seen", "nonfinite_steps", "scaler_skips")}
        memory_values = {
            f"memory_{name}": getattr(memory, name) for name in ("allocated", "reserved", "peak", "total")
        }
        record = values | {"epoch": epoch, "tokens_per_second": speed} | counts | memory_values
        self.metrics.write("train", state.global_step, record)
        self.progress.step_line(
            f"步 {state.global_step}/{self.total_steps} | 第 {epoch:.2f} 轮 | {describe_steps(values)} | "
            f"{speed:.0f} token/s | {memory.describe()} | 剩余 {meter.time_left(state.global_step)}"
        )
        meter.restart()

    def _save_and_leave(self) -> int:
        """Save a checkpoint after a stop and tell how to go on; return the exit code."""
        saved = self.save_checkpoint()
        if self.is_main:
            log(
                f"已保存第 {self.state.global_step} 步的检查点。"
                if saved
                else "这一步没有保存，只能从更早的检查点继续。"
            )
            log(f"继续训练请运行：\n  {resume_command()}")
        return self._stop_code()

    def _stop_code(self) -> int:
        """Return the exit code after a stop, of which a process may have heard from another one only."""
        return self.stop.exit_code if self.stop.signal is not None else 128 + signal.SIGTERM

    def _finish(self) -> int:
        """Evaluate the best adapter on all of dev, write the report, and say where things are."""
        from accelerate.utils import broadcast_object_list

        from bases.adapter import load_adapter_weights
        from bases.fsdp import whole_weights

        best = self.save_dir / "model_best"
        if not self.state.best_score:
            (reason,) = broadcast_object_list([self.files.unsaved.get("最佳模型")])
            if reason is not None:
                raise UserError(
                    f"最佳模型一次也没有保存成功（{reason}）；请腾出空间后运行：\n  {resume_command()}"
                )
            raise UserError(
                "没有一次评估得到有限的结果，因此没有最佳模型；请调低 --learning_rate 后重新训练。"
            )
        load_adapter_weights(self.accelerator.unwrap_model(self.model), best)
        self.model.eval()
        with whole_weights(self.model):
            dev_loss = self.dev_loss()
            evaluation = self._unless_stopped(lambda: self.extract_dev(limit=None) if self.is_main else None)
        if evaluation is not None:
            values = {"dev_loss": dev_loss, **triplet_scores(evaluation)}
            self.metrics.write("final", self.state.global_step, values)
            report = json.dumps({"dev_loss": dev_loss, **evaluation.to_dict()}, ensure_ascii=False, indent=2)
            reported = self.files.save_report(report + "\n")
            log(f"最佳适配器（第 {self.state.best_step} 步）在全部验证集上：{describe_scores(values)}")
            log(evaluation.report.to_table())
            log(f"适配器：{best}" + (f"；评估报告：{self.save_dir / 'eval_report.json'}" if reported else ""))
        self.accelerator.wait_for_everyone()
        if self.files.unsaved:
            what = "、".join(f"{name}（{reason}）" for name, reason in self.files.unsaved.items())
            log(f"错误：训练完成，但最后一次保存失败：{what}；{self.save_dir} 里是此前保存成功的版本。")
            return 1
        return 0


def describe_steps(values: dict[str, float]) -> str:
    """Return the figures of training steps as one short phrase."""
    return f"loss {values['loss']:.4f} | lr {values['learning_rate']:.2e} | 梯度 {values['grad_norm']:.2f}"


def triplet_scores(evaluation: Evaluation) -> dict[str, float]:
    """Return the strict precision, recall and F1 of an evaluation, and its rate of invalid answers."""
    report = evaluation.report
    strict = report.overall.strict
    return {
        "triplet_precision": strict.precision,
        "triplet_recall": strict.recall,
        "triplet_f1": strict.f1,
        "invalid_answers": report.invalid / max(report.sentences, 1),
    }


def describe_scores(values: dict[str, float]) -> str:
    """Return scores as one short Chinese phrase."""
    parts = [f"dev loss {values['dev_loss']:.4f}"]
    if "triplet_f1" in values:
        names = ("triplet_precision", "triplet_recall", "triplet_f1")
        parts.append("三元组 P/R/F1 " + " / ".join(f"{values[name]:.4f}" for name in names))
        parts.append(f"无效回答 {values['invalid_answers']:.1%}")
    return " | ".join(parts)


def resume_command() -> str:
    """Return the command that continues this run: the present one, but for what says how to start.

    A launcher of several processes does not pass its own words on; what stands for them is for the user to
    put in.
    """
    kept: list[str] = []
    dropping = False
    for word in sys.argv:
        if word.startswith("--"):
            dropping = word.startswith(("--overwrite_output_dir", "--resume_from_checkpoint"))
        if not dropping:
            kept.append(word)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    launcher = "accelerate launch（同样的选项） " if several else "python "
    overwrite = ["--overwrite_output_dir", "false"] if ProjectConfig().overwrite_output_dir else []
    return launcher + shlex.join([*kept, *overwrite, "--resume_from_checkpoint", "auto"])


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, check, train; return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    config = apply_overrides(ProjectConfig(), arguments, "用 QLoRA 微调 ChatGLM-6B 做三元组抽取。")
    quiet_libraries()
    limit_primitive_cache()
    import torch

    from bases.chatglm import CheckpointError
    from training.run_lock import lock_directory
    from utils.directories import recover_directories

    save_dir = Path(config.save_dir)
    is_main = os.environ.get("RANK", "0") == "0"  # set by torchrun and accelerate launch
    try:
        try:
            if is_main and save_dir.is_dir():
                with lock_directory(save_dir):
                    recover_directories(save_dir)
            check_before_loading(config)
        except OSError as error:
            raise UserError(
                f"路径 {error.filename} 不能用（{error.strerror}），请检查拼写和权限。"
            ) from error
        with lock_directory(save_dir) if is_main else contextlib.nullcontext():
            return Trainer(config).train()
    except CheckpointError as error:
        raise UserError(str(error)) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(OUT_OF_MEMORY_ADVICE) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # on the CPU
            raise UserError(OUT_OF_MEMORY_ADVICE) from error
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            "数据加载的工作进程被系统终止了（多半是内存不足）；请加上 --dataloader_num_workers 0，"
            "有检查点时再加 --resume_from_checkpoint auto 接着训练。"
        ) from error


if __name__ == "__main__":
    run_main(main)
