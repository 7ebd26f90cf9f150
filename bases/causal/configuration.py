"""A directory's config.json as a config of transformers: the fields that are known, in their ranges.

Whatever a field of a config could make transformers do beside giving a model its shape (load code, fetch
kernels, make room for billions of labels) is never handed to it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from .published_glm import glm_fields, is_published_glm
from .types import MODEL_TYPES

MAX_LAYERS, MAX_PARAMETERS = 1000, 200_000_000_000
_SHOWN = 60  # characters of a wrong value


def _is_int(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high  # NaN is in no range


_Rule = tuple[Callable[[Any], bool], str]
_SIZE: _Rule = (_is_int(1, 2**31), "大于 0 的整数")
_COUNT: _Rule = (_is_int(0, 2**31), "不小于 0 的整数")
_SWITCH: _Rule = (lambda value: isinstance(value, bool), "true 或 false")
_EPSILON: _Rule = (_is_number(0, 0.1), "0 到 0.1 之间的数")
_ACTIVATIONS = ("silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "relu2")
_LAYER_TYPES = ("full_attention", "sliding_attention")
_ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope")
# The fields of a config.json that are used, with what they may be; null is as if a field were not there.
_FIELDS: dict[str, _Rule] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "num_attention_heads"), _SIZE),
    "num_hidden_layers": (_is_int(1, MAX_LAYERS), f"1 到 {MAX_LAYERS} 之间的整数"),
    **dict.fromkeys(("intermediate_size", "num_key_value_heads", "sliding_window"), _SIZE),
    "head_dim": (_is_int(1, 4096), "1 到 4096 之间的整数"),  # half as many angles are computed for real
    "max_position_embeddings": (_is_int(1, 2**24), "1 到 16777216 之间的整数"),
    "original_max_position_embeddings": (_is_int(1, 2**24), "1 到 16777216 之间的整数"),
    **dict.fromkeys(("max_window_layers", "no_rope_layer_interval"), _COUNT),
    **dict.fromkeys(("sliding_window_pattern", "_sliding_window_pattern"), _SIZE),
    **dict.fromkeys(("rms_norm_eps", "norm_eps", "layer_norm_eps"), _EPSILON),
    **dict.fromkeys(("rope_theta", "rope_local_base_freq"), (_is_number(1, 1e12), "1 到 1e12 之间的数")),
    "query_pre_attn_scalar": (_is_number(1, 1e6), "1 到 1e6 之间的数"),
    "partial_rotary_factor": (_is_number(0.01, 1), "0.01 到 1 之间的数"),
    "initializer_range": (_is_number(0, 1), "0 到 1 之间的数"),
    **dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias", "qkv_bias", "use_bias"), _SWITCH),
    **dict.fromkeys(("bias", "use_cache", "use_sliding_window"), _SWITCH),
    **dict.fromkeys(
        ("hidden_act", "hidden_activation"),
        (lambda value: value in _ACTIVATIONS, "、".join(_ACTIVATIONS) + " 之一"),
    ),
    "layer_types": (
        lambda value: isinstance(value, list) and all(each in _LAYER_TYPES for each in value),
        "由 full_attention、sliding_attention 组成的列表",
    ),
    "no_rope_layers": (
        lambda value: isinstance(value, list) and all(each in (0, 1) for each in value),
        "由 0 和 1 组成的列表",
    ),
    **dict.fromkeys(
        ("rope_scaling", "rope_parameters"), (lambda value: _is_rope(value), "已知的旋转位置参数")
    ),
}
# Known, and of no effect here: ids (the tokenizer's are used), dropout, what only pre-training needs.
_IGNORED = {
    *("pad_token_id", "bos_token_id", "eos_token_id", "attention_dropout", "embd_pdrop", "resid_pdrop"),
    *("hidden_dropout", "dropout", "pretraining_tp", "router_aux_loss_coef", "residual_dropout"),
    *("tf_legacy_loss", "mlp_dropout", "embedding_dropout"),
}


def _is_rope(value: Any, depth: int = 0) -> bool:
    """Tell whether a value describes rotary positions of a kind that does not depend on a text's length."""
    if not isinstance(value, dict) or len(value) > 20:
        return False
    kind = value.get("rope_type", value.get("type", "default"))
    return kind in _ROPE_TYPES and all(
        isinstance(name, str)
        and (
            name in ("rope_type", "type")
            or each is None
            or isinstance(each, bool)
            or (type(each) in (int, float) and math.isfinite(each) and each >= 0)
            or (isinstance(each, list) and len(each) <= 4096 and all(_is_number(0, 1e9)(one) for one in each))
            or (depth == 0 and name in _LAYER_TYPES and _is_rope(each, 1))
        )
        for name, each in value.items()
    )


def read_config(content: dict[str, Any]) -> PreTrainedConfig:
    """Make a config of what a config.json holds.

    Raises:
        ValueError: it is of no known model, its fields are not what they may be (all of them are named), or
            they ask for what the family does not do.
    """
    if is_published_glm(content):
        content = glm_fields(content)
    model_type = content.get("model_type")
    if model_type == "gemma3":  # a model that also sees: its half that reads
        content = content.get("text_config") or {}
        content = {"tie_word_embeddings": True, **content}
        model_type = "gemma3_text"
    if model_type not in MODEL_TYPES:
        raise ValueError(f"不认识的 model_type {str(model_type)[:_SHOWN]}。")
    config_class = CONFIG_MAPPING[model_type]
    fields = {name: value for name, value in content.items() if name in _FIELDS and value is not None}
    problems = [
        f"config.json 的 {name} 必须是{_FIELDS[name][1]}，现在是 {repr(value)[:_SHOWN]}。"
        for name, value in fields.items()
        if not _FIELDS[name][0](value)
    ]
    defaults = {each.name: each.default for each in dataclasses.fields(config_class)}
    problems += [
        f"config.json 的 {name} 是 {repr(content[name])[:_SHOWN]}，本项目不支持。"
        for name, default in defaults.items()
        if name in content
        and name not in _FIELDS
        and name not in _IGNORED
        and name not in _OF_EVERY_CONFIG
        and content[name] not in (None, False, default)
    ]
    if problems:
        raise ValueError("".join(problems))
    _refuse_impossible_shapes(fields, defaults)
    if "sliding_window" in content and content["sliding_window"] is None:
        fields["sliding_window"] = None
    config = config_class(**fields, pad_token_id=None, bos_token_id=None, eos_token_id=None)
    for name in vars(config):
        if "dropout" in name or name.endswith("_pdrop"):
            setattr(config, name, 0.0)
    layers = getattr(config, "layer_types", None)
    if layers is not None and (
        len(layers) != config.num_hidden_layers or not set(layers) <= set(_LAYER_TYPES)
    ):
        raise ValueError("config.json 的 layer_types 与 num_hidden_layers 不符。")
    return config


_OF_EVERY_CONFIG = {each.name for each in dataclasses.fields(PreTrainedConfig)}


def _refuse_impossible_shapes(fields: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuse sizes that don't go together, or that no memory holds, before anything is built from them.

    Raises:
        ValueError: with what is wrong.
    """

    def size(name: str, instead: int = 1) -> int:
        return fields.get(name) or defaults.get(name) or instead

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    groups = fields.get("num_key_value_heads") or heads
    head_dim = size("head_dim", hidden // heads)
    if heads % groups:
        raise ValueError(
            f"config.json 的 num_attention_heads={heads} 不是 num_key_value_heads={groups} 的整数倍。"
        )
    if head_dim % 2 or head_dim < 2:
        raise ValueError(f"config.json 的每个注意力头宽 {head_dim}，应当是偶数。")
    layer = hidden * (2 * head_dim * (heads + groups) + 3 * size("intermediate_size", 4 * hidden))
    parameters = size("num_hidden_layers") * layer + 2 * size("vocab_size") * hidden
    if parameters > MAX_PARAMETERS:
        raise ValueError(f"config.json 要求约 {parameters:.1e} 个参数，太大了，拒绝加载。")
