"""LoRA on a base model: attached, saved, and loaded from a directory that may be a stranger's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open

from bases import family_of
from bases.adapter_files import (
    CONFIG_FILE,
    META_FILE,
    SCHEMA_FILE,
    WEIGHTS_FILE,
    AdapterMeta,
    adapter_file,
    find_adapter_damage,
    find_base,
    find_difference,
    find_unchecked,
    load_adapter_meta,
    read_adapter_json,
    read_lora_shape,
    with_base,
    write_adapter_json,
)
from bases.fsdp import split_like
from bases.lora_product import shorten_lora
from bases.model_dir import refuse_lfs_pointer
from task.prompt import PROMPT_TEMPLATE
from utils.common_utils import UserError, log

__all__ = [
    "CONFIG_FILE",
    "META_FILE",
    "SCHEMA_FILE",
    "AdapterMeta",
    "adapter_file",
    "attach_lora",
    "check_adapter",
    "check_belongs",
    "find_base",
    "load_adapter",
    "load_adapter_meta",
    "load_adapter_weights",
    "read_adapter_json",
    "read_adapter_weights",
    "refuse_prefix",
    "write_adapter_files",
]

_WEIGHT_TYPES = ("F32", "F16", "BF16")  # as safetensors calls them


def attach_lora(
    model: torch.nn.Module, *, rank: int, alpha: float, dropout: float, target_modules: list[str]
) -> PeftModel:
    """Freeze a base model and put trainable LoRA layers (fp32) beside its linear layers of these names.

    Raises:
        UserError: one of the names is none of a linear layer of the blocks, or the model has a prefix.
    """
    refuse_prefix(model.config)
    target_modules = family_of(model.config).shape(model.config).targets(target_modules)
    _find_targets(model, target_modules, "lora_target_modules 里的")
    return get_peft_model(model, _lora_config(rank, alpha, dropout, target_modules))


def _lora_config(rank: int, alpha: float, dropout: float, target_modules: list[str]) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=target_modules
    )


def refuse_prefix(config: Any) -> None:
    """Make sure that a model is one to put LoRA on: it has no P-tuning prefix.

    Raises:
        UserError: it has.
    """
    if length := getattr(config, "pre_seq_len", None):
        raise UserError(
            f"模型带有 P-Tuning v2 的前缀（pre_seq_len={length}），只能直接用来抽取（--no_adapter），"
            "不能再训练。LoRA 与前缀是同一件事的两种做法：前缀在各层的注意力前面加一段学来的键和值，"
            "LoRA 学各层权重的改变量，可以合并进权重。请用没有前缀的基座训练。"
        )


def _find_targets(model: torch.nn.Module, names: list[str], where: str) -> dict[str, torch.nn.Linear]:
    """Return the linear layers that names, or their ends, stand for, as peft matches them.

    Args:
        model: a base model without LoRA.
        names: of modules, or the last parts of them.
        where: how to begin the message.

    Raises:
        UserError: one of the names is none of a linear layer of the blocks.
    """
    layers = family_of(model.config).shape(model.config).linear_shapes
    found: dict[str, torch.nn.Linear] = {}
    unknown = []
    modules = [(path, module) for path, module in model.named_modules() if path.rpartition(".")[2] in layers]
    for name in dict.fromkeys(names):
        own = {path: module for path, module in modules if path == name or path.endswith(f".{name}")}
        if name.rpartition(".")[2] not in layers or not own:
            unknown.append(name)
        found |= own
    if unknown:
        shown = "、".join(name[:60] for name in unknown[:10])
        raise UserError(f"{where} {shown} 不是模型各层的线性层，可用的是 {'、'.join(layers)}。")
    return found


# ---- loading


def load_adapter(
    model: torch.nn.Module, directory: str | Path, others: Mapping[str, Path] | None = None
) -> PeftModel:
    """Attach a trained adapter to a base model.

    Of `adapter_config.json` only the shape of plain LoRA is used: it can name neither code nor another base.
    Of the weights only those are taken that this shape implies, by name, shape and floating type; all is
    checked before anything is allocated.

    Args:
        model: as `Family.load` returns it.
        directory: an adapter directory, of this project or of plain peft; peft calls it "default".
        others: directories of further adapters, by the names for `set_adapter`.

    Returns:
        The model with the adapter in force, in evaluation mode.

    Raises:
        UserError: the adapter belongs to another base model or to another prompt, is damaged, does not fit,
            or is no plain LoRA.
    """
    peft_model: PeftModel | None = None
    for name, place in {"default": Path(directory), **(others or {})}.items():
        config, weights = _read_adapter(peft_model or model, Path(place))
        if peft_model is None:
            peft_model = get_peft_model(model, config)
        else:
            peft_model.add_adapter(name, config)
            peft_model.set_adapter(name)
        _set_weights(peft_model, weights)
    assert peft_model is not None
    peft_model.set_adapter("default")
    shorten_lora(peft_model)
    return peft_model.eval()


def _read_adapter(model: torch.nn.Module, directory: Path) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """Return an adapter's shape and weights, checked against a base model that may have other adapters."""
    check_adapter(model, directory)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    refuse_prefix(base.config)
    shape = read_lora_shape(directory)
    targets = _find_targets(base, shape.target_modules, f"适配器 {directory} 的 target_modules 里的")
    expected: dict[str, tuple[int, ...]] = {}
    for path, layer in targets.items():
        if shape.rank > min(layer.in_features, layer.out_features):
            raise UserError(f"适配器 {directory} 的秩 r 写的是 {shape.rank}，比模型的线性层 {path} 还大。")
        expected[f"base_model.model.{path}.lora_A.weight"] = (shape.rank, layer.in_features)
        expected[f"base_model.model.{path}.lora_B.weight"] = (layer.out_features, shape.rank)
    return _lora_config(dropout=0.0, **shape._asdict()), read_adapter_weights(directory, expected)


def check_adapter(model: torch.nn.Module, directory: Path) -> None:
    """Make sure, as far as its small files tell, that an adapter is whole and belongs to a base model.

    Args:
        model: the base.
        directory: of an adapter, of this project or of plain peft (which is said, for little is known then).

    Raises:
        UserError: it belongs to another base model or to another prompt, or is damaged.
    """
    meta, frame = load_adapter_meta(directory), getattr(model, "prompt_frame", "")
    if meta.prompt_frame and frame and meta.prompt_frame != frame:
        raise UserError(
            f"适配器 {directory} 训练时的对话格式与现在的不同（当时 {meta.prompt_frame!r}，现在 {frame!r}）："
            "基座目录里的对话模板或分词器被换过，请恢复，或重新训练。"
        )
    base = getattr(model.config, "name_or_path", "")
    check_belongs(directory, model.base_fingerprint, Path(base) if base and Path(base).is_dir() else None)


def check_belongs(directory: Path, base_fingerprint: Any, base: Path | None) -> None:
    """Do what `check_adapter` does, without a model.

    Args:
        directory: the adapter's.
        base_fingerprint: of the base's weights.
        base: its directory, if there is one.

    Raises:
        UserError: see `check_adapter`.
    """
    meta = load_adapter_meta(directory)
    if meta.prompt_template != PROMPT_TEMPLATE:
        raise UserError(f"适配器 {directory} 是用另一种提示词模板训练的，与当前版本不一致，请重新训练。")
    if meta.is_foreign:
        log(
            f"适配器 {directory} 没有 {META_FILE}，不是由本项目保存的：它的基座、提示词和长度限制都不知道，"
            "只核对了权重的名字与形状。"
        )
    elif meta.base_fingerprint != base_fingerprint:
        raise UserError(
            f"适配器 {directory} 是在另一个基座模型（{meta.pre_model}）上训练的，与现在加载的权重不同，"
            "请用 --pre_model 指定当时的基座。"
        )
    if base is not None and (name := find_difference(meta, base)):
        raise UserError(
            f"基座模型 {base} 的 {name} 与训练适配器 {directory} 时的不同（逐字节核对），"
            "文件可能已损坏或被换过；请恢复当时的基座，或重新训练。"
        )
    if damage := find_adapter_damage(directory):
        raise UserError(f"适配器 {directory} 已损坏（{damage}），请重新拷贝或重新训练。")
    for sentence in find_unchecked(meta, base, directory):
        log(f"注意：{sentence}")


def load_adapter_weights(model: PeftModel, directory: Path) -> None:
    """Read an adapter's weights into the LoRA layers that a model already has.

    Raises:
        UserError: the file is damaged, holds numbers that are not finite, or its names, shapes or types are
            others.
    """
    own = _lora_parameters(model)
    _set_weights(
        model, read_adapter_weights(directory, {name: tuple(value.shape) for name, value in own.items()})
    )


def _lora_parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """Return a model's LoRA parameters by the names that they have in files."""
    return {
        name.replace(f".{model.active_adapter}.", "."): parameter
        for name, parameter in model.named_parameters()
        if "lora_" in name
    }


def _set_weights(model: PeftModel, weights: dict[str, torch.Tensor]) -> None:
    own = _lora_parameters(model)
    split = {name: split_like(value, own[name]) for name, value in weights.items()}
    set_peft_model_state_dict(model, split, adapter_name=model.active_adapter)


def read_adapter_weights(directory: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Read an adapter's weights, which have to be exactly these; nothing is read before that is known.

    Args:
        directory: the adapter's.
        expected: shape by name.

    Raises:
        UserError: see `load_adapter_weights`.
    """
    path = adapter_file(directory, WEIGHTS_FILE)
    refuse_lfs_pointer(path)
    if not path.is_file():
        raise UserError(f"适配器 {directory} 的 {WEIGHTS_FILE} 读不出来，文件缺失或已损坏。")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            if wrong := sorted(parts.keys() ^ expected.keys()):
                raise UserError(f"适配器 {directory} 的权重与当前的 LoRA 模块不符（例如 {wrong[0][:200]}）。")
            for name, shape in expected.items():
                own, kind = tuple(parts[name].get_shape()), parts[name].get_dtype()
                if own != shape:
                    raise UserError(
                        f"适配器 {directory} 的权重形状与当前的 LoRA 参数不符：{name} 是 {own}，"
                        f"应当是 {shape}。"
                    )
                if kind not in _WEIGHT_TYPES:
                    raise UserError(f"适配器 {directory} 的权重 {name} 是 {kind}，不是浮点数。")
            weights = {name: file.get_tensor(name) for name in expected}
    except (OSError, SafetensorError, MemoryError) as error:  # a file too large to be mapped
        raise UserError(f"适配器 {directory} 的 {WEIGHTS_FILE} 读不出来，文件缺失或已损坏。") from error
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(f"适配器 {directory} 的权重里有 NaN 或无穷大（例如 {broken[0]}），不能使用。")
    return weights


# ---- saving


def write_adapter_files(
    model: PeftModel, directory: Path, meta: AdapterMeta, config: dict[str, Any], schema: dict[str, Any]
) -> None:
    """Write an adapter's files into an existing directory (without the base model's embedding).

    Where the base is, is noted beside what `meta` says, so that it is found again from anywhere.
    """
    # Given by name, because `state_dict()` of a model that FSDP splits has only this process's share.
    weights = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    model.peft_config[model.active_adapter].base_model_name_or_path = meta.pre_model or None
    model.save_pretrained(str(directory), state_dict=weights, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)  # peft's model card, full of blanks to fill in
    noted = with_base(meta, getattr(model.get_base_model().config, "name_or_path", ""), directory)
    write_adapter_json(
        directory, {CONFIG_FILE: config, SCHEMA_FILE: schema, META_FILE: dataclasses.asdict(noted)}
    )
