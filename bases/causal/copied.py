"""A causal model filled from a 4-bit copy, whose tensors have the model's own names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from bases.four_bit_copy import check_copy
from bases.interface import CheckpointError
from bases.layers import assign
from bases.linear4bit import join_weight, stored_parts
from bases.weights import FLOATING, digest, list_tensors, read_shard

from .anatomy import shape_of

_SHOWN = 120  # characters of a name


def plan_copy(
    model_dir: Path, shapes: dict[str, tuple[int, ...]], config: PreTrainedConfig, shards: list[Path]
) -> dict[str, tuple[str, torch.Size]]:
    """Make sure that a copy's files hold exactly what they should, without reading a number.

    Args:
        model_dir: the directory.
        shapes: of the model's parameters, by name; one that is tied to another is left out.
        config: of the model.
        shards: the copy's weight files.

    Returns:
        For each tensor that is a part of a 4-bit weight: the weight's name and shape.

    Raises:
        CheckpointError: a file is damaged; a tensor is unknown, missing, or of another type or shape.
    """
    layers = shape_of(config).linear_shapes
    owners: dict[str, tuple[str, torch.Size]] = {}
    expected: dict[str, tuple[torch.dtype | None, tuple[int, ...] | None]] = {}
    for name, shape in shapes.items():
        module, _, attribute = name.rpartition(".")
        if attribute == "weight" and module.rpartition(".")[2] in layers:
            for suffix, kind in stored_parts(torch.Size(shape)).items():
                expected[name + suffix], owners[name + suffix] = kind, (name, torch.Size(shape))
        else:
            expected[name] = (None, shape)
    missing = set(expected)
    for shard in shards:
        for name, (dtype, shape) in list_tensors(shard).items():
            wanted_dtype, wanted_shape = expected.get(name, (None, ()))
            right_type = dtype in FLOATING if wanted_dtype is None else dtype == wanted_dtype
            right_shape = len(shape) == 1 if wanted_shape is None else shape == wanted_shape
            if name not in missing or not right_type or not right_shape:
                raise CheckpointError(f"权重文件 {shard} 里的 {name[:_SHOWN]} 不是这个 4-bit 副本应有的。")
            missing.remove(name)
    if missing:
        raise CheckpointError(f"模型目录 {model_dir} 的权重缺少 {len(missing)} 个参数，例如 {min(missing)}。")
    return owners


def fill_from_copy(
    model: Any,
    owners: dict[str, tuple[str, torch.Size]],
    note: dict[str, Any],
    model_dir: Path,
    shards: list[Path],
    dtype: torch.dtype,
    device: str | torch.device,
) -> None:
    """Put a copy's tensors into a model with 4-bit layers, and give it the fingerprint of the original.

    Args:
        model: on the meta device, its layers replaced.
        owners: of `plan_copy`.
        note: of the copy.
        model_dir, shards: its directory and weight files.
        dtype: of what is not 4-bit, and what 4-bit weights shall be dequantised to.
        device: where it shall live.

    Raises:
        CheckpointError: the files are not what was written.
    """
    digests: dict[str, str] = {}
    pending: dict[str, dict[str, torch.Tensor]] = {}
    for shard in shards:
        for name, tensor in read_shard(shard):
            digests[name] = digest(tensor)
            if name not in owners:
                assign(model, name, tensor, shard, dtype, device)
                continue
            owner, shape = owners[name]
            parts = pending.setdefault(owner, {})
            parts[name.removeprefix(owner)] = tensor
            if len(parts) == len(stored_parts(shape)):
                module = model.get_submodule(owner.rpartition(".")[0])
                try:
                    module.weight = join_weight(pending.pop(owner), shape, module, dtype, device)
                except ValueError as error:
                    raise CheckpointError(f"权重文件 {shard} 里的 {owner} 已损坏：{error}。") from error
    check_copy(model_dir, note, digests, shards)
    model.base_fingerprint = note["base_fingerprint"]
    del model.config.quantization_config
