"""ChatGLM-6B's configuration, under the names of the published `config.json`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .anatomy import prefix_parameters, shape_of


def _is_int(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high  # NaN is in no range


_Rule = tuple[Callable[[Any], bool], str]
_SIZE: _Rule = (lambda value: type(value) is int and value > 0, "大于 0 的整数")
_ID: _Rule = (lambda value: _is_int(value, 0, 2**31), "不小于 0 的整数")
_SWITCH: _Rule = (lambda value: isinstance(value, bool), "true 或 false")
# The fields of a config.json that are used, with what they may be. Everything else in it is ignored: through
# transformers some fields would load code, or make room for billions of labels.
_FIELDS: dict[str, _Rule] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "num_layers", "num_attention_heads"), _SIZE),
    "inner_hidden_size": (lambda value: value is None or (type(value) is int and value > 0), "大于 0 的整数"),
    "layernorm_epsilon": (lambda value: _is_number(value, 1e-12, 0.1), "1e-12 到 0.1 之间的数"),
    "max_sequence_length": (lambda value: _is_int(value, 1, 2**24), "1 到 16777216 之间的整数"),
    "initializer_range": (lambda value: _is_number(value, 0, 1), "0 到 1 之间的数"),
    **dict.fromkeys(("position_encoding_2d", "tie_word_embeddings", "use_cache"), _SWITCH),
    **dict.fromkeys(("quantization_embeddings", "prefix_projection"), _SWITCH),
    **dict.fromkeys(("mask_token_id", "gmask_token_id", "bos_token_id", "eos_token_id", "pad_token_id"), _ID),
    "quantization_bit": (lambda value: _is_int(value, 0, 64), "0、4 或 8"),
    "pre_seq_len": (lambda value: value is None or _is_int(value, 0, 2**24), "null 或整数"),
    "quantization_config": (lambda value: value is None or isinstance(value, dict), "一个对象"),
    "dtype": (lambda value: True, ""),
}
_DTYPES = ("float16", "bfloat16", "float32")
_SHOWN_CHARACTERS = 60  # of a wrong value

BITS = (4, 8)  # of the published layouts for whole numbers
# Beyond these a config is damaged or hostile, and building even an empty model would exhaust the memory.
MAX_LAYERS, MAX_PARAMETERS = 1000, 100_000_000_000


@strict
class ChatGLMConfig(PreTrainedConfig):
    """Shape and special ids of a ChatGLM (v1) model; the defaults are those of the published ChatGLM-6B.

    Args:
        vocab_size: rows of the embedding; the published one is the tokenizer's 130,344 pieces, padded.
        hidden_size: width of the residual stream.
        num_layers: number of GLM blocks.
        num_attention_heads: heads of each block; `hidden_size` is a multiple of four times this number,
            because each half of a head is rotated by a position channel of its own.
        inner_hidden_size: width of the MLP; 4 * hidden_size when None.
        layernorm_epsilon: epsilon of every layer norm.
        max_sequence_length: the longest sequence (context and answer) the model was trained for.
        position_encoding_2d: only True is published for this model and supported here.
        tie_word_embeddings: share `lm_head.weight` with the embedding. The published config is silent and
            its weights are equal, so True.
        mask_token_id, gmask_token_id: ids of `[MASK]` and `[gMASK]`.
        bos_token_id, eos_token_id, pad_token_id: ids of `<sop>`, `<eop>` and `<pad>`.
        quantization_bit: 4 or 8 where the files hold the blocks' weights as whole numbers (see `row_scaled`).
        quantization_embeddings: so they do with the embedding.
        pre_seq_len: length of a P-tuning v2 prefix that every layer sees before the sequence; None without.
        prefix_projection: that prefix is computed by two linear layers.

    Raises:
        ValueError: a shape that is no ChatGLM (by `validate_architecture`).

    Source: `config.json` and `configuration_chatglm.py` of THUDM/chatglm-6b.
    """

    model_type = "chatglm"
    attribute_map: ClassVar = {
        "num_hidden_layers": "num_layers",
        "intermediate_size": "inner_hidden_size",
        "max_position_embeddings": "max_sequence_length",
    }

    vocab_size: int = 130528
    hidden_size: int = 4096
    num_layers: int = 28
    num_attention_heads: int = 32
    inner_hidden_size: int | None = 16384
    layernorm_epsilon: float = 1e-5
    max_sequence_length: int = 2048
    position_encoding_2d: bool = True
    tie_word_embeddings: bool = True
    use_cache: bool = True
    initializer_range: float = 0.02
    mask_token_id: int = 130000
    gmask_token_id: int = 130001
    bos_token_id: int = 130004
    eos_token_id: int = 130005
    pad_token_id: int = 3
    quantization_bit: int = 0
    quantization_embeddings: bool = False
    pre_seq_len: int | None = None
    prefix_projection: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        # Published checkpoints name code to run from the hub; nothing of it is ever used or saved again.
        kwargs.pop("auto_map", None)
        self.pre_seq_len = self.pre_seq_len or None
        if self.inner_hidden_size is None:
            self.inner_hidden_size = 4 * self.hidden_size
        super().__post_init__(**kwargs)

    @classmethod
    def from_file(cls, content: dict[str, Any]) -> ChatGLMConfig:
        """Make a config of what a `config.json` holds, taking the fields that are known and in their range.

        Raises:
            ValueError: fields are not what they may be (all of them are named), or see the class.
        """
        fields = {name: content[name] for name in _FIELDS if name in content}
        if fields.get("dtype") not in _DTYPES:
            fields.pop("dtype", None)
        problems = [
            f"config.json 的 {name} 必须是{_FIELDS[name][1]}，现在是 {repr(value)[:_SHOWN_CHARACTERS]}。"
            for name, value in fields.items()
            if not _FIELDS[name][0](value)
        ]
        if problems:
            raise ValueError("".join(problems))
        config = cls(**fields)
        for name, rule in _FIELDS.items():
            if rule is _ID and getattr(config, name) >= config.vocab_size:
                raise ValueError(
                    f"config.json 的 {name}={getattr(config, name)} 不小于 vocab_size={config.vocab_size}。"
                )
        return config

    def parameter_count(self) -> int:
        """Return the number of parameters of the model with its head (6,173,286,400 as published)."""
        return shape_of(self).parameters

    def validate_architecture(self) -> None:
        """Refuse shapes and variants that the native model does not implement (called by `@strict`)."""
        sizes = ("vocab_size", "hidden_size", "num_layers", "num_attention_heads", "inner_hidden_size")
        for name in sizes:
            value = getattr(self, name)
            if type(value) is not int or value <= 0:
                raise ValueError(f"config.json 的 {name} 必须是大于 0 的整数，现在是 {value!r}。")
        parameters = self.parameter_count() + prefix_parameters(self)
        if self.num_layers > MAX_LAYERS or parameters > MAX_PARAMETERS:
            raise ValueError(
                f"config.json 要求 {self.num_layers} 层、{parameters:.1e} 个参数，远超 ChatGLM-6B，拒绝加载。"
            )
        if self.hidden_size % (4 * self.num_attention_heads):
            raise ValueError(
                f"config.json 的 hidden_size={self.hidden_size} 必须是 num_attention_heads="
                f"{self.num_attention_heads} 的 4 倍的整数倍（二维旋转位置编码要求）。"
            )
        if not self.position_encoding_2d:
            raise ValueError("只支持 position_encoding_2d=true 的 ChatGLM（v1）模型。")
        if self.quantization_bit not in (0, *BITS):
            raise ValueError(
                f"config.json 的 quantization_bit 应当是 0、4 或 8，现在是 {self.quantization_bit}。"
            )
