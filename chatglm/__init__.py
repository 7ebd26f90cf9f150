"""ChatGLM-6B (v1), written natively for current transformers: nothing from the hub is executed."""

from .configuration_chatglm import ChatGLMConfig
from .loading import CheckpointError, default_dtype, load_base_model, load_config, resolve_model_dir
from .modeling_chatglm import ChatGLMForConditionalGeneration, ChatGLMModel
from .tokenization_chatglm import ChatGLMTokenizer

__all__ = [
    "ChatGLMConfig",
    "ChatGLMForConditionalGeneration",
    "ChatGLMModel",
    "ChatGLMTokenizer",
    "CheckpointError",
    "default_dtype",
    "load_base_model",
    "load_config",
    "resolve_model_dir",
]
