"""A ChatGLM directory's weights, tensor by tensor, without a model: half precision, whatever it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from bases.four_bit_copy import refuse_as_source
from bases.weights import digest, fingerprint, list_tensors, read_shard

from . import row_scaled
from .anatomy import EMBEDDING, HEAD
from .blueprint import Blueprint
from .files import checkpoint_shards, load_config
from .modeling import ChatGLMForConditionalGeneration

DEQUANTISED = torch.float16  # as the published code dequantises to


class ChatGLMWeights:
    """See `bases.interface.StoredWeights`.

    Args:
        model_dir: the directory; its files are compared with its config before a number is read.

    Raises:
        CheckpointError: something is missing or not what it should be; or it is a 4-bit copy.
    """

    def __init__(self, model_dir: Path) -> None:
        config = load_config(model_dir)
        refuse_as_source(config, model_dir)
        with torch.device("meta"):
            self._blueprint = Blueprint(ChatGLMForConditionalGeneration(config))
        self._shards = checkpoint_shards(model_dir)
        self._blueprint.check(model_dir, self._shards)
        self.notes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        owners, met = self._blueprint.owners, dict[str, int]()
        for shard in self._shards:
            for name, (kind, shape) in list_tensors(shard).items():
                if name not in owners:
                    if isinstance(kind, torch.dtype) and kind.is_floating_point:  # else of an unused head
                        self.notes[name] = (kind, shape)
                    continue
                owner, whole = owners[name]
                met[owner] = met.get(owner, 0) + 1
                if met[owner] == self._parts_of(whole):  # as `read` yields it, when its last part is there
                    self.notes[owner] = (DEQUANTISED, tuple(whole))

    def parts(self, name: str) -> list[tuple[str, int, int]]:
        """Return which parameters of the model a tensor holds: the one of its name."""
        return [(name, 0, self.notes[name][1][0])]

    def read(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and tensor, memory-mapped where the format allows it."""
        pending: dict[str, dict[str, torch.Tensor]] = {}
        for shard in self._shards:
            for name, tensor in read_shard(shard):
                if name not in self._blueprint.owners:
                    if name in self.notes:
                        yield name, tensor
                    continue
                owner, shape = self._blueprint.owners[name]
                parts = pending.setdefault(owner, {})
                parts[name.removeprefix(owner)] = tensor
                if len(parts) == self._parts_of(shape):
                    joined = row_scaled.join_weight(pending.pop(owner), self._blueprint.bits)
                    yield owner, joined.to(DEQUANTISED)

    def fingerprint(self) -> str:
        """Return what `base_fingerprint` of the loaded model would be."""
        digests = {
            name: digest(tensor)
            for shard in self._shards
            for name, tensor in read_shard(shard)
            if name in self._blueprint.expected or name == HEAD
        }
        head = digests.get(HEAD) if HEAD in self._blueprint.expected else digests.pop(HEAD, None)
        if EMBEDDING not in digests and head is not None:  # the head is the one copy
            digests[EMBEDDING] = head
        return fingerprint(digests)

    def _parts_of(self, shape: torch.Size) -> int:
        assert self._blueprint.stored_parts is not None
        return len(self._blueprint.stored_parts(shape))
