"""From options to an extractor: base model and adapter, for the command, a service, a notebook.

`load_extractor("output/demo/model_best").extract_one("…")` is all that a program needs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bases import find_family
from bases.adapter import load_adapter
from bases.four_bit import choose_4bit
from bases.hub_cache import resolve_model_dir
from bases.interface import ModelShape
from bases.layers import expand
from extraction.adapters import check_merged
from extraction.decoding.grammar import Constraint
from extraction.extractor import TripletExtractor
from extraction.memory_plan import MAX_ROWS, ExtractionPlan, ExtractionSettings, plan_extraction
from extraction.options import ExtractorOptions
from extraction.settings import Settings, read_settings
from extraction.warm_up import warm_up_kernels
from glm_config import EVAL_ROWS, ProjectConfig
from utils.common_utils import UserError, log
from utils.device import avoid_planning_kernels, check_device, compute_dtype, default_device
from utils.launcher import Launcher
from utils.memory import memory_budget
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
    (extractor,) = load_extractors([settings])
    return extractor


def load_extractors(settings: Sequence[Settings]) -> list[TripletExtractor]:
    """Load a base model once, with several adapters, as an extractor each.

    They share the model: before one is used, `extractor.model.set_adapter` has to be called with the name
    that `adapter_names` gives its adapter.

    Args:
        settings: of each; all of one base and in one type of computation.

    Raises:
        UserError: see `load_extractor`; or they don't agree on the base, or on how it is loaded.
    """
    first = settings[0]
    config = first.config
    for other in settings[1:]:
        _check_company(first, other)
    check_device(config.device)
    limit_primitive_cache()
    log(f"加载模型 {config.pre_model} …")
    check_merged(config.pre_model)
    device = config.device or default_device()
    dtype = compute_dtype(device, fp16=config.fp16, bf16=config.bf16)
    load_in_4bit = choose_4bit(config.load_in_4bit, device)
    model_dir = resolve_model_dir(config.pre_model)
    family = find_family(model_dir)
    plan = None
    if torch.device(device).type == "cuda":
        avoid_planning_kernels()
        shape = family.shape(family.load_config(model_dir))
        plan = _make_plan(shape, settings, load_in_4bit, dtype, torch.device(device))
        warm_up_kernels(shape, dtype, torch.device(device))
    model, tokenizer = family.load(
        model_dir, load_in_4bit=load_in_4bit, load_in_8bit=config.load_in_8bit, dtype=dtype, device=device
    )
    if plan is not None and plan.expanded:
        expand(model)
    names = adapter_names(len(settings))
    if first.adapter is not None:
        others = {name: each.adapter for name, each in zip(names, settings, strict=True) if each.adapter}
        others.pop(names[0])
        model = load_adapter(model, first.adapter, others)
    extractors = []
    for name, each in zip(names, settings, strict=True):
        extractor = make_extractor(
            model,
            tokenizer,
            each.config,
            each.constraint,
            batch_size=plan.rows if plan is not None and each.rows is None else rows_of(each),
            autocast_dtype=dtype if dtype.itemsize == 2 else None,
            with_scores=each.with_scores,
            min_score=each.min_score,
            calibration=each.calibration,
            half_right_score=each.half_right_score,
            relations_per_prompt=each.relations_per_prompt,
            passes=each.passes,
        )
        if each.adapter is not None:
            model.set_adapter(name)
            if not extractor.adapter_changes_logits():
                log(
                    f"警告：适配器 {each.adapter} 没有改变模型的输出（LoRA 权重为零？），结果与基座模型相同。"
                )
        extractors.append(extractor)
    if first.adapter is not None:
        model.set_adapter(names[0])
    return extractors


def rows_of(settings: Settings) -> int:
    """Return how many sentences will be in work at a time, or on a card, before it is asked, at most."""
    config = settings.config
    if settings.rows is not None:
        return settings.rows
    on_card = config.device != "cpu" and torch.cuda.is_available()
    return MAX_ROWS if on_card else config.eval_rows or EVAL_ROWS


def _make_plan(
    shape: ModelShape,
    settings: Sequence[Settings],
    load_in_4bit: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> ExtractionPlan:
    """Plan what extraction takes of a card, and tell it."""
    first = settings[0]
    config = first.config
    names = {name.rpartition(".")[2] for name in config.lora_target_modules}
    sizes = sum(sum(size) for name, size in shape.linear_shapes.items() if name in names)
    plan = plan_extraction(
        shape,
        ExtractionSettings(
            value_bytes=dtype.itemsize,
            load_in_4bit=load_in_4bit,
            load_in_8bit=config.load_in_8bit,
            prompt_tokens=config.max_source_seq_len,
            answer_tokens=config.max_target_seq_len,
            adapter_weights=len(settings) * shape.num_layers * config.lora_rank * sizes,
        ),
        memory_budget(device, first.vram_budget_gb or math.inf),
        rows=first.rows,
        expand=False if first.keep_quantized else None,
    )
    log(plan.describe())
    return plan


def adapter_names(count: int) -> list[str]:
    """Return what peft calls so many adapters on one base."""
    return ["default", *(f"adapter_{number}" for number in range(2, count + 1))]


def _check_company(first: Settings, other: Settings) -> None:
    """Make sure that two adapters can share a base.

    Raises:
        UserError: they can't.
    """
    base, theirs = resolve_model_dir(first.config.pre_model), resolve_model_dir(other.config.pre_model)
    if not Path(base).samefile(theirs):
        raise UserError(
            f"适配器 {other.adapter} 的基座是 {theirs}，{first.adapter} 的是 {base}：一个服务只能有一个基座，"
            "请分开启动。"
        )
    for name in ("fp16", "bf16", "load_in_4bit", "load_in_8bit"):
        if getattr(first.config, name) != getattr(other.config, name):
            raise UserError(
                f"适配器 {other.adapter} 与 {first.adapter} 训练时的 {name} 不同，"
                "不能共用一个基座，请分开启动。"
            )


def own_gpu(launcher: Launcher) -> str | None:
    """Return the GPU of this process, if it is one of several; None without GPUs."""
    if launcher.world_size == 1 or not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def make_extractor(
    model: Any,
    tokenizer: Any,
    config: ProjectConfig,
    constraint: Constraint | None,
    *,
    batch_size: int,
    **options: Any,
) -> TripletExtractor:
    """Put an extractor around a model that is loaded, as training has it, with a configuration's lengths.

    Args:
        model, tokenizer, constraint, options: see `TripletExtractor`.
        config: max_source_seq_len and max_target_seq_len are followed.
        batch_size: sentences generated together.

    Raises:
        UserError: prompt and answer together are longer than the model's context.
    """
    return TripletExtractor(
        model,
        tokenizer,
        max_source_seq_len=config.max_source_seq_len,
        max_new_tokens=config.max_target_seq_len,
        batch_size=batch_size,
        constraint=constraint,
        **options,
    )
