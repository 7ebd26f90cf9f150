"""Checkpoint directory -> model: tensor by tensor, safetensors or `.bin`, in half precision or to 4-bit.

What the files hold is compared with what the model needs, by name, type and shape, before a number is read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from bases.chatglm.files import checkpoint_shards
from bases.four_bit_copy import read_note, refuse_other_precision
from bases.interface import CheckpointError
from bases.layers import assign, replace_linears
from bases.linear4bit import check_quantization
from bases.weights import FLOATING, digest, fingerprint, list_tensors, read_shard

from .anatomy import shape_of
from .copied import fill_from_copy, plan_copy
from .modeling import empty_model
from .published_glm import Part, glm_parts

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
# Not of the half that reads, or computed from the config.
_IGNORED = re.compile(
    r"rotary_(pos_)?emb\.inv_freq$|^(model\.)?(vision_tower|multi_modal_projector|vision_model)\.|masked_bias$"
)
_RENAMED = (
    (re.compile(r"^language_model\.(?=model\.|lm_head\.)"), ""),
    (re.compile(r"^model\.language_model\."), "model."),
    (re.compile(r"^(?=layers\.|embed_tokens\.|norm\.)"), "model."),
)
_SHOWN = 120  # characters of a name


def own_name(name: str) -> str:
    """Return the model's name for a tensor of a file."""
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def parts_of(name: str, config: PreTrainedConfig) -> list[Part]:
    """Return what a tensor of a file becomes in the model."""
    published = glm_parts(name, config) if config.model_type == "glm" else None
    return published or [Part(own_name(name))]


def plan(model_dir: Path, config: PreTrainedConfig, shards: list[Path]) -> dict[str, list[Part]]:
    """Tell which parameters the tensors of files become, and make sure that they are all there.

    Returns:
        Parts by the tensors' names in the files; tensors that are not needed are left out.

    Raises:
        CheckpointError: a file is damaged; a tensor is unknown, missing, or of another type or shape.
    """
    expected = _expected_shapes(model_dir, config)
    needed = dict(expected)
    if config.tie_word_embeddings:
        needed.pop(HEAD, None)
    parts: dict[str, list[Part]] = {}
    heads: list[str] = []  # that are not needed: embedding and head are one
    for shard in shards:
        for file_name, (dtype, shape) in list_tensors(shard).items():
            own = parts_of(file_name, config)
            if any(part.name not in expected for part in own):
                if not _IGNORED.search(file_name):
                    raise CheckpointError(_unknown(shard, file_name, config))
                continue
            rows = sum(expected[part.name][0] for part in own)
            wanted = (rows, *expected[own[0].name][1:])
            if dtype not in FLOATING or shape != wanted:
                raise CheckpointError(
                    f"权重文件 {shard} 里的 {file_name} 是 {dtype} {shape}，"
                    f"而 config.json 要求浮点数 {wanted}。"
                )
            if all(needed.pop(part.name, None) is not None for part in own):
                parts[file_name] = own
            elif own[0].name == HEAD:
                heads.append(file_name)
    if EMBEDDING in needed and config.tie_word_embeddings and heads:  # the head is the one copy
        parts[heads[0]] = [Part(EMBEDDING)]
        del needed[EMBEDDING]
    if needed:
        raise CheckpointError(f"模型目录 {model_dir} 的权重缺少 {len(needed)} 个参数，例如 {min(needed)}。")
    return parts


def check(model_dir: Path, config: PreTrainedConfig) -> None:
    """Make sure that a directory's files hold what the model needs, without reading a number.

    Raises:
        CheckpointError: see `plan` and `plan_copy`.
    """
    shards = checkpoint_shards(model_dir)
    if read_note(config, model_dir):
        _plan_copy(model_dir, config, shards)
    else:
        plan(model_dir, config, shards)


def _plan_copy(
    model_dir: Path, config: PreTrainedConfig, shards: list[Path]
) -> dict[str, tuple[str, torch.Size]]:
    shapes = _expected_shapes(model_dir, config)
    if config.tie_word_embeddings:
        del shapes[HEAD]
    return plan_copy(model_dir, shapes, config, shards)


def _expected_shapes(model_dir: Path, config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    try:
        model = empty_model(config)
    except Exception as error:  # transformers' own, of values that don't go together
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{model_dir} 的 config.json 里的值不能一起用（{said}）。") from error
    return {
        name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def _unknown(shard: Path, name: str, config: PreTrainedConfig) -> str:
    name = name if len(name) <= _SHOWN else name[:_SHOWN] + "…"
    if "lora_" in name:
        return (
            f"权重文件 {shard} 里有 LoRA 适配器的权重（{name}）：这是适配器，或带着适配器一起保存的模型；"
            "请用原来的基座，适配器用 --adapter 指定。"
        )
    if re.search(r"\.(qweight|qzeros|scales|weight_scale\w*|weight_packed|absmax|SCB)$", name):
        return (
            f"权重文件 {shard} 里是量化过的权重（{name}），而 config.json 说没有量化；"
            "请改用半精度的原始权重。"
        )
    return f"权重文件 {shard} 里的 {name} 不属于 {config.model_type} 模型，拒绝加载。"


def load_model(
    model_dir: Path,
    config: PreTrainedConfig,
    *,
    dtype: torch.dtype,
    load_in_4bit: bool,
    load_in_8bit: bool = False,
    quant_storage: torch.dtype | None,
    device: str | torch.device,
) -> Any:
    """Build a model and fill it from a directory, holding one tensor beside it at most.

    Args:
        model_dir: the directory.
        config: of it.
        dtype: of everything that is not quantised, and of products.
        load_in_4bit, load_in_8bit, quant_storage: see `bases.layers.replace_linears`.
        device: where the model shall live; each tensor goes there as it is read.

    Returns:
        The model in evaluation mode, with its `base_fingerprint`.

    Raises:
        CheckpointError: see `plan`; or numbers are not finite.
    """
    shards = checkpoint_shards(model_dir)
    note = read_note(config, model_dir)
    if note and not load_in_4bit:
        refuse_other_precision(model_dir, load_in_8bit)
    parts = {} if note else plan(model_dir, config, shards)
    owners = _plan_copy(model_dir, config, shards) if note else {}
    model = empty_model(config)
    layers = shape_of(config).linear_shapes
    replace_linears(
        model,
        layers,
        load_in_4bit=load_in_4bit,
        load_in_8bit=load_in_8bit,
        compute_dtype=dtype,
        quant_storage=quant_storage,
    )
    if note:
        fill_from_copy(model, owners, note, model_dir, shards, dtype, device)
    else:
        model.base_fingerprint = _fill(model, parts, shards, dtype, device)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.get_input_embeddings().weight
    if load_in_4bit:
        check_quantization(model, layers)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    model.config.name_or_path = str(model_dir)
    return model.eval()


def _fill(
    model: Any,
    parts: dict[str, list[Part]],
    shards: list[Path],
    dtype: torch.dtype,
    device: str | torch.device,
) -> str:
    """Put the tensors of files into a model; return what identifies them."""
    digests: dict[str, str] = {}
    for shard in shards:
        for name, tensor in read_shard(shard):
            for part in parts.get(name, ()):
                rows = tensor[part.start : part.end]
                digests[part.name] = digest(rows)
                assign(model, part.name, rows, shard, dtype, device)
    return fingerprint(digests)
