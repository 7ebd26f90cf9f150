"""Write random weights in the shape of the published ChatGLM-6B: names, shapes, shards, type, 13.4 GB.

Usage: python -m benchmarks.make_full_size_checkpoint DIR [--tokenizer chatglm-6b]

With it the whole way from the published files (loading, 4-bit, training, extraction) can be rehearsed without
them: `python train.py --pre_model DIR …`. One shard at a time is in memory, 2 GB at most.
"""

from __future__ import annotations

import json
import math
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch

from bases.chatglm import (
    ChatGLMConfig,
    ChatGLMForConditionalGeneration,
    ChatGLMTokenizer,
    CheckpointError,
    load_tokenizer,
)
from bases.chatglm.anatomy import EMBEDDING, HEAD
from training.checks import nearest_directory
from utils.command_line import ChineseArgumentParser, positive_int
from utils.common_utils import UserError, log, run_main
from utils.directories import check_is_free

ROOT = Path(__file__).resolve().parent.parent

EMBEDDED_TOKENIZER = ROOT / "models" / "chatglm-tiny"
MAX_SHARD_BYTES = 2_000_000_000
# The published shards were cut when the vocabulary had ids for images, and kept when those rows were removed.
IMAGE_TOKENS = 20_000
STD = 0.02
# Weights are cut from one block of noise: drawing each of 6.7 billion would take half an hour. Its length is
# a prime, so no two rows of a matrix are equal.
NOISE_LENGTH = 16_777_213
PUBLISHED_CONFIG = {
    "_name_or_path": "THUDM/chatglm-6b",
    "architectures": ["ChatGLMModel"],
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
        "AutoModelForSeq2SeqLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    },
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "mask_token_id": 130000,
    "gmask_token_id": 130001,
    "pad_token_id": 3,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "layernorm_epsilon": 1e-05,
    "max_sequence_length": 2048,
    "model_type": "chatglm",
    "num_attention_heads": 32,
    "num_layers": 28,
    "position_encoding_2d": True,
    "torch_dtype": "float16",
    "transformers_version": "4.23.1",
    "use_cache": True,
    "vocab_size": 130528,
}


def published_shapes(config: ChatGLMConfig) -> dict[str, torch.Size]:
    """Return shape by name, in the order of the published files: the model's own, and the rotary tables."""
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(config)
    shapes = {}
    for name, parameter in model.state_dict().items():
        if name.endswith("attention.query_key_value.weight"):
            rotary = name.replace("query_key_value.weight", "rotary_emb.inv_freq")
            shapes[rotary] = torch.Size([config.hidden_size // config.num_attention_heads // 4])
        if name != HEAD:
            shapes[name] = parameter.shape
    return shapes | {HEAD: shapes[EMBEDDING]}


def cut_shards(shapes: dict[str, torch.Size]) -> list[list[str]]:
    """Distribute names over shards as the published files do: in order, each filled up to 2 GB."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        images = IMAGE_TOKENS * shape[1] if name in (EMBEDDING, HEAD) else 0
        tensor_bytes = 2 * (shape.numel() + images)
        if shards[-1] and size + tensor_bytes > MAX_SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor_bytes
    return shards


def make_tensor(name: str, shape: torch.Size, noise: torch.Tensor) -> torch.Tensor:
    """Make one fp16 tensor: biases 0, norms 1, matrices out of the noise at a place that the name decides."""
    if name.endswith("inv_freq"):
        return (10000.0 ** -(torch.arange(shape[0]) / shape[0])).half()
    if len(shape) == 1:
        return torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)
    start = zlib.crc32(name.replace(HEAD, EMBEDDING).encode()) % len(noise)
    flat = torch.empty(shape.numel(), dtype=torch.float16)
    done = 0
    while done < len(flat):
        piece = noise[start : start + len(flat) - done]
        flat[done : done + len(piece)] = piece
        done, start = done + len(piece), 0
    return flat.view(shape)


def write_checkpoint(directory: Path, config: dict, tokenizer: ChatGLMTokenizer, seed: int) -> Iterator[Path]:
    """Write config, tokenizer and shards into an empty directory; the index last, so half a one won't load.

    Yields:
        Each weight file when it is written.
    """
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    source = Path(tokenizer.vocab_file).parent
    for name in (ChatGLMTokenizer.vocab_files_names["vocab_file"], "tokenizer_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
    shapes = published_shapes(ChatGLMConfig.from_dict(config))
    noise = torch.randn(NOISE_LENGTH, generator=torch.Generator().manual_seed(seed)).mul_(STD).half()
    shards = cut_shards(shapes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        path = directory / f"pytorch_model-{number:05d}-of-{len(shards):05d}.bin"
        torch.save({name: make_tensor(name, shapes[name], noise) for name in names}, path)
        weight_map |= dict.fromkeys(names, path.name)
        yield path
    index = {"metadata": {"total_size": weight_bytes(shapes)}, "weight_map": dict(sorted(weight_map.items()))}
    path = directory / "pytorch_model.bin.index.json"
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def weight_bytes(shapes: dict[str, torch.Size]) -> int:
    """Return the bytes of all tensors."""
    return sum(2 * math.prod(shape) for shape in shapes.values())


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, check, write; the directory is printed."""
    parser = ChineseArgumentParser(
        description="按 ChatGLM-6B 公布的形状写一份随机权重（13.4 GB），用来演练全流程"
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="写到哪个目录；必须不存在或是空的")
    parser.add_argument(
        "--tokenizer", type=Path, default=EMBEDDED_TOKENIZER, help="分词器目录，默认用内置小模型的"
    )
    parser.add_argument("--layers", type=positive_int, default=28, help="层数，默认 28（与公布的相同）")
    parser.add_argument(
        "--vocab_size", type=positive_int, default=130528, help="词表大小，默认 130528（与公布的相同）"
    )
    parser.add_argument("--seed", type=int, default=0, help="随机种子")
    args = parser.parse_args(argv)

    directory: Path = args.directory
    check_is_free(directory, "请换一个")
    tokenizer = load_tokenizer(args.tokenizer)
    if tokenizer.vocab_size > args.vocab_size:
        raise UserError(f"--vocab_size 至少要是分词器的 {tokenizer.vocab_size}。")
    ids = ("bos_token_id", "eos_token_id", "mask_token_id", "gmask_token_id", "pad_token_id")
    config = PUBLISHED_CONFIG | {"num_layers": args.layers, "vocab_size": args.vocab_size}
    config |= {name: getattr(tokenizer, name) for name in ids}
    need = weight_bytes(published_shapes(ChatGLMConfig.from_dict(config)))
    free = shutil.disk_usage(nearest_directory(directory)).free
    if free < need * 1.01:
        raise UserError(
            f"{directory} 所在的磁盘只剩 {free / 1e9:.1f} GB，需要 {need / 1e9:.1f} GB，请换一个目录。"
        )
    directory.mkdir(parents=True, exist_ok=True)
    for path in write_checkpoint(directory, config, tokenizer, args.seed):
        log(f"已写 {path.name}（{path.stat().st_size / 1e9:.2f} GB）")
    print(directory)


if __name__ == "__main__":
    run_main(main, (CheckpointError,))
