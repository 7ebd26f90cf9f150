"""Where the host would wait for a card: shown without one, by tensors that have no content to wait for."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bases.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, modeling
from extraction.decoding import passes, transfer
from extraction.decoding.row_cache import RowCache

CARD = torch.device("meta")


class Copies(TorchDispatchMode):
    """Notes copies from host to card, or back, that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []
        self.sent = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is torch.ops.aten._to_copy.default and args[0].device.type != result.device.type:
            self.sent += 1
            if not kwargs.get("non_blocking"):
                self.waited.append(str(func))
        return result


class Asking:
    """A row in the midst of its answer."""

    def __init__(self, pending: int, draft: int, length: int) -> None:
        self.pending, self.draft, self.length = [7] * pending, [8] * draft, length
        self.prompt_length = 4


@torch.no_grad()
def test_a_pass_is_asked_for_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants to know what a tensor of the meta device holds fails."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(modeling, "_attention_dtype", lambda states: states.dtype)  # meta has no autocast
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    for module in (passes, transfer):
        monkeypatch.setattr(module, "is_card", lambda device: torch.device(device) == CARD)
    config = ChatGLMConfig(
        vocab_size=64, hidden_size=32, inner_hidden_size=64, num_layers=2, num_attention_heads=2,
        bos_token_id=60, eos_token_id=61, pad_token_id=3, mask_token_id=58, gmask_token_id=59,
    )  # fmt: skip
    with CARD:
        model = ChatGLMForConditionalGeneration(config).eval()
    cache = RowCache()
    with Copies() as copies:
        begun = [Asking(1, 3, 5), Asking(4, 0, 9)]
        for rows in ([Asking(5, 0, 0), Asking(9, 0, 0)], begun, begun[:1]):
            inputs, count = passes.lay_out(rows, 0, cache, config, CARD)
            logits = model(**inputs, cache=cache).logits.flatten(0, -2)[:count]
            assert logits.device == CARD and len(logits) == count
            assert torch.where(logits.amax(-1).isfinite(), logits.argmax(-1), -1).shape == (count,)
        cache.move([1], [0])
    assert copies.waited == []
    assert copies.sent == 4  # one for each pass, and for the move
