"""A causal model's weights, tensor by tensor, under the names of its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from bases.chatglm.files import checkpoint_shards
from bases.four_bit_copy import refuse_as_source
from bases.weights import digest, fingerprint, list_tensors, read_shard

from .loading import parts_of, plan


class CausalWeights:
    """See `bases.interface.StoredWeights`; what is not used here (a vision tower) stays in it.

    Raises:
        CheckpointError: something is missing or not what it should be; or it is a 4-bit copy.
    """

    def __init__(self, model_dir: Path, config: PreTrainedConfig) -> None:
        refuse_as_source(config, model_dir)
        self._config = config
        self._shards = checkpoint_shards(model_dir)
        self._needed = plan(model_dir, config, self._shards)
        self.notes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for shard in self._shards:
            for name, (kind, shape) in list_tensors(shard).items():
                if isinstance(kind, torch.dtype):
                    self.notes[name] = (kind, shape)

    def parts(self, name: str) -> list[tuple[str, int, int]]:
        """Return which parameters of the model a tensor holds: several, where GLM's were published as one."""
        rows = (self.notes[name][1] or (1,))[0]
        own = self._needed.get(name) or parts_of(name, self._config)
        return [(part.name, part.start, rows if part.end is None else part.end) for part in own]

    def read(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and tensor, memory-mapped where the format allows it."""
        for shard in self._shards:
            for name, tensor in read_shard(shard):
                if name in self.notes:
                    yield name, tensor

    def fingerprint(self) -> str:
        """Return what `base_fingerprint` of the loaded model would be."""
        return fingerprint(
            {
                part.name: digest(tensor[part.start : part.end])
                for name, tensor in self.read()
                for part in self._needed.get(name, ())
            }
        )
