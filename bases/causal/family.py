"""The causal models' answers to `bases.interface.Family`, each from the file that knows it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from bases.chatglm.files import checkpoint_shards
from bases.four_bit_copy import read_note
from bases.hub_cache import resolve_model_dir
from bases.interface import ROW_MULTIPLE, CheckpointError, Family, ModelShape, Sample, StoredWeights
from bases.model_dir import read_model_json
from utils.device import compute_dtype, default_device

from . import anatomy, layout
from .configuration import read_config
from .loading import check, load_model
from .modeling import checkpoint_layers
from .stored import CausalWeights
from .tokenization import CausalTokenizer, load_tokenizer, tokenizer_path


class CausalFamily(Family):
    """Decoder-only models of transformers."""

    model_type = "causal"

    def check_directory(self, model_dir: Path) -> None:
        config, _ = self._config_and_tokenizer(model_dir)
        check(model_dir, config)

    def load_config(self, model_dir: Path) -> PreTrainedConfig:
        path = model_dir / "config.json"
        content = read_model_json(model_dir, path.name)
        try:
            config = read_config(content)
        except CheckpointError:
            raise
        except Exception as error:  # the config classes raise types of their own for wrong values
            lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
            raise CheckpointError(f"无法使用 {path}：{lines[-1].strip()}") from error
        if (note := content.get("quantization_config")) is not None:
            config.quantization_config = note
            read_note(config, model_dir)
        return config

    def load_tokenizer(self, model_dir: Path) -> CausalTokenizer:
        return load_tokenizer(model_dir)

    def tokenizer_file(self, model_dir: Path) -> Path:
        return tokenizer_path(model_dir)

    def weight_files(self, model_dir: Path) -> list[Path]:
        return checkpoint_shards(model_dir)

    def stored_weights(self, model_dir: Path) -> StoredWeights:
        return CausalWeights(model_dir, self.load_config(model_dir))

    def load(
        self,
        pre_model: str | os.PathLike[str],
        *,
        load_in_4bit: bool = True,
        load_in_8bit: bool = False,
        quant_storage: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> tuple[Any, CausalTokenizer]:
        model_dir, device = resolve_model_dir(pre_model), device or default_device()
        config, tokenizer = self._config_and_tokenizer(model_dir)
        model = load_model(
            model_dir,
            config,
            dtype=dtype or compute_dtype(device),
            load_in_4bit=load_in_4bit,
            load_in_8bit=load_in_8bit,
            quant_storage=quant_storage,
            device=device,
        )
        model.prompt_frame = tokenizer.prompt_frame
        return model, tokenizer

    def _config_and_tokenizer(self, model_dir: Path) -> tuple[PreTrainedConfig, CausalTokenizer]:
        """Read both, and make sure that they go together.

        Raises:
            CheckpointError: the tokenizer has ids that the model has no place for.
        """
        config, tokenizer = self.load_config(model_dir), self.load_tokenizer(model_dir)
        if len(tokenizer) > config.vocab_size:
            raise CheckpointError(
                f"{model_dir} 的分词器与模型不配套：分词器有 {len(tokenizer)} 个词元，"
                f"config.json 的 vocab_size 只有 {config.vocab_size}。"
            )
        return config, tokenizer

    def shape(self, config: PreTrainedConfig) -> ModelShape:
        return anatomy.shape_of(config)

    def checkpoint_layers(self, model: Any, every: int) -> None:
        checkpoint_layers(model, every)

    def pack(
        self, rows: Sequence[Sequence[Sample]], row_length: int, config: PreTrainedConfig
    ) -> dict[str, torch.Tensor]:
        return layout.pack(rows, row_length)

    def pack_on(
        self,
        device: torch.device,
        rows: Sequence[Sequence[Sample]],
        row_length: int,
        config: PreTrainedConfig,
    ) -> dict[str, torch.Tensor]:
        longest = max(len(sample.input_ids) for row in rows for sample in row)
        window = getattr(config, "sliding_window", None) or longest
        if device.type == "cpu" and longest <= window:
            return layout.pack_flat(rows, ROW_MULTIPLE)
        return super().pack_on(device, rows, row_length, config)

    def next_inputs(
        self, slots: torch.Tensor, prompt_lengths: torch.Tensor, keys: int, config: PreTrainedConfig
    ) -> dict[str, torch.Tensor]:
        return layout.next_inputs(slots, keys)


FAMILY = CausalFamily()
