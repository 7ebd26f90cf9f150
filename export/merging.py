"""An adapter merged into its base, shard by shard (the command is `merge`)."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bases import find_family
from bases.adapter_files import (
    CONFIG_FILE,
    META_FILE,
    SCHEMA_FILE,
    WEIGHTS_FILE,
    find_base,
    load_adapter_meta,
)
from bases.chatglm import row_scaled
from bases.chatglm.anatomy import is_linear_layer
from bases.hub_cache import resolve_model_dir
from bases.interface import StoredWeights
from bases.model_dir import read_model_json
from export import four_bit
from export.deltas import LoraDelta, PrefixDelta, is_prefix
from export.shards import Note, ShardPlan, ShardWriter, Units, plan_shards
from extraction.adapters import resolve_adapter
from utils.common_utils import UserError, log
from utils.directories import remove, write_directory

PUBLISHED_BITS = {"int8": 8, "int4": 4}
# What the adapter says of its training, which goes along, so that answers are constrained as they were.
TRAINING_FILES = (META_FILE, CONFIG_FILE, SCHEMA_FILE)


def merge(
    adapter: Path,
    output: Path,
    *,
    pre_model: str | None = None,
    max_shard_size: int,
    quantise: str | None = None,
) -> None:
    """Merge an adapter into its base and write the model.

    Shards that a run before this one had finished (of the same adapter, base and sizes) are kept.

    Args:
        adapter: a LoRA adapter's directory, or that of a run with `model_best`; or a P-tuning v2 prefix.
        output: a directory that is empty or not there.
        pre_model: the base; where it was in training when None.
        max_shard_size: bytes of a weight file; a larger tensor has a file of its own.
        quantise: "nf4", "int8", "int4"; half precision, as the base has it, when None.

    Raises:
        UserError: adapter, base or the place to write to can't be used.
    """
    adapter = resolve_adapter(adapter)
    base_dir = _find_base(adapter, pre_model)
    family = find_family(base_dir)
    if quantise in PUBLISHED_BITS and family.model_type != "chatglm":
        raise UserError(
            f"--quantise {quantise} 只用于 ChatGLM-6B；别的模型可以用 nf4（本项目的 4-bit 副本），"
            "或它们自己的量化工具。"
        )
    log(f"正在核对基座 {base_dir} …")
    base = family.stored_weights(base_dir)
    delta = PrefixDelta(adapter) if is_prefix(adapter) else LoraDelta(adapter, base, base_dir)
    bits = PUBLISHED_BITS.get(quantise or "", 0)
    plan = plan_shards(_units_of(base, delta, bits), max_shard_size)
    work = output.with_name(f".{output.name}.merging")
    try:
        writer = ShardWriter(work, plan, _key_of(adapter, base_dir, plan, quantise))
        writer.check_space()
        if writer.done:
            log(f"接着上次做：{len(plan.files)} 片里已有 {len(writer.done)} 片。")

        def change(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
            return _quantised(name, delta.apply(name, tensor), bits)

        writer.write(itertools.chain(base.read(), delta.read_added()), change)
        merged = output if quantise != "nf4" else work / "half"
        config = delta.config | ({"quantization_bit": bits, "quantization_embeddings": False} if bits else {})

        write_directory(merged, lambda new: _fill(new, writer, base_dir, adapter, config))
    except OSError as error:
        raise UserError(f"没有写成 {output}：{error.strerror or error}。") from error
    if quantise == "nf4":
        kinds = {kind for kind, _ in base.notes.values()}
        dtype = "bfloat16" if torch.bfloat16 in kinds else "float16"
        further = [merged / name for name in TRAINING_FILES if (merged / name).is_file()]
        four_bit.quantise(str(merged), output, dtype, "cpu", further)
    remove(work)


def _find_base(adapter: Path, pre_model: str | None) -> Path:
    """Return the base's directory: the one given, or the one of the training."""
    if pre_model is not None:
        return resolve_model_dir(pre_model)
    if is_prefix(adapter):
        raise UserError("合并 P-Tuning v2 的前缀要用 --pre_model 指定基座。")
    return find_base(load_adapter_meta(adapter), adapter)


def _units_of(base: StoredWeights, delta: LoraDelta | PrefixDelta, bits: int) -> Units:
    """Return what each tensor of the base, and each added one, becomes."""
    units: dict[str, Mapping[str, Note]] = {}
    for name, (dtype, shape) in (dict(base.notes) | dict(delta.added)).items():
        units[name] = {name: (dtype, shape)}
        if bits and is_linear_layer(name.removesuffix(".weight")):
            if shape[1] * bits % 8:
                raise UserError(f"{name} 有 {shape[1]} 列，int4 的布局要求列数是偶数。")
            parts = row_scaled.stored_parts(torch.Size(shape), bits)
            units[name] = {
                name + suffix: (dtype or torch.float16, size) for suffix, (dtype, size) in parts.items()
            }
    return units


def _quantised(name: str, tensor: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Return a merged tensor as it is written."""
    if not bits or not is_linear_layer(name.removesuffix(".weight")):
        return {name: tensor}
    return {name + suffix: part for suffix, part in row_scaled.split_weight(tensor, bits).items()}


def _key_of(adapter: Path, base_dir: Path, plan: ShardPlan, quantise: str | None) -> str:
    """Name all that the files depend on."""
    sources = [*find_family(base_dir).weight_files(base_dir)]
    sources += find_family(adapter).weight_files(adapter) if is_prefix(adapter) else [adapter / WEIGHTS_FILE]
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    return hashlib.sha256(json.dumps([stats, plan.files, quantise]).encode()).hexdigest()


def _fill(new: Path, writer: ShardWriter, base_dir: Path, adapter: Path, config: dict[str, Any]) -> None:
    """Put the model's directory together: small files of base and adapter, then the finished shards."""
    four_bit.copy_small_files(base_dir, new)
    content = read_model_json(base_dir, "config.json")
    stale = {"quantization_bit": 0} if content.get("quantization_bit") else {}  # of a base in int4 or int8
    if changed := stale | config:
        text = json.dumps(content | changed, ensure_ascii=False, indent=2)
        (new / "config.json").write_text(text + "\n", encoding="utf-8")
    for name in TRAINING_FILES:
        if (adapter / name).is_file():
            shutil.copyfile(adapter / name, new / name)
    if len(writer.plan.files) > 1:
        text = json.dumps(writer.plan.weight_index(), indent=2)
        (new / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")
    for file in writer.plan.files:  # late: whatever fails before leaves them where the next run finds them
        (writer.work / file).rename(new / file)
    try:  # before it appears
        find_family(new).check_directory(new)
    except UserError as error:
        raise UserError(f"合并不成：{error}".replace(str(new), "合并的结果")) from error
