"""Checkpoint directory -> model: shard by shard, safetensors or `.bin`, in half precision or to 4-bit.

A directory that `export.quantized` wrote holds the 4-bit layers themselves; they are taken as they are.
Layers in the published int4 or int8 are dequantised one by one. Every tensor must be one the model knows,
with its shape.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from bases.four_bit_copy import check_copy, read_note, refuse_other_precision
from bases.hub_cache import resolve_model_dir
from bases.interface import CheckpointError
from bases.layers import assign, replace_linears
from bases.linear4bit import check_quantization, join_weight
from bases.weights import digest, fingerprint, read_shard

from . import row_scaled
from .anatomy import EMBEDDING, HEAD, LINEAR_LAYERS
from .blueprint import Blueprint
from .configuration import ChatGLMConfig
from .files import checkpoint_shards, load_config

logger = logging.getLogger(__name__)

_COMPARE_ROWS = 4096


def load_pretrained(
    cls: type,
    model_dir: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    load_in_4bit: bool = False,
    load_in_8bit: bool = False,
    quant_storage: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    config: ChatGLMConfig | None = None,
) -> Any:
    """Build a ChatGLM and fill it from a checkpoint directory, holding one shard beside the model at most.

    Args:
        cls: `ChatGLMForConditionalGeneration` or `ChatGLMModel`; the latter takes the same checkpoints.
        model_dir: a directory, or a hub name whose files are in the local cache.
        dtype: of everything that is not quantised, and of products.
        load_in_4bit, load_in_8bit, quant_storage: see `bases.layers.replace_linears`.
        device: where the model shall live; each tensor goes there as it is read.
        config: instead of the directory's `config.json`.

    Returns:
        The model in evaluation mode. Its `base_fingerprint` identifies the weights (see `fingerprint`).

    Raises:
        CheckpointError: the directory is missing or damaged; a tensor is unknown, missing or misshapen; a
            4-bit copy is wanted otherwise.
    """
    model_dir = resolve_model_dir(model_dir)
    config = config or load_config(model_dir)
    note = read_note(config, model_dir)
    if note and not load_in_4bit:
        refuse_other_precision(model_dir, load_in_8bit)
    shards = checkpoint_shards(model_dir)
    with torch.device("meta"):
        model: Any = cls(config)
    blueprint = Blueprint(model)
    blueprint.check(model_dir, shards)
    replace_linears(
        model,
        LINEAR_LAYERS,
        load_in_4bit=load_in_4bit,
        load_in_8bit=load_in_8bit,
        compute_dtype=dtype,
        quant_storage=quant_storage,
    )
    filling = _Filling(model, blueprint, dtype, device)
    for shard in shards:
        for name, tensor in read_shard(shard):
            filling.take(shard, name, tensor)
    filling.tie_head()
    if load_in_4bit:
        check_quantization(model, LINEAR_LAYERS)
    model.base_fingerprint = fingerprint(filling.digests)
    if note:
        check_copy(model_dir, note, filling.digests | filling.not_needed, shards)
        model.base_fingerprint = note["base_fingerprint"]
        del model.config.quantization_config
    model.config.quantization_bit, model.config.quantization_embeddings = 0, False  # in memory it isn't
    model.config.name_or_path = str(model_dir)
    return model.eval()


def check_weights(cls: type, model_dir: Path, config: ChatGLMConfig) -> None:
    """Make sure that a directory's weight files hold the tensors of a model, without reading one.

    Raises:
        CheckpointError: see `load_pretrained`.
    """
    read_note(config, model_dir)
    with torch.device("meta"):
        blueprint = Blueprint(cls(config))
    blueprint.check(model_dir, checkpoint_shards(model_dir))


class _Filling:
    """A model on the meta device that is filled tensor by tensor, in whatever order they come.

    Args:
        model: with or without its head; its linear layers replaced already if they shall be 4-bit.
        blueprint: of the model; the files have been compared with it.
        dtype: of what is not 4-bit, and what 4-bit weights shall be dequantised to.
        device: where the tensors shall live.

    Attributes:
        digests: of each tensor taken, by its name in the files.
        not_needed: the digest of a head that has no place in the model.
    """

    def __init__(
        self, model: Any, blueprint: Blueprint, dtype: torch.dtype, device: str | torch.device
    ) -> None:
        self.model, self.blueprint, self.dtype, self.device = model, blueprint, dtype, device
        self.digests: dict[str, str] = {}
        self.not_needed: dict[str, str] = {}
        self._pending: dict[str, dict[str, torch.Tensor]] = {}  # parts of weights that are not complete yet
        self._head_shard: Path | None = None

    def take(self, shard: Path, name: str, tensor: torch.Tensor) -> None:
        """Put a tensor of a file where it belongs.

        Raises:
            CheckpointError: it holds numbers that are not finite.
        """
        if name not in self.blueprint.expected:
            if name == HEAD:
                self._head_shard, self.not_needed = shard, {HEAD: digest(tensor)}
            return
        self.digests[name] = digest(tensor)
        if name not in self.blueprint.owners:
            self._assign(shard, name, tensor)
            return
        owner, shape = self.blueprint.owners[name]
        parts = self._pending.setdefault(owner, {})
        parts[name.removeprefix(owner)] = tensor
        if self.blueprint.stored_parts is None or len(parts) < len(self.blueprint.stored_parts(shape)):
            return
        del self._pending[owner]
        if self.blueprint.bits:
            self._assign(shard, owner, row_scaled.join_weight(parts, self.blueprint.bits))
            return
        module = self.model.get_submodule(owner.removeprefix(self.blueprint.prefix).rpartition(".")[0])
        try:
            module.weight = join_weight(parts, shape, module, self.dtype, self.device)
        except ValueError as error:
            raise CheckpointError(f"权重文件 {shard} 里的 {owner} 已损坏：{error}。") from error

    def tie_head(self) -> None:
        """Share embedding and head where they shall be one, once all files are read."""
        if EMBEDDING not in self.digests and self._head_shard is not None:  # the head is the one copy
            for name, tensor in read_shard(self._head_shard):
                if name == HEAD:
                    self.digests[EMBEDDING] = digest(tensor)
                    self._assign(self._head_shard, EMBEDDING, tensor)
            self._head_shard = None
        if self.model.config.tie_word_embeddings and hasattr(self.model, "lm_head"):
            if self._head_shard is not None:
                _warn_if_head_differs(self._head_shard, self.model.get_input_embeddings().weight)
            self.model.tie_weights()

    def _assign(self, shard: Path, name: str, tensor: torch.Tensor) -> None:
        own = name.removeprefix(self.blueprint.prefix)
        assign(self.model, own, tensor, shard, self.dtype, self.device)


def _warn_if_head_differs(shard: Path, embedding: torch.Tensor) -> None:
    """Compare the checkpoint's head with the embedding that will stand in for it, some rows at a time."""
    for name, tensor in read_shard(shard):
        if name != HEAD:
            continue
        if not tensor.is_floating_point():  # published in int4 or int8, as the embedding is
            return
        same = tensor.shape == embedding.shape and all(
            torch.equal(ours, theirs.to(ours))
            for ours, theirs in zip(embedding.split(_COMPARE_ROWS), tensor.split(_COMPARE_ROWS), strict=True)
        )
        if not same:
            logger.warning(
                "权重里的 lm_head 与词嵌入不同，但 config.json 未写 tie_word_embeddings: false，"
                "已按绑定方式加载（lm_head 使用词嵌入）。"
            )
