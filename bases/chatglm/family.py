"""ChatGLM's answers to `bases.interface.Family`, each from the file that knows it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bases.hub_cache import resolve_model_dir
from bases.interface import Family, ModelShape, Sample, StoredWeights
from bases.model_dir import checked_file
from utils.device import compute_dtype, default_device

from . import anatomy, layout
from .configuration import ChatGLMConfig
from .files import checkpoint_shards, load_config, load_config_and_tokenizer, load_tokenizer
from .loading import check_weights, load_pretrained
from .modeling import ChatGLMForConditionalGeneration, checkpoint_layers
from .stored import ChatGLMWeights
from .tokenization import ChatGLMTokenizer


class ChatGLMFamily(Family):
    """ChatGLM-6B (v1) and smaller models of its architecture."""

    model_type = ChatGLMConfig.model_type
    takes_flat_passes = True

    def check_directory(self, model_dir: Path) -> None:
        config, _ = load_config_and_tokenizer(model_dir)
        check_weights(ChatGLMForConditionalGeneration, model_dir, config)

    def load_config(self, model_dir: Path) -> ChatGLMConfig:
        return load_config(model_dir)

    def load_tokenizer(self, model_dir: Path) -> ChatGLMTokenizer:
        return load_tokenizer(model_dir)

    def tokenizer_file(self, model_dir: Path) -> Path:
        return checked_file(model_dir, ChatGLMTokenizer.vocab_files_names["vocab_file"])

    def weight_files(self, model_dir: Path) -> list[Path]:
        return checkpoint_shards(model_dir)

    def stored_weights(self, model_dir: Path) -> StoredWeights:
        return ChatGLMWeights(model_dir)

    def load(
        self,
        pre_model: str | os.PathLike[str],
        *,
        load_in_4bit: bool = True,
        load_in_8bit: bool = False,
        quant_storage: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> tuple[ChatGLMForConditionalGeneration, ChatGLMTokenizer]:
        model_dir, device = resolve_model_dir(pre_model), device or default_device()
        config, tokenizer = load_config_and_tokenizer(model_dir)
        model = load_pretrained(
            ChatGLMForConditionalGeneration,
            model_dir,
            dtype=dtype or compute_dtype(device),
            load_in_4bit=load_in_4bit,
            load_in_8bit=load_in_8bit,
            quant_storage=quant_storage,
            device=device,
            config=config,
        )
        return model, tokenizer

    def shape(self, config: ChatGLMConfig) -> ModelShape:
        return anatomy.shape_of(config)

    def checkpoint_layers(self, model: Any, every: int) -> None:
        checkpoint_layers(model, every)

    def pack(
        self, rows: Sequence[Sequence[Sample]], row_length: int, config: ChatGLMConfig
    ) -> dict[str, torch.Tensor]:
        return layout.pack(rows, row_length, config)

    def pack_on(
        self,
        device: torch.device,
        rows: Sequence[Sequence[Sample]],
        row_length: int,
        config: ChatGLMConfig,
    ) -> dict[str, torch.Tensor]:
        return layout.pack(rows, row_length, config, device)

    def next_inputs(
        self, slots: torch.Tensor, prompt_lengths: torch.Tensor, keys: int, config: ChatGLMConfig
    ) -> dict[str, torch.Tensor]:
        return layout.next_inputs(slots, prompt_lengths, keys)


FAMILY = ChatGLMFamily()
load_base_model = FAMILY.load
