"""A decoding pass over rows: their tokens one after the other, in few shapes, where the model is.

Dimensions: B rows, S tokens of the longest, T tokens of all (and padding), K tokens that a query may see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from bases import family_of
from extraction.decoding.row import Row
from extraction.decoding.row_cache import RowCache

# On CUDA each new shape costs a search for kernels, and attention copies a mask whose rows aren't aligned.
KEY_MULTIPLE = 64


class Pass(NamedTuple):
    """The inputs of the model, and how many rows of its logits count."""

    inputs: dict[str, torch.Tensor]
    logits: int


def bucket(tokens: int) -> int:
    """Round up to one of few sizes, less than a quarter larger (a multiple of 8)."""
    step = max(8, 1 << max(tokens.bit_length() - 3, 0))
    return -(-tokens // step) * step


def lay_out(
    rows: Sequence[Row], first: int, cache: RowCache, config: object, device: torch.device | str
) -> Pass:
    """Put together a pass over rows, and tell the cache.

    Args:
        rows: with their pending tokens and drafts; they stand together in the cache.
        first: the place of the first of them there.
        cache: of all rows.
        config: of the model.
        device: where the model lives.

    Returns:
        The pass; its logits are those after each row's last pending token and after each token of its draft.
    """
    family = family_of(config)
    rounded = torch.device(device).type == "cuda"
    ids = [row.pending + row.draft for row in rows]
    counts = torch.tensor([len(each) for each in ids])
    width = int(counts.max())
    column = torch.arange(width)
    is_token = column < counts[:, None]  # [B, S]
    lengths = torch.tensor([row.length for row in rows])
    end = int((lengths + width).max())
    slots = lengths[:, None] + column  # [B, S]
    prompts = torch.tensor([row.prompt_length for row in rows])
    pending = torch.tensor([len(row.pending) for row in rows])
    kept = is_token & (column >= pending[:, None] - 1)
    # A single row has no padding; only on a card its length is worth rounding up.
    flat = family.takes_flat_passes and (rounded or len(rows) > 1)
    if flat:
        slots, prompts = slots.to(device), prompts.to(device)
    inputs = dict(family.next_inputs(ids, slots, prompts, config))
    if rounded:
        inputs["attention_mask"] = F.pad(inputs["attention_mask"], (0, -end % KEY_MULTIPLE))
        end += -end % KEY_MULTIPLE
    if not flat:
        cache.prepare(first, slots.to(device), end)
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        return Pass({**inputs, "logits_to_keep": kept.to(device)}, int(kept.sum()))
    places = is_token.flatten().nonzero()[:, 0]  # [T] of [B * S]
    answers = kept.flatten()[places].nonzero()[:, 0]  # of the T tokens
    count = len(answers)
    tokens = torch.tensor([token for each in ids for token in each])
    if rounded:
        more = bucket(len(tokens)) - len(tokens)
        tokens, padded = F.pad(tokens, (0, more)), F.pad(places, (0, more))
        answers = F.pad(answers, (0, bucket(count) - count))
    else:
        padded = places
    padded = padded.to(device)
    positions = inputs["position_ids"].movedim(-1, 1).flatten(0, 1)[padded]  # [T, ...]
    cache.prepare(first, slots, end, len(tokens), places.to(device), padded)
    return Pass(
        {
            "input_ids": tokens[None].to(device),
            "position_ids": positions.movedim(0, -1)[None],
            "attention_mask": inputs["attention_mask"],
            "logits_to_keep": answers.to(device),
        },
        count,
    )
