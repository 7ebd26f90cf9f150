"""A decoding pass over rows: their tokens one after the other, in few shapes, where the model is.

Dimensions: B rows, S tokens of the longest, T tokens of all (and padding), K tokens that a query may see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from bases import family_of
from extraction.decoding.row import Row
from extraction.decoding.row_cache import RowCache
from extraction.decoding.transfer import is_card, send

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

    All that depends on the rows' tokens is made here on the host and travels together.

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
    on_card = is_card(device)
    host = _on_host(rows)
    width = int(host.counts.max())
    # A single row has no padding; only on a card its length is worth rounding up.
    flat = family.takes_flat_passes and (on_card or len(rows) > 1)
    end = int((host.lengths + (host.counts if flat else width)).max())
    end += -end % KEY_MULTIPLE if on_card else 0
    places = np.repeat(np.arange(len(rows)) * width, host.counts) + host.columns  # [T] of [B * S]
    answers = np.flatnonzero(host.is_kept)
    count = len(answers)
    tokens = host.tokens
    if not flat:
        answers = places[answers]
        tokens = np.zeros(len(rows) * width, dtype=np.int64)  # what padding says is seen by nobody
        tokens[places] = host.tokens
    elif on_card:
        more = bucket(len(tokens)) - len(tokens)
        tokens, places = np.pad(tokens, (0, more)), np.pad(places, (0, more))
        answers = np.pad(answers, (0, bucket(count) - count))
    parts = [tokens, places, answers, host.lengths, host.prompts]
    packed = torch.from_numpy(np.concatenate(parts).astype(np.int64, copy=False))
    sent = send(packed, device).split([len(part) for part in parts])
    ids, padded, kept, lengths, prompts = sent
    slots = lengths[:, None] + torch.arange(width, device=device)  # [B, S]
    inputs = dict(family.next_inputs(slots, prompts, end, config))
    if not flat:
        cache.prepare(first, slots, end)
        if not on_card:  # a mask, as a model may want it
            kept = torch.zeros(slots.numel(), dtype=torch.bool).index_fill_(0, kept, True).view_as(slots)
        return Pass({"input_ids": ids.view_as(slots), **inputs, "logits_to_keep": kept}, count)
    positions = inputs["position_ids"].movedim(-1, 1).flatten(0, 1)[padded]  # [T, ...]
    cache.prepare(first, slots, end, len(tokens), padded[: len(host.tokens)], padded)
    return Pass(
        {
            "input_ids": ids[None],
            "position_ids": positions.movedim(0, -1)[None],
            "attention_mask": inputs["attention_mask"],
            "logits_to_keep": kept,
        },
        count,
    )


class _Host(NamedTuple):
    """What the rows say: `counts`, `lengths` (in the cache) and `prompts`, [B]; of each token [T] its id, its
    column in its row, and whether what follows it is asked for."""

    counts: np.ndarray
    lengths: np.ndarray
    prompts: np.ndarray
    tokens: np.ndarray
    columns: np.ndarray
    is_kept: np.ndarray


def _on_host(rows: Sequence[Row]) -> _Host:
    pending = np.array([len(row.pending) for row in rows])
    counts = pending + [len(row.draft) for row in rows]
    ids = [token for row in rows for part in (row.pending, row.draft) for token in part]
    starts = np.cumsum(counts) - counts
    columns = np.arange(len(ids)) - np.repeat(starts, counts)
    return _Host(
        counts,
        np.array([row.length for row in rows]),
        np.array([row.prompt_length for row in rows]),
        np.array(ids),
        columns,
        columns >= np.repeat(pending - 1, counts),
    )
