"""The small files of a ChatGLM directory (config, tokenizer, index), and which weight files it has.

Nothing here loads torch. Remote-code fields are ignored, and no file may lie outside the directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bases.interface import CheckpointError
from bases.model_dir import checked_file, read_model_json, refuse_lfs_pointer
from utils.common_utils import is_encodable
from utils.small_json import read_json_object

from .configuration import ChatGLMConfig
from .tokenization import CONTROL_PIECES, ChatGLMTokenizer

TOKENIZER_CONFIG = "tokenizer_config.json"
MAX_IMAGE_TOKENS = 100_000
# Where [MASK] and [gMASK] stand before <sop>, in every release.
_MASK_BEFORE_SOP, _GMASK_BEFORE_SOP = 4, 3
_ID_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id", "gmask_token_id", "mask_token_id")
_TOKEN_FIELDS = (
    *("bos_token", "eos_token", "end_token", "mask_token"),
    *("gmask_token", "pad_token", "unk_token"),
)
_TEXT_END = "</s>"
_FIRST_NAMES = {"sop": "<sop>", "eop": "<eop>", "eos": _TEXT_END}  # as the first release wrote them
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
    if content.get("model_type") != ChatGLMConfig.model_type or "num_layers" not in content:
        shown = repr(content.get("model_type"))[:60]
        raise CheckpointError(f"无法使用 {path}：model_type 是 {shown}，不是 ChatGLM（v1）")
    if isinstance(bos := content.get("bos_token_id"), int):  # the first release's code had these two
        content = {
            "mask_token_id": bos - _MASK_BEFORE_SOP,
            "gmask_token_id": bos - _GMASK_BEFORE_SOP,
        } | content
    try:
        return ChatGLMConfig.from_file(content)
    except Exception as error:  # the config classes raise types of their own for wrong values
        lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"无法使用 {path}：{lines[-1].strip()}") from error


def load_tokenizer(model_dir: Path) -> ChatGLMTokenizer:
    """Read a directory's tokenizer: `ice_text.model`, and the known fields of `tokenizer_config.json`.

    Raises:
        CheckpointError: its SentencePiece model is missing, damaged, or not one of a ChatGLM (v1); or a
            field is not what it may be.
    """
    path = checked_file(model_dir, ChatGLMTokenizer.vocab_files_names["vocab_file"])
    if not path.is_file():
        raise CheckpointError(f"模型目录 {model_dir} 缺少分词模型 {path.name}，请检查下载是否完整。")
    refuse_lfs_pointer(path)
    fields = _tokenizer_fields(model_dir)
    try:
        return ChatGLMTokenizer(str(path), name_or_path=str(model_dir), **fields)
    except Exception as error:  # sentencepiece and transformers have no common type for damaged files
        raise CheckpointError(f"模型目录 {model_dir} 的分词器无法加载：{error}") from error


def _tokenizer_fields(model_dir: Path) -> dict[str, Any]:
    """Read the fields of `tokenizer_config.json` that are used; others (added tokens, code) are ignored.

    Raises:
        CheckpointError: the file is damaged, or a field is not what it may be.
    """
    path = model_dir / TOKENIZER_CONFIG
    if not path.is_symlink() and not path.exists():
        return {}
    content = read_model_json(model_dir, path.name)
    further = content.get("model_specific_special_tokens")
    if isinstance(further, dict):
        content = further | content
    fields: dict[str, Any] = {}
    for name in _TOKEN_FIELDS:
        token = content.get(name)
        if isinstance(token, dict):  # as older versions of transformers write it
            token = token.get("content")
        if token is None:
            continue
        token = _FIRST_NAMES.get(token, token) if isinstance(token, str) else token
        if token not in (*CONTROL_PIECES, "<unk>"):
            raise CheckpointError(f"无法使用 {path}：{name} 是 {repr(token)[:60]}，不是 ChatGLM 的控制符。")
        fields[name] = token
    if fields.get("eos_token") == _TEXT_END:  # the first release called what ends an answer `eop_token`
        fields |= {"eos_token": "<eop>", "end_token": _TEXT_END}
    for name in ("do_lower_case", "remove_space"):
        if name in content:
            if not isinstance(content[name], bool):
                raise CheckpointError(f"无法使用 {path}：{name} 应当是 true 或 false。")
            fields[name] = content[name]
    if "num_image_tokens" in content:
        count = content["num_image_tokens"]
        if type(count) is not int or not 0 <= count <= MAX_IMAGE_TOKENS:
            shown = repr(count)[:60]
            raise CheckpointError(
                f"无法使用 {path}：num_image_tokens 应当是 0 到 {MAX_IMAGE_TOKENS} 的整数，现在是 {shown}。"
            )
        fields["num_image_tokens"] = count
    return fields


def load_config_and_tokenizer(model_dir: Path) -> tuple[ChatGLMConfig, ChatGLMTokenizer]:
    """Read both, and make sure that they go together.

    Raises:
        CheckpointError: see `load_config` and `load_tokenizer`; or their special ids differ.
    """
    config, tokenizer = load_config(model_dir), load_tokenizer(model_dir)
    differing = [name for name in _ID_FIELDS if getattr(tokenizer, name) != getattr(config, name)]
    if differing and tokenizer.num_image_tokens and "num_image_tokens" not in _tokenizer_fields(model_dir):
        raise CheckpointError(
            f"{model_dir / TOKENIZER_CONFIG} 里没有 num_image_tokens，只能当作最早的版本"
            f'（20000 个图像词元），这与 config.json 不符；请在里面加上 "num_image_tokens": 0，'
            "或重新下载这个文件。"
        )
    for name in differing:
        raise CheckpointError(
            f"{model_dir} 的分词器与模型不配套：{name} 在分词器中是 {getattr(tokenizer, name)}，"
            f"在 config.json 中是 {getattr(config, name)}。"
        )
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(
            f"{model_dir} 的分词器与模型不配套：分词器有 {len(tokenizer)} 个词片，"
            f"config.json 的 vocab_size 只有 {config.vocab_size}。"
        )
    return config, tokenizer


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
        names = _shard_names(path) if name.endswith(".index.json") else [name]
        for shard in names:
            if not checked_file(model_dir, shard).is_file():
                raise CheckpointError(f"模型目录 {model_dir} 缺少权重文件 {shard}，请检查下载是否完整。")
            refuse_lfs_pointer(model_dir / shard)
        return [model_dir / shard for shard in names]
    raise CheckpointError(f"模型目录 {model_dir} 里没有权重文件（model.safetensors 或 pytorch_model.bin）。")


def _shard_names(index: Path) -> list[str]:
    """Return the names of the weight files that an index lists, in order.

    Raises:
        CheckpointError: the index is damaged.
    """
    refuse_lfs_pointer(index)
    try:
        names = sorted(set(read_json_object(index)["weight_map"].values()))
        if not all(_is_file_name(name) for name in names):
            raise ValueError("文件名不合法")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"权重索引 {index} 已损坏，请重新下载。") from error
    return names


def _is_file_name(name: Any) -> bool:
    """Tell whether a string can be a file's name at all (elsewhere it may still lead)."""
    return isinstance(name, str) and 0 < len(name) <= 255 and name.isprintable() and is_encodable(name)
