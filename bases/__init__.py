"""Base models behind one interface: the family of a directory or config, found by its `model_type`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bases.causal.published_glm import is_published_glm
from bases.causal.types import MODEL_TYPES
from bases.interface import CheckpointError, Family, ModelShape
from bases.model_dir import read_model_json

__all__ = ["CheckpointError", "Family", "check_model_dir", "family_of", "find_family", "published_shape"]

# Each module defines FAMILY; it is loaded when asked for, so that sizes and texts can be had without torch.
_FAMILIES = {
    "chatglm": "bases.chatglm.family",
    **dict.fromkeys(MODEL_TYPES, "bases.causal.family"),
}


def family_of(config: Any) -> Family:
    """Return the family of a model's config.

    Raises:
        CheckpointError: its `model_type` is none of those known.
    """
    return _family(getattr(config, "model_type", None), "模型配置")


def find_family(model_dir: Path) -> Family:
    """Return the family of a model directory.

    Raises:
        CheckpointError: it has no readable config.json, or one of an unknown `model_type`.
    """
    content = read_model_json(model_dir, "config.json")
    if is_published_glm(content):  # not of the first ChatGLM, whose name they share
        return importlib.import_module("bases.causal.family").FAMILY
    return _family(content.get("model_type"), str(model_dir / "config.json"))


def check_model_dir(model_dir: Path) -> None:
    """Make sure that a directory can be loaded, as far as can be told without reading weights.

    Raises:
        CheckpointError: a file is missing, damaged, or not what it should be; the message names it.
    """
    find_family(model_dir).check_directory(model_dir)


def published_shape() -> ModelShape:
    """Return the sizes of ChatGLM-6B, which stand for a base that isn't on this machine yet."""
    module = importlib.import_module("bases.chatglm")
    return _family("chatglm", "ChatGLM-6B").shape(module.ChatGLMConfig())


def _family(model_type: Any, where: str) -> Family:
    module = _FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if module is None:
        shown, known = repr(model_type)[:60], "、".join(_FAMILIES)
        raise CheckpointError(f"无法使用 {where}：model_type 是 {shown}，支持的是 {known}。")
    return importlib.import_module(module).FAMILY
