"""Write a model in 4-bit once, so that later starts read a third of the bytes and quantise nothing.

Usage: python -m export.quantized --pre_model chatglm-6b --output chatglm-6b-4bit
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from utils.command_line import ChineseArgumentParser
from utils.common_utils import UserError, log, quiet_libraries, run_main

if TYPE_CHECKING:
    import torch

    from bases.chatglm.modeling import ChatGLMForConditionalGeneration
    from bases.chatglm.tokenization import ChatGLMTokenizer

MAX_SHARD_BYTES = 2_000_000_000
_RESERVE = 50_000_000  # of free space that is left over, and holds config and tokenizer


def save_quantized(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    directory: str | os.PathLike[str],
) -> None:
    """Write a 4-bit model and its tokenizer so that `load_base_model` reads them back bit by bit.

    The weights go to safetensors, in shards of 2 GB at most, under their published names; the parts of a
    4-bit weight's quantisation state follow it under bitsandbytes' names. `config.json` keeps the fingerprint
    of the weights that were quantised, so adapters move freely between the original and its 4-bit copy.

    Args:
        model: as `load_base_model(…, load_in_4bit=True)` returns it, without an adapter.
        tokenizer: its tokenizer.
        directory: an existing, empty directory.

    Raises:
        ValueError: the model is not in 4-bit, or has an adapter.
        OSError: the disk is full or not writable.
    """
    from huggingface_hub import save_torch_state_dict

    from bases.chatglm.anatomy import HEAD
    from bases.chatglm.linear4bit import QUANTIZATION_NOTE, check_quantization, split_weight
    from bases.chatglm.weights import digest, fingerprint

    if not getattr(model, "is_loaded_in_4bit", False) or hasattr(model, "peft_config"):
        raise ValueError("save_quantized needs a 4-bit model without an adapter")
    check_quantization(model)
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
    save_torch_state_dict(tensors, directory, max_shard_size=MAX_SHARD_BYTES)
    tokenizer.save_pretrained(directory)
    config = type(model.config).from_dict(model.config.to_dict())
    config.architectures = [type(model).__name__]
    config.quantization_config = QUANTIZATION_NOTE | {
        "bnb_4bit_compute_dtype": str(model.dtype).removeprefix("torch."),
        "base_fingerprint": model.base_fingerprint,
        "content_fingerprint": fingerprint({name: digest(tensor) for name, tensor in tensors.items()}),
    }
    config.save_pretrained(directory)
    for path in directory.glob("*.safetensors"):  # which the library makes readable for its owner alone
        shutil.copymode(directory / "config.json", path)


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = ChineseArgumentParser(
        prog="python -m export.quantized",
        description="把模型量化成 4-bit 并写成新目录。之后用 --pre_model 指定它，启动时只读约三分之一的字节，"
        "也不用再量化；在原模型上训练的适配器可以直接用，反之亦然。",
    )
    parser.add_argument("--pre_model", required=True, help="原来的（半精度）模型目录，或已在缓存里的名字")
    parser.add_argument("--output", required=True, type=Path, help="写到哪个目录；必须不存在或是空的")
    parser.add_argument(
        "--dtype",
        choices=("float16", "bfloat16"),
        default="float16",
        help="词嵌入、归一化层与偏置的类型，默认 float16（与公布的权重相同）；加载时可转成别的类型",
    )
    parser.add_argument("--device", help="在哪个设备上量化，例如 cpu、cuda:1；默认有 GPU 就用 GPU")
    return parser


def convert() -> None:
    """Parse the command line, quantise, write.

    Raises:
        UserError: the options, the model or the place to write to can't be used.
    """
    arguments = build_parser().parse_args()
    quiet_libraries()
    import torch

    from bases.chatglm import CheckpointError, load_base_model, load_config, resolve_model_dir
    from utils.device import check_device
    from utils.directories import write_directory

    output: Path = arguments.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} 已存在且不是空目录，请换一个 --output。")
    check_device(arguments.device)
    try:
        model_dir = resolve_model_dir(arguments.pre_model)
        if getattr(load_config(model_dir), "quantization_config", None):
            raise UserError(f"{model_dir} 已经是量化过的模型，请用 --pre_model 指定原来的半精度权重。")
        log(f"正在读取并量化 {model_dir} …")
        dtype = getattr(torch, arguments.dtype)
        model, tokenizer = load_base_model(model_dir, dtype=dtype, device=arguments.device)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise UserError(f"{arguments.device or 'GPU'} 的显存不足，可以改用 --device cpu。") from error
    log(f"正在写入 {output} …")
    try:
        write_directory(output, lambda new: save_quantized(model, tokenizer, new))
    except OSError as error:
        raise UserError(f"没有写成 {output}：{error.strerror or error}。") from error
    print(output)


def main() -> None:
    """Run the command; leaves the process with an exit code."""
    run_main(convert)


if __name__ == "__main__":
    main()
