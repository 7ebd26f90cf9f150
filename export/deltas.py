"""What an adapter changes of its base, tensor by tensor: LoRA's low-rank product, or a P-tuning v2 prefix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bases.adapter import check_belongs, read_adapter_weights
from bases.adapter_files import LORA_FILE, LoraShape, read_lora_shape
from bases.chatglm.anatomy import PREFIX
from bases.chatglm.files import checkpoint_shards, load_config
from bases.interface import StoredWeights
from bases.model_dir import read_model_json
from bases.weights import list_tensors, read_shard
from utils.common_utils import UserError

Notes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]  # type and shape by name
_IN_FILES = "base_model.model."  # before the names of modules in an adapter's file


class LoraDelta:
    """A LoRA adapter.

    Args:
        directory: of the adapter.
        base: the weights that it was trained on.
        base_dir: where they are.

    Attributes:
        added: tensors that the base does not have: none.
        config: fields of the base's config that change: none.

    Raises:
        UserError: the adapter belongs to another base or prompt, is damaged, or is no plain LoRA.
    """

    def __init__(self, directory: Path, base: StoredWeights, base_dir: Path) -> None:
        check_belongs(directory, base.fingerprint(), base_dir)
        self.added: Notes = {}
        self.config: dict[str, Any] = {}
        shape = read_lora_shape(directory)
        self._scale = shape.alpha / shape.rank
        self._targets = _find_targets(directory, shape, base)
        expected: dict[str, tuple[int, ...]] = {}
        for path, (name, start, end) in self._targets.items():
            expected[f"{_IN_FILES}{path}.lora_A.weight"] = (shape.rank, base.notes[name][1][1])
            expected[f"{_IN_FILES}{path}.lora_B.weight"] = (end - start, shape.rank)
        self._weights = read_adapter_weights(directory, expected)

    def apply(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the base with what was learnt, summed in fp32 and rounded once to its own type.

        Raises:
            UserError: the sum does not fit into that type.
        """
        own = {path: rows for path, (file_name, *rows) in self._targets.items() if file_name == name}
        if not own:
            return tensor
        merged = tensor.clone()
        for path, (start, end) in own.items():
            low, high = (self._weights[f"{_IN_FILES}{path}.lora_{side}.weight"].float() for side in "AB")
            part = torch.addmm(tensor[start:end].float(), high, low, alpha=self._scale)
            merged[start:end] = part.to(tensor.dtype)
        if not merged.isfinite().all():
            raise UserError(f"{name} 合并之后超出了 {tensor.dtype} 的范围，这个适配器不能合并。")
        return merged

    def read_added(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of `added`."""
        return iter(())


class PrefixDelta:
    """A P-tuning v2 prefix, as the published training saves it: its tensors, and the config with its length.

    Args, Attributes, Raises: see `LoraDelta`.
    """

    def __init__(self, directory: Path) -> None:
        config = load_config(directory)
        self.config: dict[str, Any] = {
            "pre_seq_len": config.pre_seq_len,
            "prefix_projection": config.prefix_projection,
        }
        self._shards = checkpoint_shards(directory)
        notes = {name: note for shard in self._shards for name, note in list_tensors(shard).items()}
        added: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        self.added: Notes = added
        for name, (kind, shape) in notes.items():
            if not name.startswith(PREFIX):
                raise UserError(f"{directory} 里除了前缀还有 {name[:120]}，它不是单独的前缀。")
            if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
                raise UserError(f"{directory} 里的 {name[:120]} 是 {kind}，不是浮点数。")
            added[name] = (kind, shape)

    def apply(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the base, which a prefix leaves as it is."""
        return tensor

    def read_added(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of `added`."""
        for shard in self._shards:
            yield from read_shard(shard)


def is_prefix(directory: Path) -> bool:
    """Tell whether a directory holds a P-tuning v2 prefix, and no LoRA."""
    if (directory / LORA_FILE).exists() or not (directory / "config.json").is_file():
        return False
    return bool(read_model_json(directory, "config.json").get("pre_seq_len"))


def _find_targets(directory: Path, shape: LoraShape, base: StoredWeights) -> dict[str, tuple[str, int, int]]:
    """Return, for each module that LoRA stands beside, the tensor of its weight, and the rows in there.

    Raises:
        UserError: one of the names that the adapter gives is none of a linear layer of the base, or its rank
            is larger than one.
    """
    modules = {
        own.removesuffix(".weight"): (name, start, end)
        for name, (_, size) in base.notes.items()
        if len(size) == 2
        for own, start, end in base.parts(name)
        if own.endswith(".weight")
    }
    found: dict[str, tuple[str, int, int]] = {}
    for wanted in dict.fromkeys(shape.target_modules):
        own = {path: at for path, at in modules.items() if path == wanted or path.endswith(f".{wanted}")}
        if not own:
            raise UserError(
                f"适配器 {directory} 的 target_modules 里的 {wanted[:60]} 在基座的权重里没有，不能合并。"
            )
        found |= own
    for path, (name, start, end) in found.items():
        if shape.rank > min(end - start, base.notes[name][1][1]):
            raise UserError(f"适配器 {directory} 的秩 r 写的是 {shape.rank}，比模型的线性层 {path} 还大。")
    return found
