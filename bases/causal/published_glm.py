"""ChatGLM2, ChatGLM3 and GLM-4-9B as they were published, with code of their own: read as transformers' GLM.

The architecture is that of transformers' `Glm`; fields of the config and tensors have other names, and query,
key and value of a block lie in one tensor. Source: `configuration_chatglm.py` and `modeling_chatglm.py` of
THUDM/chatglm2-6b and THUDM/chatglm3-6b.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

# What the published code can do otherwise and no published checkpoint does.
_FIXED = {
    "apply_residual_connection_post_layernorm": False,
    "post_layer_norm": True,
    "rmsnorm": True,
    "add_bias_linear": False,
    "original_rope": True,
    "quantization_bit": 0,
    "pre_seq_len": None,
}
_FIRST_VOCABULARY = 65024  # of ChatGLM2 and ChatGLM3
_NAMES = {
    "transformer.embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "transformer.encoder.final_layernorm.weight": "model.norm.weight",
    "transformer.output_layer.weight": "lm_head.weight",
}
_BLOCK_NAMES = {
    "input_layernorm.weight": "input_layernorm.weight",
    "self_attention.dense.weight": "self_attn.o_proj.weight",
    "post_attention_layernorm.weight": "post_attention_layernorm.weight",
    "mlp.dense_h_to_4h.weight": "mlp.gate_up_proj.weight",
    "mlp.dense_4h_to_h.weight": "mlp.down_proj.weight",
}
_BLOCK = re.compile(r"transformer\.encoder\.layers\.(\d{1,4})\.(.+)")
_FUSED = re.compile(r"self_attention\.query_key_value\.(weight|bias)")


class Part(NamedTuple):
    """Which rows of a file's tensor a parameter of the model is; all of them if `end` is None."""

    name: str
    start: int = 0
    end: int | None = None


def is_published_glm(content: dict[str, Any]) -> bool:
    """Tell whether a config.json is of ChatGLM2, ChatGLM3 or GLM-4 (and not of ChatGLM-6B)."""
    return content.get("model_type") == "chatglm" and "padded_vocab_size" in content


def glm_fields(content: dict[str, Any]) -> dict[str, Any]:
    """Return the config.json of the same model under the names of transformers' `GlmConfig`.

    Raises:
        ValueError: it asks for what no published checkpoint does; the message is in Chinese.
    """
    for name, value in _FIXED.items():
        if content.get(name, value) != value and content.get(name) is not None:
            raise ValueError(f"config.json 的 {name} 是 {str(content[name])[:40]}，本项目只支持 {value}。")
    ratio = content.get("rope_ratio", 1)
    if type(ratio) not in (int, float) or not 1 <= ratio <= 1e6:
        raise ValueError(f"config.json 的 rope_ratio 必须是 1 到 1e6 之间的数，现在是 {str(ratio)[:40]}。")
    if ratio != 1 and content["padded_vocab_size"] == _FIRST_VOCABULARY:
        raise ValueError(
            "这是 32K 上下文的 ChatGLM2/3（rope_ratio 不是 1），两代的算法不同而文件分不出来，"
            "本项目不支持；请用普通的 6B。"
        )
    groups = "multi_query_group_num" if content.get("multi_query_attention") else "num_attention_heads"
    return {
        "model_type": "glm",
        "vocab_size": content["padded_vocab_size"],
        "num_key_value_heads": content.get(groups),
        "rope_theta": 10000.0 * ratio,
        "partial_rotary_factor": 0.5,
        "attention_bias": bool(content.get("add_qkv_bias")),
        "tie_word_embeddings": False,
        "hidden_size": content.get("hidden_size"),
        "num_attention_heads": content.get("num_attention_heads"),
        "num_hidden_layers": content.get("num_layers"),
        "intermediate_size": content.get("ffn_hidden_size"),
        "head_dim": content.get("kv_channels"),
        "max_position_embeddings": content.get("seq_length"),
        "rms_norm_eps": content.get("layernorm_epsilon"),
    }


def glm_parts(name: str, config: Any) -> list[Part] | None:
    """Return what a published tensor becomes; None if it is of another kind of model.

    Args:
        name: in the files.
        config: a `GlmConfig`.
    """
    if name in _NAMES:
        return [Part(_NAMES[name])]
    if (block := _BLOCK.fullmatch(name)) is None:
        return None
    prefix = f"model.layers.{int(block[1])}."
    if block[2] in _BLOCK_NAMES:
        return [Part(prefix + _BLOCK_NAMES[block[2]])]
    if (fused := _FUSED.fullmatch(block[2])) is None:
        return None
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    return [
        Part(f"{prefix}self_attn.q_proj.{fused[1]}", 0, queries),
        Part(f"{prefix}self_attn.k_proj.{fused[1]}", queries, queries + keys),
        Part(f"{prefix}self_attn.v_proj.{fused[1]}", queries + keys, queries + 2 * keys),
    ]
