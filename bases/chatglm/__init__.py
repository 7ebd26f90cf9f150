"""ChatGLM-6B (v1), written natively for current transformers: nothing from the hub is executed.

The names below are imported when first used: who wants the tokenizer does not pay for the model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration import ChatGLMConfig
    from .loading import (
        CheckpointError,
        load_base_model,
        load_config,
        load_tokenizer,
        resolve_model_dir,
    )
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
    "ChatGLMConfig": "configuration",
    "ChatGLMForConditionalGeneration": "modeling",
    "ChatGLMModel": "modeling",
    "ChatGLMTokenizer": "tokenization",
    "checkpoint_layers": "modeling",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES.get(name, 'loading')}", __name__), name)
