"""The small files of an adapter directory: what it was trained for and on, its LoRA shape, where its base is.

Nothing here loads torch, and every file is read as a stranger's: bounded, and taken only as far as its
fields are what they may be.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from bases import find_family
from bases.hub_cache import resolve_model_dir
from bases.interface import CheckpointError
from bases.model_dir import read_model_json
from task.prompt import PROMPT_TEMPLATE
from utils.common_utils import UserError
from utils.digest_cache import remembered_digest
from utils.directories import MANIFEST_FILE, find_damage, leads_outside, real_path
from utils.small_json import read_json_object

CONFIG_FILE, SCHEMA_FILE, META_FILE = "project_config.json", "schema.json", "adapter_meta.json"
LORA_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PROJECT_DIR = Path(__file__).resolve().parents[1]
FORMAT_VERSION = 1
MAX_ALPHA = 1e6
MAX_TEXT = 5000  # characters of a path or a prompt's wording
# Fields of peft's config: what gives LoRA its shape; what is a note only, of no effect here.
_LORA_SHAPE = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules")
_LORA_NOTES = ("base_model_name_or_path", "revision", "peft_version", "task_type", "inference_mode")
# Further fields that change nothing at these values; any other has to be null, false or empty.
_LORA_DEFAULTS = {
    "bias": "none",
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
}


@dataclasses.dataclass(frozen=True)
class AdapterMeta:
    """What an adapter was trained for and on.

    Args:
        base_fingerprint: identifies the base model's weights (`model.base_fingerprint`); "" for an adapter
            that plain peft saved, of which this is not known.
        pre_model: where they were, as the user gave it.
        max_source_seq_len, max_target_seq_len: lengths in tokens.
        prompt_template: wording of the prompt.
        metrics: of the evaluation that made it the best.
        versions: of the libraries that wrote it.
        half_right_score: the score below which a triplet is rather wrong than right, measured on dev when
            training ended; None if that is not known.
        calibration: see `extraction.calibration`; found there, too.
        min_score: the score below which triplets are left out unless told otherwise; found there, too.
        base_path: the base's directory, absolute; "" if unknown, as for the next two.
        base_from_adapter: the same, relative to the adapter's directory.
        base_from_project: the same, relative to the project, if it lies in there.
        base_files: size and SHA-256 of its weight files by name, every byte of them; empty if unknown.
        tokenizer_digest: SHA-256 of its tokenizer's file; "" if unknown.
        prompt_frame: what stood around contexts and answers, in words; "" if unknown.
        relations_per_prompt: how many of the wanted relations a prompt named at most; 0 if it named none.
    """

    base_fingerprint: str
    pre_model: str
    max_source_seq_len: int
    max_target_seq_len: int
    prompt_template: str = PROMPT_TEMPLATE
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    half_right_score: float | None = None
    calibration: dict[str, float] | None = None
    min_score: float | None = None
    base_path: str = ""
    base_from_adapter: str = ""
    base_from_project: str = ""
    base_files: dict[str, Any] = dataclasses.field(default_factory=dict)
    tokenizer_digest: str = ""
    prompt_frame: str = ""
    relations_per_prompt: int = 0

    @property
    def is_foreign(self) -> bool:
        """Whether plain peft saved the adapter, without saying what it was trained for."""
        return not self.base_fingerprint


class LoraShape(NamedTuple):
    """What of peft's config is used."""

    rank: int
    alpha: float
    target_modules: list[str]


def adapter_file(directory: Path, name: str) -> Path:
    """Return a file of an adapter, made sure that no link leads out of the directory.

    Raises:
        UserError: one does.
    """
    if leads_outside(directory, name):
        raise UserError(f"适配器 {directory} 的 {name} 指向目录之外的文件，拒绝加载。")
    return directory / name


def read_adapter_json(directory: Path, name: str) -> dict[str, Any]:
    """Read one of an adapter's JSON files, or of those that a merged model has of its adapter.

    Raises:
        UserError: there is no such adapter, or the file is damaged.
    """
    if not any((directory / own).is_file() for own in (LORA_FILE, META_FILE)):
        raise UserError(
            f"找不到适配器 {directory}（缺 {LORA_FILE}），请先运行 python train.py，或用 --adapter 指定目录。"
        )
    path = adapter_file(directory, name)
    try:
        return read_json_object(path)
    except FileNotFoundError as error:
        raise UserError(f"适配器 {directory} 缺少 {name}，它不是由本项目保存的，或没有拷贝完整。") from error
    except (OSError, ValueError) as error:
        raise UserError(f"适配器 {directory} 的 {name} 读不出来，文件可能已损坏：{error}") from error


def load_adapter_meta(directory: str | Path) -> AdapterMeta:
    """Read what an adapter was trained for; of one that plain peft saved, only its base's name is known.

    Raises:
        UserError: there is no adapter, its files are damaged, or another version wrote them.
    """
    directory = Path(directory)
    if (directory / LORA_FILE).is_file() and not os.path.lexists(directory / META_FILE):
        base = read_adapter_json(directory, LORA_FILE).get("base_model_name_or_path")
        base = base if isinstance(base, str) and len(base) <= MAX_TEXT else ""
        return AdapterMeta("", base, 256, 128)
    values = read_adapter_json(directory, META_FILE)
    if values.get("format_version") != FORMAT_VERSION:
        raise UserError(f"适配器 {directory} 的格式版本不是 {FORMAT_VERSION}，请用当前版本重新训练。")
    try:
        meta = AdapterMeta(**values)
    except TypeError as error:
        raise UserError(f"适配器 {directory} 的 {META_FILE} 字段不对，文件可能已损坏。") from error
    if not _has_right_types(meta):
        raise UserError(f"适配器 {directory} 的 {META_FILE} 字段不对，文件可能已损坏。")
    return meta


def _has_right_types(meta: AdapterMeta) -> bool:
    texts = (
        *(meta.base_fingerprint, meta.pre_model, meta.prompt_template),
        *(meta.base_path, meta.base_from_adapter, meta.base_from_project, meta.tokenizer_digest),
        meta.prompt_frame,
    )
    lengths = (meta.max_source_seq_len, meta.max_target_seq_len)
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(length) is int and 0 < length < 2**24 for length in lengths)
        and all(len(text) <= MAX_TEXT for text in texts)
        and isinstance(meta.metrics, dict)
        and isinstance(meta.versions, dict)
        and isinstance(meta.base_files, dict)
        and type(meta.relations_per_prompt) is int
        and 0 <= meta.relations_per_prompt < 2**24
    )


def find_adapter_damage(directory: Path) -> str | None:
    """Say in Chinese what of an adapter is not as its manifest says; None if all is, or there is none."""
    names = (WEIGHTS_FILE, LORA_FILE, META_FILE, CONFIG_FILE, SCHEMA_FILE)
    return find_damage(directory, names) if (directory / MANIFEST_FILE).exists() else None


def with_base(meta: AdapterMeta, base: str, directory: Path) -> AdapterMeta:
    """Note where the base model is, in every way that it may be looked for later, and what its files are.

    Args:
        meta: of the adapter.
        base: the base's directory; if there is none of this name, nothing is noted.
        directory: the adapter's.
    """
    if not base or not Path(base).is_dir():
        return meta
    path = real_path(base)
    in_project = path.relative_to(PROJECT_DIR).as_posix() if path.is_relative_to(PROJECT_DIR) else ""
    from_adapter = ""
    with contextlib.suppress(ValueError):  # on another drive (Windows)
        from_adapter = Path(os.path.relpath(path, real_path(directory))).as_posix()
    return dataclasses.replace(
        meta,
        base_path=str(path),
        base_from_adapter=from_adapter,
        base_from_project=in_project,
        base_files=describe_files(find_family(path).weight_files(path)),
        tokenizer_digest=remembered_digest(find_family(path).tokenizer_file(path)),
    )


def describe_files(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of files by their names."""
    return {path.name: {"size": path.stat().st_size, "sha256": remembered_digest(path)} for path in paths}


def find_difference(meta: AdapterMeta, base: Path) -> str | None:
    """Say in Chinese which file of a base is another than when an adapter was trained; None if none is.

    Weights may have been saved in another format since, or as a 4-bit copy; so of weight files only those of
    the same name and size are compared. (The quick fingerprint, which is independent of formats, is compared
    for all of them, in `load_adapter`.)

    Args:
        meta: of the adapter.
        base: the base's directory.
    """
    family = find_family(base)
    tokenizer = family.tokenizer_file(base)
    if meta.tokenizer_digest and remembered_digest(tokenizer) != meta.tokenizer_digest:
        return tokenizer.name
    for path in family.weight_files(base):
        if _is_comparable(meta, path) and meta.base_files[path.name].get("sha256") != remembered_digest(path):
            return path.name
    for name, entry in source_of_copy(base).items():
        own = meta.base_files.get(name)
        if not (isinstance(own, dict) and isinstance(entry, dict)):
            continue
        if own.get("size") == entry.get("size") and own != entry:
            return f"config.json 写明的来源 {name}"
    return None


def _is_comparable(meta: AdapterMeta, path: Path) -> bool:
    """Tell whether a weight file may be one that an adapter was trained on: of the same name and size."""
    entry = meta.base_files.get(path.name)
    return isinstance(entry, dict) and entry.get("size") == path.stat().st_size


def source_of_copy(base: Path) -> dict[str, Any]:
    """Return what a 4-bit copy says of the files that it was made of; nothing for other directories."""
    note = read_model_json(base, "config.json").get("quantization_config")
    files = note.get("source_files") if isinstance(note, dict) else None
    return files if isinstance(files, dict) else {}


def find_unchecked(meta: AdapterMeta, base: Path | None, directory: Path) -> list[str]:
    """Say in Chinese what can't be checked of an adapter and its base, though nothing speaks against them.

    Args:
        meta: of the adapter.
        base: the base's directory, if it is known; `find_difference` has nothing to say of it.
        directory: the adapter's.
    """
    unchecked = []
    if not meta.is_foreign and not (directory / MANIFEST_FILE).exists():
        unchecked.append(f"适配器 {directory} 没有 {MANIFEST_FILE}，它的文件有没有损坏或被改过，无法核对。")
    if meta.is_foreign or base is None:
        return unchecked
    if not all(_is_comparable(meta, path) for path in find_family(base).weight_files(base)):
        is_copy = isinstance(read_model_json(base, "config.json").get("quantization_config"), dict)
        what = (
            "是量化副本，它由哪个模型而来，只有它自己的说明为凭"
            if is_copy
            else f"的权重文件不是训练适配器 {directory} 时的那些，只核对了各个张量的首尾"
        )
        unchecked.append(f"基座模型 {base} {what}，无法逐字节核对；来历不明的请不要用。")
    return unchecked


def find_base(meta: AdapterMeta, directory: Path) -> Path:
    """Find the base model that an adapter was trained on, from whatever folder and wherever both were moved.

    Tried in this order: where it was, its place relative to the adapter, relative to the project, and the
    name that was given (from the current folder, from the project, in the hub's cache). Whether its weights
    are the same, `load_adapter` checks.

    Args:
        meta: of the adapter.
        directory: the adapter's.

    Raises:
        UserError: it is at none of these places.
    """
    places = [Path(meta.base_path)] if meta.base_path else []
    if meta.base_from_adapter:
        places.append(directory / meta.base_from_adapter)
    if meta.base_from_project:
        places.append(PROJECT_DIR / meta.base_from_project)
    if meta.pre_model:
        places += [Path(meta.pre_model), PROJECT_DIR / meta.pre_model]
    for place in places:
        try:
            if (place / "config.json").is_file():
                return place
        except (OSError, ValueError):  # no path at all
            continue
    try:
        return resolve_model_dir(meta.pre_model or "?")
    except CheckpointError as error:
        tried = "、".join(dict.fromkeys(str(place) for place in places)) or "它没有记下基座"
        raise UserError(
            f"找不到适配器 {directory} 的基座模型（{meta.pre_model or '未知'}；找过 {tried}），"
            "请用 --pre_model 指定。"
        ) from error


def read_lora_shape(directory: Path) -> LoraShape:
    """Read rank, alpha and target modules; whatever else peft's config can express has to be at its default.

    Raises:
        UserError: the config is no plain LoRA.
    """
    config = read_adapter_json(directory, LORA_FILE)
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    names: Any = config.get("target_modules")
    names = [names] if isinstance(names, str) else names
    if (
        config.get("peft_type") != "LORA"
        or type(rank) is not int
        or type(alpha) not in (int, float)
        or not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) for name in names)
    ):
        raise UserError(
            f"适配器 {directory} 的 {LORA_FILE} 不是 LoRA 的配置，或缺少 r、lora_alpha、target_modules。"
        )
    if rank < 1 or not 0 < alpha <= MAX_ALPHA:
        raise UserError(f"适配器 {directory} 的 {LORA_FILE} 里 r={rank}、lora_alpha={alpha} 不是合理的数。")
    changed = [
        name
        for name, value in config.items()
        if name not in _LORA_SHAPE and name not in _LORA_NOTES and value and value != _LORA_DEFAULTS.get(name)
    ]
    if changed:
        shown = "、".join(name[:60] for name in sorted(changed)[:10])
        raise UserError(f"适配器 {directory} 的 {LORA_FILE} 用了本项目不支持的设置：{shown}。")
    return LoraShape(rank, alpha, names)


def write_adapter_json(directory: Path, contents: dict[str, dict[str, Any]]) -> None:
    """Write JSON files, by name, into an adapter's directory."""
    for name, content in contents.items():
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        (directory / name).write_text(text, encoding="utf-8")
