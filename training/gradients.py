"""Gradients of an optimiser step, in as few forward and backward passes as memory allows; and the step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from peft.helpers import disable_input_dtype_casting

from bases.fsdp import is_fsdp
from bases.lora_product import own_dropout
from data_handle.data_preprocess import Features
from data_handle.packing import MicroBatch, pack, plan_micro_batches
from training.lanes import Lanes
from training.state import StepOutcome


class Gradients:
    """Accumulates the gradients of samples.

    Args:
        accelerator: for device, precision and processes.
        model: as `accelerator.prepare` returned it.
        tokens_per_pass: the most tokens, padding included, of a forward pass.
        say: tells the user of what goes wrong and is mended.
        lanes: in which passes run side by side, if there are several and memory has room for all of a step.

    Attributes:
        tokens_per_pass: as given; less after running out of memory.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: Any,
        tokens_per_pass: int,
        say: Callable[[str], None],
        lanes: Lanes | None = None,
    ) -> None:
        self.tokens_per_pass = tokens_per_pass
        self._accelerator = accelerator
        self._model = model
        self._config = accelerator.unwrap_model(model).config
        self._say = say
        self._lanes = lanes or Lanes(1)
        self._is_fsdp = is_fsdp(model)

    def accumulate(self, samples: Sequence[Features]) -> tuple[float, int]:
        """Run forward and backward over the samples of an optimiser step.

        The gradient is the mean over all target tokens of the step, over all processes: each pass's mean
        loss counts by its share of them, so the split into passes does not matter.

        Args:
            samples: this process's share.

        Returns:
            the mean loss, and the tokens (context and answer), both of all processes.
        """
        accelerator = self._accelerator
        own = [sum(sample.num_targets for sample in samples), sum(len(each.input_ids) for each in samples)]
        totals = accelerator.reduce(torch.tensor(own, device=accelerator.device), "sum")
        target_tokens, tokens = totals.tolist()
        loss = self._run_as_memory_allows(samples, target_tokens)
        if accelerator.num_processes > 1 and not self._is_fsdp:
            self._sum_over_processes()
        return float(accelerator.reduce(loss, "sum")), tokens

    def _run_as_memory_allows(self, samples: Sequence[Features], target_tokens: int) -> torch.Tensor:
        """Run the passes; out of memory, halve them (for the rest of the run) and begin the samples again.

        Other processes wait meanwhile. (Under FSDP they are in the midst of the same pass, so there it is an
        error.)

        Returns:
            this process's share of the step's mean loss, a scalar.
        """
        accelerator, hidden_size = self._accelerator, self._config.hidden_size
        lengths = [len(sample.input_ids) for sample in samples]
        if self._lanes.count > 1:
            micro_batches = plan_micro_batches(lengths, self.tokens_per_pass, hidden_size, self._lanes.count)
            if sum(each.tokens for each in micro_batches) <= self.tokens_per_pass:
                return self._run_side_by_side(samples, micro_batches, target_tokens)
        micro_batches = plan_micro_batches(lengths, self.tokens_per_pass, hidden_size)
        if self._is_fsdp:  # all processes have to take part in every pass
            counts = accelerator.gather(torch.tensor([len(micro_batches)], device=accelerator.device))
            micro_batches = plan_micro_batches(lengths, self.tokens_per_pass, hidden_size, int(counts.max()))
        while True:
            largest = max(each.tokens for each in micro_batches)
            # Autocast casts for LoRA's products; PEFT would make an fp32 copy of each input first.
            no_fp32_copy = disable_input_dtype_casting(
                self._model, active=accelerator.mixed_precision != "no"
            )
            try:
                with no_fp32_copy:  # backward too: there checkpointed layers are computed again
                    return self._run(samples, micro_batches, target_tokens)
            except torch.OutOfMemoryError:
                micro_batches = plan_micro_batches(lengths, largest // 2, hidden_size)
                if self._is_fsdp or max(each.tokens for each in micro_batches) >= largest:
                    raise
            self._model.zero_grad(set_to_none=True)
            if accelerator.device.type == "cuda":
                torch.cuda.empty_cache()
            self.tokens_per_pass = largest // 2
            where = f"进程 {accelerator.process_index} " if accelerator.num_processes > 1 else ""
            self._say(
                f"{where}显存不足：每次前向由至多 {largest} 个 token 减为 {self.tokens_per_pass} 个，"
                "重做这一步，什么也没有丢。"
            )

    def _run(
        self, samples: Sequence[Features], micro_batches: Sequence[MicroBatch], target_tokens: int
    ) -> torch.Tensor:
        """Run forward and backward over each micro-batch; return this process's share of the mean loss."""
        accelerator = self._accelerator
        loss = torch.zeros((), device=accelerator.device)
        for micro_step, micro_batch in enumerate(micro_batches, start=1):
            batch, share = self._pack(samples, micro_batch, target_tokens)
            synchronised = self._is_fsdp and micro_step == len(micro_batches)
            with contextlib.nullcontext() if synchronised else accelerator.no_sync(self._model):
                with accelerator.autocast():
                    part = self._model(**batch).loss * share
                # FSDP averages the gradients of the processes, where their sum is wanted.
                accelerator.backward(part * (accelerator.num_processes if self._is_fsdp else 1))
            loss += part.detach()
        return loss

    def _pack(
        self, samples: Sequence[Features], micro_batch: MicroBatch, target_tokens: int
    ) -> tuple[dict[str, torch.Tensor], float]:
        """Return the model's inputs for a micro-batch, and its share of the step's target tokens."""
        rows = [[samples[index] for index in row] for row in micro_batch.rows]
        batch = pack(rows, micro_batch.row_length, self._config, self._accelerator.device)
        count = sum(sample.num_targets for row in rows for sample in row)
        return batch, count / max(target_tokens, 1)

    def _run_side_by_side(
        self, samples: Sequence[Features], micro_batches: Sequence[MicroBatch], target_tokens: int
    ) -> torch.Tensor:
        """Run the passes in lanes; return the mean loss. Gradients are added in the passes' order, and what
        a pass drops depends on a seed drawn for it here."""
        accelerator = self._accelerator
        parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]

        def run(item: tuple[dict[str, torch.Tensor], float, int]) -> tuple[torch.Tensor, ...]:
            batch, share, seed = item
            with accelerator.autocast(), own_dropout(seed):
                part = self._model(**batch).loss * share
            return part.detach(), *torch.autograd.grad(part, parameters)

        seeds = torch.randint(2**62, (len(micro_batches),)).tolist()
        items = [
            (*self._pack(samples, each, target_tokens), seed)
            for each, seed in zip(micro_batches, seeds, strict=True)
        ]
        with disable_input_dtype_casting(self._model, active=accelerator.mixed_precision != "no"):
            results = self._lanes.run(run, items)
        loss, *gradients = (torch.stack(parts).sum(0) for parts in zip(*results, strict=True))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss

    def _sum_over_processes(self) -> None:
        """Add up the gradients of all processes, once a step and by hand.

        DDP would do it within the last pass's backward, and what fails there can't be done again by one
        process alone. LoRA's gradients are so small that nothing is lost by not overlapping the two.
        """
        parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        own = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        total = self._accelerator.reduce(torch.cat([gradient.flatten() for gradient in own]), "sum")
        parts = total.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """Set the learning rate of every group of parameters."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def take_step(accelerator: Accelerator, optimizer: Any, loss: float, grad_norm: float) -> StepOutcome:
    """Apply the gradients and forget them, unless they or the loss are not finite.

    An fp16 overflow shows in the gradient only. The loss scaler must see every step: it skips one with such
    a gradient and lowers its scale.
    """
    scaler = accelerator.scaler
    finite = math.isfinite(loss) and (math.isfinite(grad_norm) or scaler is not None)
    if finite or scaler is not None:
        optimizer.step()
    skipped = finite and bool(optimizer.step_was_skipped)
    optimizer.zero_grad(set_to_none=True)
    if not finite:
        return StepOutcome.NOT_FINITE
    return StepOutcome.SKIPPED_BY_SCALER if skipped else StepOutcome.APPLIED
