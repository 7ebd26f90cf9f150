"""GLM's prefix mask and 2-D positions: of whole sequences, of several in one row, of tokens that come later.

Dimensions in comments:
    B rows, S query length, K key length

A sample is a context, which ends with a blank ([gMASK] at its end, or [MASK] within it), and what fills the
blank, from `<sop>` on. Two rules say all about it; everything below applies them:

- mask: the context is seen by every token of the sample, what follows by later tokens only;
- positions: channel 0 counts the context's tokens and stays at the blank from `<sop>` on; channel 1 is 0 in
  the context and counts 1, 2, … from `<sop>` on.

Sources: GLM (Du et al. 2022, section 2.3: 2-D positions) and the published `modeling_chatglm.py` of
THUDM/chatglm-6b, `get_masks` and `get_position_ids`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from bases.interface import IGNORE_INDEX, Sample


class SpecialIds(Protocol):
    """What of a `ChatGLMConfig` says where a sample's parts begin."""

    pad_token_id: int
    bos_token_id: int
    gmask_token_id: int
    mask_token_id: int


def is_visible(query: torch.Tensor, key: torch.Tensor, context_length: torch.Tensor) -> torch.Tensor:
    """Tell which keys a query sees, all given by their index in one sample (broadcast; bool)."""
    return (key <= query) | (key < context_length)


def positions_of(index: torch.Tensor, context_length: torch.Tensor, blank: torch.Tensor) -> torch.Tensor:
    """Return the positions, [B, 2, S] int64, of tokens at `index` [B, S] of their samples.

    Args:
        index: from 0; padding before a sample has negative ones, and gets position 0 in both channels.
        context_length: tokens of the context, that is, the index of `<sop>`; [B, 1] or [B, S].
        blank: index of the mask token; as `context_length`.
    """
    position = torch.where(index < context_length, index, blank)
    block_position = index - context_length + 1
    return torch.stack([position, block_position], dim=1).clamp(min=0)


# ---- whole sequences, padded on the left


def find_structure(
    input_ids: torch.Tensor, config: SpecialIds, attention_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find where a whole sequence begins, where its context ends, and which blank it fills.

    Args:
        input_ids: [B, K] int64, the sequences from their first token on.
        config: for the special ids.
        attention_mask: [B, K], 0 on left padding; None means no padding.

    Returns:
        (num_padding, context_length, blank), each [B, 1] int64: the tokens of left padding; the tokens before
        the first `<sop>`; the index of the first `[gMASK]`, or of the first `[MASK]` if there is none. The
        last two do not count the padding.

    Raises:
        ValueError: a sequence without `<sop>` or without a mask token, or padded on the right.
    """
    if attention_mask is None:
        num_padding = input_ids.new_zeros(input_ids.shape[0], 1)
    else:
        if (attention_mask[:, -1] == 0).any():
            raise ValueError('attention_mask 的补齐必须在左侧（padding_side="left"）。')
        num_padding = (attention_mask[:, : input_ids.shape[1]] == 0).sum(-1, keepdim=True)
    is_sop = input_ids.eq(config.bos_token_id)
    is_gmask = input_ids.eq(config.gmask_token_id)
    is_mask = torch.where(is_gmask.any(-1, keepdim=True), is_gmask, input_ids.eq(config.mask_token_id))
    if not (is_sop.any(-1) & is_mask.any(-1)).all():
        raise ValueError("每个输入序列都必须含有 [gMASK]（或 [MASK]）和 <sop>，否则无法确定前缀和位置编码。")
    context_length, blank = (found.int().argmax(-1, keepdim=True) for found in (is_sop, is_mask))
    return num_padding, context_length - num_padding, blank - num_padding


def get_position_ids(
    input_ids: torch.Tensor, config: SpecialIds, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the positions, [B, 2, K] int64, of whole sequences [B, K]; padding has 0 in both channels."""
    num_padding, context_length, blank = find_structure(input_ids, config, attention_mask)
    index = torch.arange(input_ids.shape[1], device=input_ids.device) - num_padding  # [B, K]
    return positions_of(index, context_length, blank)


def get_prefix_lm_mask(
    input_ids: torch.Tensor, config: SpecialIds, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mask of whole sequences, [B, 1, K, K] bool: True where a query (dim 2) sees a key (dim 3).

    Padding is seen by nobody but itself (a row without any key would be undefined).
    """
    num_padding, context_length, _ = find_structure(input_ids, config, attention_mask)
    index = torch.arange(input_ids.shape[1], device=input_ids.device) - num_padding  # [B, K]
    visible = is_visible(index[:, :, None], index[:, None, :], context_length[:, :, None])
    return _but_padding(visible, index >= 0)


def _but_padding(visible: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
    """Hide padding, [B, K] False in `is_token`, in a mask [B, K, K] from all but itself; [B, 1, K, K]."""
    itself = torch.eye(is_token.shape[1], dtype=torch.bool, device=is_token.device)
    return (visible & is_token[:, None, :] | itself)[:, None]


# ---- several samples in one row


def pack(
    rows: Sequence[Sequence[Sample]],
    row_length: int,
    config: SpecialIds,
    device: torch.device | None = None,
) -> dict[str, torch.Tensor]:
    """Lay samples out in rows, with padding on the right; see `bases.interface.Family.pack`.

    Each sample gets what it would have got alone: its own positions from 0, and a mask that ends at its
    borders. So loss and gradient are those of the samples one by one.

    Args:
        rows: the samples of each row; each holds a mask token and `<sop>`, and begins with an unlabelled
            token (the label of a sample's first token would be predicted by the sample before).
        row_length: tokens of a row, no fewer than any row's samples have together.
        config: of the model, for the special ids.
        device: where the tensors shall live; the mask is made there, for it would be most of the way.

    Returns:
        `input_ids` and `labels` [B, S] int64; `position_ids` [B, 2, S] int64; `attention_mask`
        [B, 1, S, S] bool, True where a query (dim 2) sees a key (dim 3). Padding sees itself only.
    """
    shape = (len(rows), row_length)
    input_ids = torch.full(shape, config.pad_token_id)
    labels = torch.full(shape, IGNORE_INDEX)
    sample_number = torch.zeros(shape, dtype=torch.int64)  # from 1; 0 is padding
    index, blank = torch.zeros_like(input_ids), torch.zeros_like(input_ids)  # within the sample
    context_length = torch.ones_like(input_ids)
    for row, samples in enumerate(rows):
        start = 0
        for number, sample in enumerate(samples, start=1):
            ids = sample.input_ids
            mask_token = config.gmask_token_id if config.gmask_token_id in ids else config.mask_token_id
            place = slice(start, start + len(ids))
            input_ids[row, place] = torch.tensor(ids)
            labels[row, place] = torch.tensor(sample.labels)
            sample_number[row, place] = number
            index[row, place] = torch.arange(len(ids))
            context_length[row, place] = ids.index(config.bos_token_id)
            blank[row, place] = ids.index(mask_token)
            start += len(ids)
    if device is not None and device.type != "cpu":
        stacked = torch.stack([input_ids, labels, sample_number, index, context_length, blank])
        input_ids, labels, sample_number, index, context_length, blank = stacked.to(device).unbind()
    visible = is_visible(index[:, :, None], index[:, None, :], context_length[:, None, :])
    same = sample_number[:, :, None] == sample_number[:, None, :]
    return {
        "input_ids": input_ids,
        "labels": labels,
        "position_ids": positions_of(index, context_length, blank),
        "attention_mask": _but_padding(visible & same, sample_number > 0),
    }


# ---- tokens that come later


def next_inputs(slots: torch.Tensor, prompt_lengths: torch.Tensor, keys: int) -> dict[str, torch.Tensor]:
    """Lay out a decoding pass over rows of unequal length; see `bases.interface.Family.next_inputs`.

    Args:
        slots: [B, S] int64, the index of each token in its sequence; S is the length of the longest row, and
            what is behind a row's end is padding.
        prompt_lengths: [B] int64, tokens of each prompt, which ends with `[gMASK] <sop>`.
        keys: places that are attended to, K.

    Returns:
        `position_ids` [B, 2, S] int64; `attention_mask` [B, 1, S, K] bool.
    """
    context_length = prompt_lengths[:, None] - 1
    key = torch.arange(keys, device=slots.device)
    visible = is_visible(slots[..., None], key, context_length[..., None])  # [B, S, K]
    return {
        "position_ids": positions_of(slots, context_length, context_length - 1),
        "attention_mask": visible[:, None],
    }


def get_continued_mask(
    past_length: int, length: int, attention_mask: torch.Tensor | None, device: torch.device
) -> torch.Tensor | None:
    """Return the mask of `length` tokens behind `<sop>` that follow `past_length` cached ones.

    Args:
        past_length: cached tokens, padding included; `<sop>` is one of them.
        length: new tokens, S.
        attention_mask: [B, K] with K = past_length + S, 0 on left padding; None means no padding.
        device: where the mask shall live.

    Returns:
        [B or 1, 1, S, K] bool; None where every query sees every key.
    """
    if attention_mask is None and length == 1:
        return None
    key = torch.arange(past_length + length, device=device)
    # All cached tokens come before the new ones, so the causal half of the rule is the whole.
    visible = (key <= key[past_length:, None])[None, None]  # [1, 1, S, K]
    if attention_mask is None:
        return visible
    return visible & attention_mask[:, None, None, : past_length + length].bool()
