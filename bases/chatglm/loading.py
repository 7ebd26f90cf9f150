"""Checkpoint directory -> model: shard by shard, safetensors or `.bin`, in half precision or to 4-bit.

A directory that `export.quantized` wrote holds the 4-bit layers themselves; they are taken as they are.

Nothing of the directory is executed: pickles are read with weights-only loading, remote-code fields of the
config are ignored, and every tensor must be one the model knows, with its shape.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from utils.device import compute_dtype

from .configuration import ChatGLMConfig
from .linear4bit import (
    QUANTIZATION_NOTE,
    check_quantization,
    join_weight,
    quantize,
    replace_linear_4bit,
    stored_parts,
)
from .modeling import ChatGLMForConditionalGeneration, ChatGLMPreTrainedModel
from .tokenization import ChatGLMTokenizer

logger = logging.getLogger(__name__)

EMBEDDING, HEAD = "transformer.word_embeddings.weight", "lm_head.weight"
_IGNORED_TENSORS = re.compile(r"rotary_emb\.inv_freq$")
_CHECKPOINT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
_SAMPLE = 256  # elements from either end of a tensor that enter the fingerprint
_COMPARE_ROWS = 4096


class CheckpointError(ValueError):
    """A model directory that is missing, damaged or not a ChatGLM; the message is a Chinese sentence."""


def resolve_model_dir(pre_model: str | os.PathLike[str]) -> Path:
    """Return the directory of a model given by path or by hub name (from the local hub cache only).

    Raises:
        CheckpointError: neither exists on this machine; the message says how to get the model.
    """
    path = Path(pre_model)
    try:
        if path.is_dir():
            return path
    except OSError as error:
        shown = str(path) if len(str(path)) <= 60 else str(path)[:60] + "…"
        raise CheckpointError(f"模型路径 {shown} 不能用（{error.strerror}），请检查路径和权限。") from error
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(pre_model), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError) as error:
        raise CheckpointError(
            f"找不到模型“{pre_model}”：它不是本机目录，也不在 Hugging Face 缓存里。"
            "请先下载（例如 hf download THUDM/chatglm-6b --local-dir chatglm-6b），"
            "再用 --pre_model 指定该目录；没有权重时可用内置小模型试跑：--pre_model models/chatglm-tiny。"
        ) from error


def checked_file(model_dir: Path, name: str) -> Path:
    """Return a file of a model directory, made sure that it really lies there.

    (Files of the hub's cache are links to its `blobs` folder, two levels up; those are allowed.)

    Raises:
        CheckpointError: the name or a link leads elsewhere.
    """
    path, home = (model_dir / name).resolve(), model_dir.resolve()
    places = [home]
    if home.parent.name == "snapshots":
        places.append(home.parent.parent / "blobs")
    if Path(name).name != name or not any(path.is_relative_to(place) for place in places):
        raise CheckpointError(f"模型目录 {model_dir} 里的“{name}”指向目录之外的文件，拒绝加载。")
    return model_dir / name


def load_config(model_dir: Path) -> ChatGLMConfig:
    """Read a directory's `config.json`.

    Raises:
        CheckpointError: it is missing, is not JSON, or is not the config of a ChatGLM (v1).
    """
    path = checked_file(model_dir, "config.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("不是 JSON 对象")
        if content.get("model_type") != ChatGLMConfig.model_type or "num_layers" not in content:
            raise ValueError(f"model_type 是 {content.get('model_type')!r}，不是 ChatGLM（v1）")
        return ChatGLMConfig.from_dict(content)
    except OSError as error:
        raise CheckpointError(
            f"模型目录 {model_dir} 里没有可读的 config.json，请检查下载是否完整。"
        ) from error
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
            weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
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


def read_shard(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the (name, tensor) pairs of one weight file, memory-mapped where the format allows it.

    Raises:
        CheckpointError: the file is damaged, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt", device="cpu") as shard:
                for name in shard.keys():  # noqa: SIM118 (a safetensors handle is no dict)
                    yield name, shard.get_tensor(name)
            return
        # Files written by torch < 1.6 are no zip archives and can't be memory-mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except SafetensorError as error:
        raise CheckpointError(f"权重文件 {path} 已损坏（{error}），请重新下载。") from error
    except PermissionError as error:
        raise CheckpointError(f"读不了权重文件 {path}（{error.strerror}），请检查权限。") from error
    except MemoryError:
        raise
    except Exception as error:  # weights-only loading has no exception type of its own for refusals
        raise CheckpointError(f"权重文件 {path} 已损坏，或含有张量以外的内容，拒绝加载。") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"权重文件 {path} 含有张量以外的内容，拒绝加载。")
    for name in list(state):
        yield name, state.pop(name)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def load_pretrained(
    cls: type[ChatGLMPreTrainedModel],
    model_dir: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    load_in_4bit: bool = False,
    quant_storage: torch.dtype = torch.uint8,
    device: str | torch.device = "cpu",
    config: ChatGLMConfig | None = None,
) -> ChatGLMPreTrainedModel:
    """Build a ChatGLM and fill it from a checkpoint directory, holding one shard beside the model at most.

    Args:
        cls: `ChatGLMForConditionalGeneration` or `ChatGLMModel`; the latter takes the same checkpoints.
        model_dir: a directory, or a hub name whose files are in the local cache.
        dtype: of everything that is not 4-bit; with `load_in_4bit` also the compute type.
        load_in_4bit: NF4 with double quantisation for the blocks' linear layers.
        quant_storage: the type that their packed bytes are declared as.
        device: where the model shall live; each tensor goes there as it is read.
        config: instead of the directory's `config.json`.

    Returns:
        The model in evaluation mode. Its `base_fingerprint` identifies the weights (see `fingerprint`).

    Raises:
        CheckpointError: see the functions above; also for unknown, missing or misshapen tensors, and for
            a 4-bit copy that is wanted otherwise.
    """
    model_dir = resolve_model_dir(model_dir)
    config = config or load_config(model_dir)
    note = _quantization_note(config, model_dir)
    if note and not load_in_4bit:
        raise CheckpointError(
            f"{model_dir} 是 4-bit 量化副本，不能按半精度加载；"
            "请打开 load_in_4bit，或改用原来的半精度权重目录。"
        )
    shards = checkpoint_shards(model_dir)
    with torch.device("meta"):
        model = cls(config)
    if load_in_4bit:
        replace_linear_4bit(model, compute_dtype=dtype, quant_storage=quant_storage)
    prefix = "" if hasattr(model, "lm_head") else "transformer."
    tied = config.tie_word_embeddings
    expected, owners = _expected_tensors(model, prefix, quantized=note is not None)
    if tied:
        expected.pop(HEAD, None)

    digests: dict[str, str] = {}
    not_needed: dict[str, str] = {}  # the digest of a head that has no place in the model
    pending: dict[str, dict[str, torch.Tensor]] = {}  # parts of 4-bit weights that are not complete yet
    head_shard = None
    for shard in shards:
        for name, tensor in read_shard(shard):
            if name == HEAD and HEAD not in expected:
                head_shard, not_needed = shard, {HEAD: digest(tensor)}
                continue
            if _IGNORED_TENSORS.search(name):
                continue
            if name not in expected:
                raise CheckpointError(f"权重文件 {shard} 里的 {name} 不属于 ChatGLM（v1），拒绝加载。")
            _check_tensor(shard, name, tensor, *expected[name])
            digests[name] = digest(tensor)
            if name not in owners:
                _assign(model, name.removeprefix(prefix), tensor, dtype, device)
                continue
            owner, shape = owners[name]
            parts = pending.setdefault(owner, {})
            parts[name.removeprefix(owner)] = tensor
            if len(parts) == len(stored_parts(shape)):
                module = model.get_submodule(owner.removeprefix(prefix).rpartition(".")[0])
                try:
                    module.weight = join_weight(pending.pop(owner), shape, module, dtype, device)
                except ValueError as error:
                    raise CheckpointError(f"权重文件 {shard} 里的 {owner} 已损坏：{error}。") from error
    missing = sorted(expected.keys() - digests.keys())
    if missing == [EMBEDDING] and head_shard is not None:  # saved with the head as the one copy
        for name, tensor in read_shard(head_shard):
            if name == HEAD:
                _check_tensor(head_shard, name, tensor, *expected[EMBEDDING])
                digests[EMBEDDING] = digest(tensor)
                _assign(model, EMBEDDING.removeprefix(prefix), tensor, dtype, device)
        missing, head_shard = [], None
    if missing:
        raise CheckpointError(f"模型目录 {model_dir} 的权重缺少 {len(missing)} 个参数，例如 {missing[0]}。")
    if tied and hasattr(model, "lm_head"):
        if head_shard is not None:
            _warn_if_head_differs(head_shard, model.get_input_embeddings().weight)
        model.tie_weights()
    if load_in_4bit:
        check_quantization(model)
    model.base_fingerprint = fingerprint(digests)
    if note:
        if fingerprint(digests | not_needed) != note["content_fingerprint"]:
            raise CheckpointError(
                f"{model_dir} 的权重与量化时写下的不同，文件可能已损坏或被换过；"
                "请重新运行 python -m export.quantized。"
            )
        model.base_fingerprint = note["base_fingerprint"]
        del model.config.quantization_config
    model.config.name_or_path = str(model_dir)
    return model.eval()


def _quantization_note(config: ChatGLMConfig, model_dir: Path) -> dict[str, Any] | None:
    """Return what the config says of a 4-bit copy; None for weights that are not quantised.

    Raises:
        CheckpointError: it is quantised in another way than `export.quantized` does.
    """
    note = getattr(config, "quantization_config", None)
    if note is None:
        return None
    fingerprints = ("base_fingerprint", "content_fingerprint")
    if (
        not isinstance(note, dict)
        or {key: note.get(key) for key in QUANTIZATION_NOTE} != QUANTIZATION_NOTE
        or not all(isinstance(note.get(key), str) for key in fingerprints)
    ):
        raise CheckpointError(
            f"{model_dir} 的 config.json 里的 quantization_config 不是本项目写的 4-bit 量化；"
            "请用原来的半精度权重，或用 python -m export.quantized 重新量化。"
        )
    return note


def _expected_tensors(
    model: nn.Module, prefix: str, quantized: bool
) -> tuple[dict[str, tuple[torch.dtype | None, tuple[int, ...] | None]], dict[str, tuple[str, torch.Size]]]:
    """Say which tensors the files must hold.

    Returns:
        By name in the files: type (None: any floating type) and shape (None: one dimension of any length);
        and for the parts of a 4-bit weight: the weight's name and shape.
    """
    expected: dict[str, tuple[torch.dtype | None, tuple[int, ...] | None]] = {}
    owners: dict[str, tuple[str, torch.Size]] = {}
    for name, parameter in model.named_parameters():
        name = prefix + name
        if quantized and hasattr(parameter, "quant_state"):
            for suffix, kind in stored_parts(parameter.shape).items():
                expected[name + suffix] = kind
                owners[name + suffix] = (name, parameter.shape)
        else:
            expected[name] = (None, tuple(parameter.shape))
    return expected, owners


def _check_tensor(
    shard: Path, name: str, tensor: torch.Tensor, dtype: torch.dtype | None, shape: tuple[int, ...] | None
) -> None:
    """Compare a tensor's type and shape with those of `_expected_tensors`.

    Raises:
        CheckpointError: they differ.
    """
    right_type = tensor.is_floating_point() if dtype is None else tensor.dtype == dtype
    right_shape = tensor.dim() == 1 if shape is None else tuple(tensor.shape) == shape
    if not right_type or not right_shape:
        raise CheckpointError(
            f"权重文件 {shard} 里的 {name} 是 {tensor.dtype} {tuple(tensor.shape)}，"
            f"而 config.json 要求{dtype or '浮点数'} {shape or '一维'}。"
        )


def _assign(
    model: nn.Module, name: str, tensor: torch.Tensor, dtype: torch.dtype, device: str | torch.device
) -> None:
    """Replace the meta parameter `name` by the tensor, cast and moved, or quantised on the device."""
    module_name, _, attribute = name.rpartition(".")
    module = model.get_submodule(module_name)
    if hasattr(getattr(module, attribute), "quant_state"):  # the empty weight of a Linear4bit
        parameter: nn.Parameter = quantize(tensor.to(dtype), module, device)
    else:
        # A copy, so that no parameter keeps a whole memory-mapped shard alive.
        parameter = nn.Parameter(tensor.to(device, dtype, copy=True), requires_grad=True)
    setattr(module, attribute, parameter)


def _warn_if_head_differs(shard: Path, embedding: torch.Tensor) -> None:
    """Compare the checkpoint's head with the embedding that will stand in for it, some rows at a time."""
    for name, tensor in read_shard(shard):
        if name != HEAD:
            continue
        same = tensor.shape == embedding.shape and all(
            torch.equal(ours, theirs.to(ours))
            for ours, theirs in zip(embedding.split(_COMPARE_ROWS), tensor.split(_COMPARE_ROWS), strict=True)
        )
        if not same:
            logger.warning(
                "权重里的 lm_head 与词嵌入不同，但 config.json 未写 tie_word_embeddings: false，"
                "已按绑定方式加载（lm_head 使用词嵌入）。"
            )


def digest(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor's shape and outermost elements (as fp32, whatever the file's type)."""
    flat = tensor.reshape(-1)
    sample = torch.cat([flat[:_SAMPLE], flat[-_SAMPLE:]]).float().cpu().numpy().tobytes()
    return hashlib.sha256(str(tuple(tensor.shape)).encode() + sample).hexdigest()


def fingerprint(digests: dict[str, str]) -> str:
    """Return one name for a set of weights, independent of their files' format and sharding."""
    return hashlib.sha256("".join(f"{k}{digests[k]}" for k in sorted(digests)).encode()).hexdigest()


def load_base_model(
    pre_model: str | os.PathLike[str],
    *,
    load_in_4bit: bool = True,
    quant_storage: torch.dtype = torch.uint8,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> tuple[ChatGLMForConditionalGeneration, ChatGLMTokenizer]:
    """Load what every command starts from: the model with its head, and its tokenizer.

    Args:
        pre_model: a directory, or a hub name whose files are in the local cache.
        load_in_4bit: NF4 for the blocks' linear layers.
        quant_storage: the type that their packed bytes are declared as; see `replace_linear_4bit`.
        dtype: of the rest; `compute_dtype(device)` when None.
        device: CUDA where there is one, else the CPU, when None.

    Raises:
        CheckpointError: the directory is missing, damaged, or not a ChatGLM; or the tokenizer's special ids
            are not those of the config.
    """
    model_dir = resolve_model_dir(pre_model)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(model_dir)
    config = load_config(model_dir)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "gmask_token_id", "mask_token_id"):
        if getattr(tokenizer, name) != getattr(config, name):
            raise CheckpointError(
                f"{model_dir} 的分词器与模型不配套：{name} 在分词器中是 {getattr(tokenizer, name)}，"
                f"在 config.json 中是 {getattr(config, name)}。"
            )
    model = load_pretrained(
        ChatGLMForConditionalGeneration,
        model_dir,
        dtype=dtype or compute_dtype(device),
        load_in_4bit=load_in_4bit,
        quant_storage=quant_storage,
        device=device,
        config=config,
    )
    return model, tokenizer
