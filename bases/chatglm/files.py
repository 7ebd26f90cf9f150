"""The small files of a ChatGLM directory (config, tokenizer, index), and which weight files it has.

Nothing here loads torch. Remote-code fields are ignored, and no file may lie outside the directory.
"""

from __future__ import annotations

from pathlib import Path

from bases.interface import CheckpointError
from bases.model_dir import checked_file, read_model_json
from utils.small_json import read_json_object

from .configuration import ChatGLMConfig
from .tokenization import ChatGLMTokenizer

_CHECKPOINT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


def load_config(model_dir: Path) -> ChatGLMConfig:
    """Read a directory's `config.json`.

    Raises:
        CheckpointError: it is missing, is not JSON, or is not the config of a ChatGLM (v1).
    """
    path = model_dir / "config.json"
    content = read_model_json(model_dir, path.name)
    try:
        if content.get("model_type") != ChatGLMConfig.model_type or "num_layers" not in content:
            raise ValueError(f"model_type 是 {content.get('model_type')!r}，不是 ChatGLM（v1）")
        return ChatGLMConfig.from_dict(content)
    except Exception as error:  # the config classes raise types of their own for wrong values
        reason = str(error.__cause__ or error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"无法使用 {path}：{reason}") from error


def load_tokenizer(model_dir: Path) -> ChatGLMTokenizer:
    """Read a directory's tokenizer.

    Raises:
        CheckpointError: its SentencePiece model is missing, damaged, or not one of a ChatGLM (v1).
    """
    path = checked_file(model_dir, ChatGLMTokenizer.vocab_files_names["vocab_file"])
    if not path.is_file():
        raise CheckpointError(f"模型目录 {model_dir} 缺少分词模型 {path.name}，请检查下载是否完整。")
    try:
        return ChatGLMTokenizer.from_pretrained(model_dir)
    except Exception as error:  # sentencepiece and transformers have no common type for damaged files
        raise CheckpointError(f"模型目录 {model_dir} 的分词器无法加载：{error}") from error


def load_config_and_tokenizer(model_dir: Path) -> tuple[ChatGLMConfig, ChatGLMTokenizer]:
    """Read both, and make sure that they go together.

    Raises:
        CheckpointError: see `load_config` and `load_tokenizer`; or their special ids differ.
    """
    config, tokenizer = load_config(model_dir), load_tokenizer(model_dir)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "gmask_token_id", "mask_token_id"):
        if getattr(tokenizer, name) != getattr(config, name):
            raise CheckpointError(
                f"{model_dir} 的分词器与模型不配套：{name} 在分词器中是 {getattr(tokenizer, name)}，"
                f"在 config.json 中是 {getattr(config, name)}。"
            )
    return config, tokenizer


def check_directory(model_dir: Path) -> None:
    """Make sure, without reading weights, that a directory has all of a ChatGLM (v1).

    Raises:
        CheckpointError: see `load_config_and_tokenizer` and `checkpoint_shards`.
    """
    load_config_and_tokenizer(model_dir)
    checkpoint_shards(model_dir)


def checkpoint_shards(model_dir: Path) -> list[Path]:
    """Return the weight files of a directory, safetensors before `.bin`, in the order of their names.

    Raises:
        CheckpointError: there is none, the index is damaged or names a file outside the directory, or a
            file that it names is missing.
    """
    for name in _CHECKPOINT_FILES:
        path = checked_file(model_dir, name)
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return [path]
        try:
            weight_map = read_json_object(path)["weight_map"]
            names = sorted(set(weight_map.values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"权重索引 {path} 已损坏，请重新下载。") from error
        for shard in names:
            if not checked_file(model_dir, str(shard)).is_file():
                raise CheckpointError(f"模型目录 {model_dir} 缺少权重文件 {shard}，请检查下载是否完整。")
        return [model_dir / shard for shard in names]
    raise CheckpointError(f"模型目录 {model_dir} 里没有权重文件（model.safetensors 或 pytorch_model.bin）。")


def largest_shard_bytes(model_dir: Path) -> int:
    """Return the size of a directory's largest weight file: on the CPU it is in memory while it is read.

    Raises:
        CheckpointError: see `checkpoint_shards`.
    """
    return max(shard.stat().st_size for shard in checkpoint_shards(model_dir))
