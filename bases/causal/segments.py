"""Attention of samples that stand one behind the other in a row, each to itself.

With a mask of the whole row, attention computes what no sample sees of another, and throws it away: on a CPU
a seventh of the time in the layers of Gemma 3 270M, with eight samples a pass. So there each sample has a
kernel call of its own. (A card would wait for so many small calls.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "product_segments"


def is_lengths(attention_mask: torch.Tensor) -> bool:
    """Tell whether what stands in place of a mask is the samples' lengths, [1, 1, 1, N] int64."""
    return attention_mask.dtype == torch.int64 and attention_mask.dim() == 4


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers does with "sdpa", whose arguments these are, or sample by sample."""
    if attention_mask is None or not is_lengths(attention_mask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    lengths = attention_mask.flatten().tolist()
    samples = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    options = kwargs | {"is_causal": True}
    return torch.cat([sdpa_attention_forward(module, *each, None, **options)[0] for each in samples], 1), None


def register() -> str:
    """Make it known to transformers; return the name to choose it by."""
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
