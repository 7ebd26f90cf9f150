"""A causal model's weights, tensor by tensor, under the names of its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from bases.chatglm.files import checkpoint_shards
from bases.interface import CheckpointError
from bases.model_dir import read_model_json
from bases.weights import digest, fingerprint, list_tensors, read_shard

from .loading import own_name, plan


class CausalWeights:
    """See `bases.interface.StoredWeights`; what is not used here (a vision tower) stays in it.

    Raises:
        CheckpointError: something is missing or not what it should be; or the checkpoint was published with
            code of its own, under names that transformers does not have.
    """

    def __init__(self, model_dir: Path, config: PreTrainedConfig) -> None:
        self._shards = checkpoint_shards(model_dir)
        self._parts = plan(model_dir, config, self._shards)
        published = read_model_json(model_dir, "config.json").get("model_type")
        split = any(len(parts) > 1 for parts in self._parts.values())
        if split or published in ("chatglm",):
            raise CheckpointError(
                f"{model_dir} 是带着自己的代码公布的检查点，张量的名字与 transformers 的不同，还不能合并。"
            )
        self.notes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for shard in self._shards:
            for name, (kind, shape) in list_tensors(shard).items():
                if isinstance(kind, torch.dtype):
                    self.notes[name] = (kind, shape)

    def own_name(self, name: str) -> str:
        """Return the model's name for a tensor of a file."""
        return own_name(name)

    def read(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and tensor, memory-mapped where the format allows it."""
        for shard in self._shards:
            for name, tensor in read_shard(shard):
                if name in self.notes:
                    yield name, tensor

    def fingerprint(self) -> str:
        """Return what `base_fingerprint` of the loaded model would be."""
        return fingerprint(
            {part.name: digest(tensor) for name, tensor in self.read() for part in self._parts.get(name, ())}
        )
