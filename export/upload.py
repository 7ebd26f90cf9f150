"""A directory for a model hub: an adapter's files without traces of this machine, and its model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePath
from typing import Any

import torch

from bases import find_family
from bases.adapter_files import (
    CONFIG_FILE,
    LORA_FILE,
    META_FILE,
    SCHEMA_FILE,
    WEIGHTS_FILE,
    AdapterMeta,
    adapter_file,
    find_adapter_damage,
    find_base,
    load_adapter_meta,
    read_adapter_json,
    read_lora_shape,
)
from bases.weights import read_shard
from export.model_card import CardFacts, write_card
from extraction.adapters import resolve_adapter
from task.schema import Schema
from utils.common_utils import UserError, log
from utils.directories import write_directory
from utils.jsonl import iter_lines_in

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_COUNTED = 1 << 30  # bytes of a training file whose lines are counted
# Where this machine's folders stand in an adapter's files.
_PLACES = ("base_path", "base_from_adapter", "base_from_project")


def prepare_upload(
    adapter: Path, output: Path, *, base_model: str | None, title: str, license_name: str
) -> None:
    """Write what is to be uploaded; nothing is sent anywhere.

    Args:
        adapter: its directory, or that of a run with `model_best`.
        output: a directory that is empty or not there.
        base_model: the base's name on a hub; as the training was given it when None.
        title: of the card.
        license_name: of the adapter, as hubs call it.

    Raises:
        UserError: the adapter is damaged, was not made here, or the place can't be written to.
    """
    adapter = resolve_adapter(adapter)
    meta = load_adapter_meta(adapter)
    if meta.is_foreign:
        raise UserError(f"适配器 {adapter} 没有 {META_FILE}，不是由本项目训练的，写不出它的数据和成绩。")
    if damage := find_adapter_damage(adapter):
        raise UserError(f"适配器 {adapter} 已损坏（{damage}），请重新拷贝或重新训练。")
    _check_numbers(adapter)
    config = read_adapter_json(adapter, CONFIG_FILE)
    name = base_model or meta.pre_model
    if _is_local(name):
        log(f"基座写的是本机的 {name}，模型卡里只留下最后一段；请用 --base_model 给出它在模型站上的编号。")
        name = PurePath(name).name
    facts = CardFacts(
        title=title,
        base_model=name,
        license_name=license_name,
        meta=meta,
        config=config,
        lora=read_lora_shape(adapter),
        schema=Schema.load(adapter / SCHEMA_FILE),
        train_lines=_lines_of(config.get("train_path")),
        is_chatglm=_is_chatglm(meta, adapter),
    )

    def fill(new: Path) -> None:
        shutil.copyfile(adapter / WEIGHTS_FILE, new / WEIGHTS_FILE)
        shutil.copyfile(adapter / SCHEMA_FILE, new / SCHEMA_FILE)
        own_meta = read_adapter_json(adapter, META_FILE)
        own_lora = read_adapter_json(adapter, LORA_FILE)
        contents = {
            META_FILE: own_meta | {"pre_model": name} | {place: "" for place in _PLACES if place in own_meta},
            LORA_FILE: own_lora | {"base_model_name_or_path": name},
            CONFIG_FILE: {key: _without_place(value) for key, value in config.items()} | {"pre_model": name},
        }
        for file, content in contents.items():
            (new / file).write_text(
                json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
            )
        (new / "README.md").write_text(write_card(facts), encoding="utf-8")

    try:
        write_directory(output, fill)
    except OSError as error:
        raise UserError(f"没有写成 {output}：{error.strerror or error}。") from error


def _check_numbers(adapter: Path) -> None:
    """Make sure that the weights are numbers.

    Raises:
        UserError: they aren't, or can't be read.
    """
    path = adapter_file(adapter, WEIGHTS_FILE)
    if not path.is_file():  # a FIFO would be waited for
        raise UserError(f"适配器 {adapter} 缺少 {WEIGHTS_FILE}。")
    for name, tensor in read_shard(path):
        if tensor.dtype not in _FLOATS or not tensor.isfinite().all():
            raise UserError(
                f"适配器 {adapter} 的权重里有 NaN、无穷大或不是浮点数的（例如 {name[:120]}），不能给别人用。"
            )


def _is_local(name: str) -> bool:
    """Tell whether a base's name is a place on this machine, and no name on a hub."""
    return name.startswith(("/", "~", ".", "\\")) or name.count("/") > 1 or ":" in name


def _without_place(value: Any) -> Any:
    """Return a knob's value; of a path outside the project only its last part."""
    return PurePath(value).name if isinstance(value, str) and _is_local(value) else value


def _lines_of(path: Any) -> int | None:
    """Return how many lines a training file has, if it still is where it was."""
    try:  # the path is what an adapter says, which may come from a stranger
        if not Path(path).is_file() or Path(path).stat().st_size > MAX_COUNTED:
            return None
        with Path(path).open("rb") as file:
            return sum(1 for _ in iter_lines_in(file, path))
    except (OSError, TypeError, ValueError):
        return None


def _is_chatglm(meta: AdapterMeta, adapter: Path) -> bool | None:
    """Tell whether the base is a ChatGLM-6B; None if it isn't on this machine."""
    try:
        return find_family(find_base(meta, adapter)).model_type == "chatglm"
    except UserError:
        return None
