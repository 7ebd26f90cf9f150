"""ChatGLM-6B (v1), written natively for current transformers: nothing from the hub is executed.

The names below are imported when first used: who wants the tokenizer does not pay for the model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bases.hub_cache import resolve_model_dir
    from bases.interface import CheckpointError

    from .configuration import ChatGLMConfig
    from .family import load_base_model
    from .files import load_config, load_tokenizer
    from .modeling import ChatGLMForConditionalGeneration, ChatGLMModel, checkpoint_layers
    from .tokenization import ChatGLMTokenizer

__all__ = [
    "ChatGLMConfig",
    "ChatGLMForConditionalGeneration",
    "ChatGLMModel",
    "ChatGLMTokenizer",
    "CheckpointError",
    "checkpoint_layers",
    "load_base_model",
    "load_config",
    "load_tokenizer",
    "resolve_model_dir",
]

_MODULES = {
    "ChatGLMConfig": "bases.chatglm.configuration",
    "ChatGLMForConditionalGeneration": "bases.chatglm.modeling",
    "ChatGLMModel": "bases.chatglm.modeling",
    "ChatGLMTokenizer": "bases.chatglm.tokenization",
    "CheckpointError": "bases.interface",
    "checkpoint_layers": "bases.chatglm.modeling",
    "load_base_model": "bases.chatglm.family",
    "load_config": "bases.chatglm.files",
    "load_tokenizer": "bases.chatglm.files",
    "resolve_model_dir": "bases.hub_cache",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
