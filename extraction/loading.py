"""From options to an extractor: base model and adapter, for the command, a service, a notebook.

`load_extractor("output/demo/model_best").extract_one("…")` is all that a program needs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from bases import find_family
from bases.adapter import load_adapter
from bases.four_bit import choose_4bit
from bases.hub_cache import resolve_model_dir
from extraction.decoding.grammar import Constraint
from extraction.extractor import TripletExtractor
from extraction.options import ExtractorOptions
from extraction.settings import Settings, read_settings
from glm_config import ProjectConfig
from utils.common_utils import log
from utils.device import check_device, compute_dtype
from utils.launcher import Launcher
from utils.startup import limit_primitive_cache

__all__ = ["ExtractorOptions", "Settings", "load_extractor", "make_extractor", "own_gpu", "read_settings"]


def load_extractor(options: ExtractorOptions | Settings | str | Path) -> TripletExtractor:
    """Load a base model, with an adapter if there is one, as an extractor.

    Args:
        options: see there, or what they came to; or an adapter's directory, to be used as it was trained.

    Raises:
        UserError: a file is missing or damaged, they do not belong together, or the device is not there.
    """
    if isinstance(options, str | Path):
        options = ExtractorOptions(adapter=options)
    settings = read_settings(options) if isinstance(options, ExtractorOptions) else options
    config = settings.config
    check_device(config.device)
    limit_primitive_cache()
    log(f"加载模型 {config.pre_model} …")
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(device, fp16=config.fp16, bf16=config.bf16)
    load_in_4bit = choose_4bit(config.load_in_4bit, device)
    model_dir = resolve_model_dir(config.pre_model)
    model, tokenizer = find_family(model_dir).load(
        model_dir, load_in_4bit=load_in_4bit, dtype=dtype, device=device
    )
    extractor = make_extractor(
        model if settings.adapter is None else load_adapter(model, settings.adapter),
        tokenizer,
        config,
        settings.constraint,
        autocast_dtype=dtype if dtype.itemsize == 2 else None,
        with_scores=settings.with_scores,
        min_score=settings.min_score,
        half_right_score=settings.half_right_score,
    )
    if settings.adapter is not None and not extractor.adapter_changes_logits():
        log(f"警告：适配器 {settings.adapter} 没有改变模型的输出（LoRA 权重为零？），结果与基座模型相同。")
    return extractor


def own_gpu(launcher: Launcher) -> str | None:
    """Return the GPU of this process, if it is one of several; None without GPUs."""
    if launcher.world_size == 1 or not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def make_extractor(
    model: Any, tokenizer: Any, config: ProjectConfig, constraint: Constraint | None, **options: Any
) -> TripletExtractor:
    """Put an extractor around a model that is loaded, as training has it, with a configuration's lengths.

    Args:
        model, tokenizer, constraint, options: see `TripletExtractor`.
        config: max_source_seq_len, max_target_seq_len and eval_batch_size are followed.

    Raises:
        UserError: prompt and answer together are longer than the model's context.
    """
    return TripletExtractor(
        model,
        tokenizer,
        max_source_seq_len=config.max_source_seq_len,
        max_new_tokens=config.max_target_seq_len,
        batch_size=config.eval_batch_size,
        constraint=constraint,
        **options,
    )
