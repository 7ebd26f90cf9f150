"""Kernels of a card, loaded while the weights are read: the first call of each costs tens of milliseconds."""

from __future__ import annotations

import threading

import torch
import torch.nn.functional as F

from bases.interface import ModelShape
from extraction.decoding.passes import KEY_MULTIPLE, bucket

TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # of passes whose kernels are tried


def warm_up_kernels(shape: ModelShape, dtype: torch.dtype, device: torch.device) -> threading.Thread:
    """Compute what a decoding pass is made of with empty tensors, in a thread, smallest pass first.

    Args:
        shape: of the model.
        dtype: of its products.
        device: a card.

    Returns:
        The thread; nobody has to wait for it, and if it fails (no memory, say), nothing is lost.
    """
    thread = threading.Thread(target=_run, args=(shape, dtype, device), daemon=True)
    thread.start()
    return thread


def _run(shape: ModelShape, dtype: torch.dtype, device: torch.device) -> None:
    try:
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream(device)):
            for tokens in TOKENS:
                _compute(shape, bucket(tokens), dtype, device)
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()  # what a stream of its own has taken serves no other
    except RuntimeError:  # out of memory is one, too
        return


def _compute(shape: ModelShape, tokens: int, dtype: torch.dtype, device: torch.device) -> None:
    """Run the products and the attention of a pass once."""
    for inputs, outputs in {*shape.linear_shapes.values()}:
        weight = torch.empty(outputs, inputs, dtype=dtype, device=device)
        F.linear(torch.empty(tokens, inputs, dtype=dtype, device=device), weight, weight[:, 0].contiguous())
    width = 128  # of a head
    heads, rows = max(1, shape.hidden_size // width), max(1, tokens // 16)
    states = torch.empty(rows, heads, KEY_MULTIPLE, width, dtype=dtype, device=device)
    mask = torch.zeros(rows, 1, 16, KEY_MULTIPLE, dtype=dtype, device=device)
    F.scaled_dot_product_attention(states[:, :, :16], states, states, attn_mask=mask)
