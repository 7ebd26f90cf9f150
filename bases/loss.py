"""Cross-entropy of a language-model head without its logits: a chunk of rows at a time, gradient included.

Dimensions in comments: T labelled positions, C rows of a chunk, H hidden size, V vocabulary.

At 130,528 words the logits of one sentence, in fp32 and with their gradient, outweigh everything else in a
training step. Here a chunk of them lives at a time: its loss is taken, its logits become their own gradient
in place (softmax minus one-hot, some rows at a time), and that is multiplied back onto the hidden states at
once. The idea is that of Liger Kernel's fused linear cross-entropy (Hsu et al. 2024) and of Cut Cross-Entropy
(Wijmans et al. 2024), here in plain PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch

from bases.interface import IGNORE_INDEX, chunk_rows, softmax_rows


def next_token_loss(
    hidden_states: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """Return the mean cross-entropy of the labels, each predicted from the hidden state before it.

    Args:
        hidden_states: [B, S, H].
        weight: [V, H] of the head; gets a gradient only if it requires one.
        labels: [B, S] int64, `IGNORE_INDEX` where nothing is learnt.
        label_smoothing: as `linear_cross_entropy` takes it.

    Returns:
        fp32 scalar, 0 if there is no label.
    """
    labelled = labels[:, 1:] != IGNORE_INDEX  # [B, S - 1]
    targets = labels[:, 1:][labelled]  # [T]
    total = linear_cross_entropy(hidden_states[:, :-1][labelled], weight, targets, label_smoothing)
    return total / max(len(targets), 1)


def linear_cross_entropy(
    hidden_states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the sum of -log softmax(hidden_states @ weight.T)[target] over all rows.

    Products run in the autocast dtype if autocast is on, else in that of `hidden_states`; softmax and sum in
    fp32.

    Args:
        hidden_states: [T, H].
        weight: [V, H]; gets a gradient only if it requires one.
        targets: [T] int64, each within the vocabulary.
        label_smoothing: share of a target that is spread evenly over the vocabulary (Szegedy et al. 2016).

    Returns:
        fp32 scalar, 0 for T = 0.
    """
    return _LinearCrossEntropy.apply(hidden_states, weight, targets, label_smoothing)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        label_smoothing: float,
    ) -> torch.Tensor:
        device = hidden_states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        matrix = weight.to(dtype)  # [V, H]
        loss = torch.zeros((), dtype=torch.float32, device=hidden_states.device)
        hidden_grad = torch.empty_like(hidden_states) if needs_hidden else None  # [T, H]
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None  # [V, H]
        rows = chunk_rows(weight.shape[0])
        even = label_smoothing / weight.shape[0]  # what each word of the vocabulary gets of a target
        block_rows = softmax_rows(weight.shape[0], on_cuda=device == "cuda")
        with torch.autocast(device, enabled=False):
            for start in range(0, len(targets), rows):
                chunk = hidden_states[start : start + rows].to(dtype)  # [C, H]
                target = targets[start : start + rows, None]  # [C, 1]
                logits = chunk @ matrix.T  # [C, V]
                for block, wanted in zip(logits.split(block_rows), target.split(block_rows), strict=True):
                    log_p = block.log_softmax(-1, dtype=torch.float32)
                    own = log_p.gather(-1, wanted)
                    loss.sub_(own.sum(), alpha=1 - label_smoothing)
                    if even:
                        loss.sub_(log_p.sum(), alpha=even)
                    if needs_hidden or needs_weight:
                        minus_target = torch.full_like(own, label_smoothing - 1)
                        gradient = log_p.exp_().scatter_add_(-1, wanted, minus_target)
                        block.copy_(gradient.sub_(even) if even else gradient)
                if hidden_grad is not None:
                    hidden_grad[start : start + rows] = logits @ matrix
                if weight_grad is not None:
                    weight_grad += logits.T @ chunk
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        if hidden_grad is not None:
            hidden_grad = (hidden_grad * grad_output).to(hidden_grad.dtype)
        if weight_grad is not None:
            weight_grad = (weight_grad * grad_output).to(ctx.weight_dtype)
        return hidden_grad, weight_grad, None, None
