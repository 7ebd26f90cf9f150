"""The likeliest token that a grammar allows, for many rows at once, and how likely it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import numpy as np
import torch

from extraction.decoding.masks import packed_masks, unpack_masks
from extraction.decoding.row import Choice, Row
from extraction.decoding.transfer import Fetched, is_card, send
from extraction.decoding.vocabulary import Vocabulary


class Chooser:
    """Makes the choices where a grammar forbids the likeliest token, or its probability is wanted.

    On a card that is done beside the pass that may be under way, not behind it.

    Args:
        vocabulary: of the grammars.
        device: where the logits are.
    """

    def __init__(self, vocabulary: Vocabulary, device: torch.device | str) -> None:
        self.vocabulary = vocabulary
        self.device = torch.device(device)

    def choose(self, rows: Sequence[Row], logits: torch.Tensor, places: Sequence[int]) -> list[Choice]:
        """Return the likeliest token that each row's grammar allows.

        Args:
            rows: R of them.
            logits: [T, V], all computed.
            places: of the rows' own in [T].
        """
        bits = packed_masks(self.vocabulary, [row.matcher for row in rows])
        with self._aside():
            own = logits[send(torch.tensor(places), self.device)].float()  # [R, V]
            scores = own.masked_fill_(~self._unpack(bits), -math.inf)
            chosen = scores.argmax(-1)
            if not any(row.with_scores for row in rows):
                return [Choice(token, 0.0) for token in Fetched(chosen).wait()]
            found = Fetched(torch.stack([chosen.double(), self._log_probabilities(scores, chosen).double()]))
            tokens, log_probabilities = found.wait()
        return [Choice(int(token), value) for token, value in zip(tokens, log_probabilities, strict=True)]

    def _log_probabilities(self, scores: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Return the log probability of choices [R], of all tokens that end the value if they do."""
        ending = scores.masked_fill(~self._quotes, -math.inf).logsumexp(-1)
        own = scores.gather(-1, chosen[:, None])[:, 0]
        return torch.where(self._quotes[chosen], ending, own) - scores.logsumexp(-1)

    def _unpack(self, bits: np.ndarray) -> torch.Tensor:
        """Turn packed masks into [R, V] bool on the device; only the bits travel there."""
        size = self.vocabulary.size
        if self.device.type == "cpu":
            return torch.from_numpy(unpack_masks(bits, size))
        octets = send(torch.from_numpy(bits.view(np.uint8)), self.device)
        places = torch.arange(8, dtype=torch.uint8, device=self.device)
        return (octets[..., None] >> places & 1).flatten(1)[:, :size].bool()

    @cached_property
    def _quotes(self) -> torch.Tensor:
        """Which tokens end a value, [V] bool."""
        return torch.from_numpy(self.vocabulary.starts_with_quote).to(self.device)

    def _aside(self) -> AbstractContextManager[object]:
        """Return a context whose operations do not wait for those that were asked for before."""
        return torch.cuda.stream(self._stream) if is_card(self.device) else nullcontext()

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device, priority=-1)
