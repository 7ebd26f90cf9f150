"""Which tensors a checkpoint's files must hold, compared with what they do before a number is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from bases import linear4bit
from bases.interface import CheckpointError
from bases.weights import FLOATING, list_tensors

from . import row_scaled
from .anatomy import EMBEDDING, HEAD, PREFIX, is_linear_layer

IGNORED_TENSORS = re.compile(r"rotary_emb\.inv_freq$")
SHOWN_CHARACTERS = 120  # of a name
_HEAD_PARTS = (HEAD, HEAD + row_scaled.SCALE_SUFFIX)


class PartsOf(Protocol):
    """Says what a weight [out, in] is stored as: type and shape by suffix of its name."""

    def __call__(
        self, shape: torch.Size
    ) -> Mapping[str, tuple[torch.dtype | None, tuple[int, ...] | None]]: ...


class Blueprint:
    """The tensors of a model, by their names in files.

    Args:
        model: with or without its head, on the meta device, its linear layers as they are built. Its config
            says how the files hold their weights: as they are, in 4-bit (`quantization_config`), or in the
            published int4 or int8 (`quantization_bit`).

    Attributes:
        prefix: what the model's own names lack: a model without head is a part of one with it.
        expected: type (None: any floating one) and shape (None: one dimension of any length).
        owners: for the parts of a quantised weight: the weight's name and shape.
        stored_parts: what a quantised weight is stored as; None if none is.
        bits: of the published layout; 0 in any other.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        self.prefix = "" if hasattr(model, "lm_head") else "transformer."
        self.bits: int = config.quantization_bit
        self.stored_parts: PartsOf | None = None
        if getattr(config, "quantization_config", None) is not None:
            self.stored_parts = linear4bit.stored_parts
        elif self.bits:
            self.stored_parts = partial(row_scaled.stored_parts, bits=self.bits)
        self.expected: dict[str, tuple[torch.dtype | None, tuple[int, ...] | None]] = {}
        self.owners: dict[str, tuple[str, torch.Size]] = {}
        ends = {EMBEDDING, HEAD} if self.bits and config.quantization_embeddings else set()
        for name, parameter in model.named_parameters():
            name = self.prefix + name
            module, _, attribute = name.rpartition(".")
            is_quantized = (attribute == "weight" and is_linear_layer(module)) or name in ends
            if name == HEAD and config.tie_word_embeddings:
                continue
            if self.stored_parts is not None and is_quantized:
                for suffix, kind in self.stored_parts(parameter.shape).items():
                    self.expected[name + suffix] = kind
                    self.owners[name + suffix] = (name, parameter.shape)
            else:
                self.expected[name] = (None, tuple(parameter.shape))

    def check(self, model_dir: Path, shards: list[Path]) -> None:
        """Make sure that the files hold exactly these tensors, without reading one.

        (The head alone may stand for a tied embedding; one that the model has no place for is passed over.)

        Raises:
            CheckpointError: a file is damaged; a tensor is unknown, missing, or of another type or shape.
        """
        contents = [(shard, list_tensors(shard)) for shard in shards]
        found = {name for _, notes in contents for name in notes}
        if found and all(name.startswith(PREFIX) for name in found):
            raise CheckpointError(
                f"模型目录 {model_dir} 里只有 P-Tuning v2 的前缀（{min(found)}），没有基座的权重；"
                f"请先把两者合成一个目录：python -m export.merge --adapter {model_dir} "
                "--pre_model 基座目录 --output 新目录。"
            )
        missing = self.expected.keys() - found
        for shard, notes in contents:
            for name, (dtype, shape) in notes.items():
                if name in self.expected:
                    self._check_tensor(shard, name, dtype, shape, name)
                elif name == HEAD and EMBEDDING in missing:
                    self._check_tensor(shard, name, dtype, shape, EMBEDDING)
                    missing = missing - {EMBEDDING}
                elif name not in _HEAD_PARTS and not IGNORED_TENSORS.search(name):
                    raise CheckpointError(_unknown(shard, name))
        if missing:
            raise CheckpointError(
                f"模型目录 {model_dir} 的权重缺少 {len(missing)} 个参数，例如 {min(missing)}。"
            )

    def _check_tensor(
        self, shard: Path, name: str, dtype: torch.dtype | str, shape: tuple[int, ...], stands_for: str
    ) -> None:
        wanted_dtype, wanted_shape = self.expected[stands_for]
        if wanted_dtype is None and wanted_shape is not None and dtype in (torch.int8, torch.uint8):
            raise CheckpointError(_quantized_elsewhere(shard, name))
        right_type = dtype in FLOATING if wanted_dtype is None else dtype == wanted_dtype
        right_shape = len(shape) == 1 if wanted_shape is None else shape == wanted_shape
        if not right_type or not right_shape:
            raise CheckpointError(
                f"权重文件 {shard} 里的 {name} 是 {dtype} {shape}，"
                f"而 config.json 要求{wanted_dtype or '浮点数'} {wanted_shape or '一维'}。"
            )


def _unknown(shard: Path, name: str) -> str:
    """Say what a tensor is that the model has no place for."""
    name = name if len(name) <= SHOWN_CHARACTERS else name[:SHOWN_CHARACTERS] + "…"
    if name.endswith("weight_scale"):
        return _quantized_elsewhere(shard, name)
    if name.startswith(PREFIX):
        return (
            f"权重文件 {shard} 里的 {name} 是 P-Tuning v2 的前缀，而 config.json 没有写它的长度 pre_seq_len；"
            "请用与它一起保存的 config.json。"
        )
    if "lora_" in name:
        return (
            f"权重文件 {shard} 里有 LoRA 适配器的权重（{name}）：这是适配器，或带着适配器一起保存的模型；"
            "请用原来的 fp16 基座（hf download THUDM/chatglm-6b），适配器用 --adapter 指定。"
        )
    return f"权重文件 {shard} 里的 {name} 不属于 ChatGLM（v1），拒绝加载。"


def _quantized_elsewhere(shard: Path, name: str) -> str:
    return (
        f"权重文件 {shard} 里是 int4 或 int8 量化过的权重（{name}），而 config.json 说没有量化："
        "请用与这些权重一起公布的 config.json（其中有 quantization_bit），或改用原始的 fp16 权重。"
    )
