"""Write a model in 4-bit so that `Family.load` reads it back bit by bit (the command is `quantized`)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict

from bases import family_of, find_family
from bases.adapter_files import describe_files, source_of_copy
from bases.chatglm.anatomy import HEAD
from bases.chatglm.modeling import ChatGLMForConditionalGeneration
from bases.hub_cache import resolve_model_dir
from bases.linear4bit import QUANTIZATION_NOTE, check_quantization, split_weight
from bases.model_dir import checked_file, read_model_json
from bases.published_files import is_small_file
from bases.weights import digest, fingerprint, full_disk_told
from utils.common_utils import UserError, log
from utils.device import check_device
from utils.directories import file_digest, write_directory

MAX_SHARD_BYTES = 2_000_000_000
_RESERVE = 50_000_000  # of free space that is left over, and holds config and tokenizer


def save_quantized(
    model: Any,
    tokenizer: Any,
    directory: str | os.PathLike[str],
) -> None:
    """Write a 4-bit model and its tokenizer so that `Family.load` reads them back bit by bit.

    The weights go to safetensors, in shards of 2 GB at most, under the model's names for them; the parts of a
    4-bit weight's quantisation state follow it under bitsandbytes' names. `config.json` keeps the fingerprint
    of the weights that were quantised, so adapters move freely between the original and its 4-bit copy; and
    the SHA-256 of the files that these weights came from, and of the copy's own.

    Args:
        model: as `Family.load(…, load_in_4bit=True)` returns it, without an adapter.
        tokenizer: its tokenizer.
        directory: an existing, empty directory.

    Raises:
        ValueError: the model is not in 4-bit, or has an adapter.
        OSError: the disk is full or not writable.
    """
    if not getattr(model, "is_loaded_in_4bit", False) or hasattr(model, "peft_config"):
        raise ValueError("save_quantized needs a 4-bit model without an adapter")
    check_quantization(model, family_of(model.config).shape(model.config).linear_shapes)
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "quant_state"):
            tensors |= {name + suffix: part for suffix, part in split_weight(parameter).items()}
        elif name != HEAD or not model.config.tie_word_embeddings:
            tensors[name] = parameter.detach()

    directory = Path(directory)
    need = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) + _RESERVE
    free = shutil.disk_usage(directory).free
    if free < need:
        raise OSError(
            f"{directory} 所在的磁盘只剩 {free / 1e9:.1f} GB，4-bit 权重需要 {need / 1e9:.1f} GB，"
            "请清理磁盘或换一个目录"
        )
    with full_disk_told():
        save_torch_state_dict(tensors, directory, max_shard_size=MAX_SHARD_BYTES)
    note = QUANTIZATION_NOTE | {
        "bnb_4bit_compute_dtype": str(model.dtype).removeprefix("torch."),
        "base_fingerprint": model.base_fingerprint,
        "content_fingerprint": fingerprint({name: digest(tensor) for name, tensor in tensors.items()}),
        "source_files": _source_files(model.config.name_or_path),
        "files": {path.name: file_digest(path) for path in sorted(directory.glob("*.safetensors"))},
    }
    if isinstance(model, ChatGLMForConditionalGeneration):
        tokenizer.save_pretrained(directory)
        config = type(model.config).from_dict(model.config.to_dict())
        config.architectures = [type(model).__name__]
        config.quantization_config = note
        config.save_pretrained(directory)
    else:  # as it was published, for other programs to know it by
        source = Path(model.config.name_or_path)
        copy_small_files(source, directory)
        content = read_model_json(source, "config.json") | {"quantization_config": note}
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        (directory / "config.json").write_text(text, encoding="utf-8")


def _source_files(name_or_path: str) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of a directory's weight files (of a copy: of those that it was made of)."""
    source = Path(name_or_path)
    if not source.is_dir():
        return {}
    return source_of_copy(source) or describe_files(find_family(source).weight_files(source))


def copy_small_files(source: Path, directory: Path) -> None:
    """Copy what lies beside a model's weights, but for what its publisher says of it."""
    for path in sorted(source.iterdir()):
        if is_small_file(path.name) and path.name != "README.md" and path.is_file():
            shutil.copyfile(checked_file(source, path.name), directory / path.name)


def quantise(
    pre_model: str, output: Path, dtype: str, device: str | None, further: Sequence[Path] = ()
) -> None:
    """Read a model, quantise it and write it.

    Args:
        pre_model: a directory, or a hub name whose files are in the local cache.
        output: a directory that is empty or not there.
        dtype: "float16" or "bfloat16", of embedding, norms and biases.
        device: where to quantise; CUDA where there is one when None.
        further: files to lay beside it.

    Raises:
        UserError: the device, the model or the place to write to can't be used.
    """
    check_device(device)
    model_dir = resolve_model_dir(pre_model)
    family = find_family(model_dir)
    if getattr(family.load_config(model_dir), "quantization_config", None):
        raise UserError(f"{model_dir} 已经是量化过的模型，请用 --pre_model 指定原来的半精度权重。")
    log(f"正在读取并量化 {model_dir} …")
    try:
        model, tokenizer = family.load(model_dir, dtype=getattr(torch, dtype), device=device)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{device or 'GPU'} 的显存不足，可以改用 --device cpu。") from error

    def write(new: Path) -> None:
        save_quantized(model, tokenizer, new)
        for path in further:
            shutil.copyfile(path, new / path.name)

    log(f"正在写入 {output} …")
    try:
        write_directory(output, write)
    except OSError as error:
        raise UserError(f"没有写成 {output}：{error.strerror or error}。") from error
