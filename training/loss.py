"""Losses counted by target token, so that a mean does not depend on how tokens are split into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator


def target_count(batch: dict[str, torch.Tensor]) -> int:
    """Return how many tokens of a batch carry a label that the model predicts (the first one can't)."""
    return int((batch["labels"][:, 1:] != -100).sum())


def loss_sums(
    accelerator: Accelerator,
    model: Any,
    batches: Iterable[dict[str, torch.Tensor]],
    before_batch: Callable[[], None],
) -> torch.Tensor:
    """Sum the losses of this process's batches.

    Args:
        accelerator: for device and precision.
        model: as `accelerator.prepare` returned it; used without its wrapper, there being no gradient.
        batches: this process's share; processes may have different numbers of them, or none.
        before_batch: called before each batch; may raise to give up.

    Returns:
        [2] float64: the sum over target tokens, and their number.
    """
    import torch

    model, loss_sum, total = accelerator.unwrap_model(model), 0.0, 0
    for batch in batches:
        before_batch()
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        with torch.no_grad(), accelerator.autocast():
            loss = model(**batch, use_cache=False).loss
        count = target_count(batch)
        loss_sum, total = loss_sum + float(loss) * count, total + count
    return torch.tensor([loss_sum, total], dtype=torch.float64, device=accelerator.device)
