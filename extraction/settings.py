"""What the options of an extractor come to with an adapter's own files: all but the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bases.adapter_files import (
    CONFIG_FILE,
    SCHEMA_FILE,
    AdapterMeta,
    adapter_file,
    find_base,
    load_adapter_meta,
    read_adapter_json,
)
from extraction.adapters import find_merged, resolve_adapter
from extraction.calibration import Calibration
from extraction.decoding.grammar import Constraint
from extraction.options import ExtractorOptions
from glm_config import ProjectConfig
from task.schema import Schema
from utils.common_utils import UserError, log


@dataclass(frozen=True)
class Settings:
    """What options come to.

    Args:
        config: the adapter's (or of the one that was merged into the base), or the project's for a bare base,
            with the options in their place.
        adapter: its directory; None for a base alone.
        constraint: what answers may hold; None for free decoding.
        half_right_score: see `Reliability`; None if the training did not find it out.
        calibration: of the scores; None if the training did not find it out.
        relations_per_prompt, passes: see `TripletExtractor`.
        rows: sentences at a time that were asked for; None for what suits the device.
        keep_quantized: how weights are kept was said, so that they are not turned back.
        vram_budget_gb: see `ExtractorOptions`.
    """

    config: ProjectConfig
    adapter: Path | None
    constraint: Constraint | None
    with_scores: bool
    min_score: float
    half_right_score: float | None
    calibration: Calibration | None = None
    relations_per_prompt: int = 0
    passes: int = 1
    rows: int | None = None
    keep_quantized: bool = False
    vram_budget_gb: float | None = None


def read_settings(options: ExtractorOptions) -> Settings:
    """Read the files that options name, all but the weights.

    Raises:
        UserError: a file is missing or damaged, they contradict each other, or a schema holds nothing.
    """
    config, adapter = ProjectConfig(), None
    half_right_score, calibration, usual = None, None, 0.0
    relations_per_prompt = 0
    if options.adapter is not None:
        adapter = resolve_adapter(Path(options.adapter))
    trained = adapter or find_merged(options.pre_model)
    if trained is not None:
        meta = load_adapter_meta(trained)
        half_right_score, calibration = _level(meta.half_right_score), Calibration.read(meta.calibration)
        usual = (_level(meta.min_score) or 0.0) if calibration is not None else 0.0
        relations_per_prompt = meta.relations_per_prompt
        config = _config_of(meta, trained)
        if options.pre_model is None:
            config.pre_model = _base_of(meta, trained, config.pre_model)
        for name in ("max_source_seq_len", "max_target_seq_len"):
            if getattr(config, name) != getattr(meta, name):
                raise UserError(
                    f"适配器 {trained} 的 {name} 前后不一致：{CONFIG_FILE} 里是 {getattr(config, name)}，"
                    f"训练时是 {getattr(meta, name)}，请恢复 {CONFIG_FILE}。"
                )
    if options.passes > 1 and not relations_per_prompt:
        raise UserError(
            "--passes 2 要用提示词写明关系的适配器（train.py --schema_prompt）："
            "别的适配器单独问一种关系时往往硬答，多出的错远多于找回的。"
        )
    constraint = _read_constraint(options, trained, relations_per_prompt)
    min_score = options.min_score
    if min_score is None:
        min_score = usual if trained is not None and _is_as_trained(constraint, trained) else 0.0
    config.device = options.device
    if options.pre_model is not None:
        config.pre_model = options.pre_model
    _choose_bits(config, options)
    config.max_target_seq_len = options.max_new_tokens or config.max_target_seq_len
    with_scores = options.with_scores and constraint is not None
    return Settings(
        config,
        adapter,
        constraint,
        with_scores,
        min_score,
        half_right_score,
        calibration,
        relations_per_prompt,
        options.passes,
        rows=options.batch_size,
        keep_quantized=options.load_in_4bit is not None or options.load_in_8bit is not None,
        vram_budget_gb=options.vram_budget_gb,
    )


def _choose_bits(config: ProjectConfig, options: ExtractorOptions) -> None:
    """Let what is asked for stand in place of what the training had; one kind asked for excludes the other.

    Raises:
        UserError: both are asked for.
    """
    in_4bit, in_8bit = options.load_in_4bit, options.load_in_8bit
    if in_4bit and in_8bit:
        raise UserError("load_in_4bit 与 load_in_8bit 不能同时开启，请关闭其中一个。")
    if in_4bit is not None:
        config.load_in_4bit, config.load_in_8bit = in_4bit, False
    if in_8bit is not None:
        config.load_in_4bit, config.load_in_8bit = config.load_in_4bit and not in_8bit, in_8bit


def _config_of(meta: AdapterMeta, adapter: Path) -> ProjectConfig:
    """Return the knobs that an adapter was trained with; the project's for one that plain peft saved."""
    if meta.is_foreign and not (adapter / CONFIG_FILE).is_file():
        config = ProjectConfig()
        config.max_source_seq_len, config.max_target_seq_len = (
            meta.max_source_seq_len,
            meta.max_target_seq_len,
        )
        return config
    return ProjectConfig.from_dict(read_adapter_json(adapter, CONFIG_FILE))


def _base_of(meta: AdapterMeta, adapter: Path, given: str) -> str:
    """Return where an adapter's base is; as the user gave it, if that still leads there."""
    base = find_base(meta, adapter)
    return given if Path(given).is_dir() and base.samefile(given) else str(base)


def _level(value: Any) -> float | None:
    """Return a level of score as an adapter's file has it; what is none is not known."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and 0 <= value <= 1 else None


def _own_schema(adapter: Path) -> Schema | None:
    """Return the relations that an adapter was trained on; None if plain peft saved it without them."""
    if load_adapter_meta(adapter).is_foreign and not (adapter / SCHEMA_FILE).exists():
        return None
    return Schema.load(adapter_file(adapter, SCHEMA_FILE))


def _is_as_trained(constraint: Constraint | None, adapter: Path) -> bool:
    """Tell whether answers are limited to what an adapter was trained for."""
    if constraint is None or constraint.schema is None or constraint.free_values:
        return False
    own = _own_schema(adapter)
    return own is not None and constraint.schema.combinations <= own.combinations


def _warn_of_unknown(schema: Schema, own: Schema, adapter: Path | None) -> None:
    """Say which relations an adapter was never trained on, though it is to answer them."""
    known = {each.predicate for each in own.combinations}
    unknown = sorted({each.predicate for each in schema.combinations} - known)
    if known and unknown:
        shown = "、".join(name[:60] for name in unknown[:10]) + ("等" if len(unknown) > 10 else "")
        log(
            f"警告：适配器 {adapter} 没有训练过关系 {shown}，结果没有保证；"
            "要抽没有训练过的关系，请用 train.py --schema_prompt 训练的适配器。"
        )


def _read_constraint(
    options: ExtractorOptions, adapter: Path | None, relations_per_prompt: int
) -> Constraint | None:
    own = _own_schema(adapter) if adapter else None  # a damaged adapter is refused in any case
    if relations_per_prompt and (options.free_decoding or options.open_schema):
        name = "free_decoding" if options.free_decoding else "open_schema"
        raise UserError(
            f"适配器 {adapter} 的提示词要写明抽哪些关系，不能用 --{name}；要抽别的关系请用 --schema 文件。"
        )
    if options.free_decoding:
        return None
    if options.open_schema or (options.schema is None and own is None):
        return Constraint(None, options.free_values)
    schema = own if options.schema is None else Schema.load(options.schema)
    if schema is not None and own is not None and not relations_per_prompt:
        _warn_of_unknown(schema, own, adapter)
    if schema is not None and schema.combinations:
        return Constraint(schema, options.free_values)
    if options.schema is not None:
        raise UserError(f"模式文件 {options.schema} 里一个关系也没有，请补上，或改用 --open_schema。")
    raise UserError(
        f"适配器 {adapter} 的 {SCHEMA_FILE} 里一个关系也没有（训练数据里没有可用的三元组），什么也抽不出来："
        "请换用带三元组的数据重新训练，或用 --schema 文件 指定关系，或用 --open_schema 不限关系。"
    )
