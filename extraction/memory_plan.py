"""What extraction takes on a card, before anything is loaded: which weights, how many sentences at a time.

All sizes in bytes; GB are 2^30. `benchmarks/gpu_round.py` compares the plan with the measured peak.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from bases.interface import ModelShape
from bases.layers import linear_bytes
from extraction.decoding.decoder import PROMPT_TOKENS
from extraction.decoding.row import MAX_DRAFT
from extraction.decoding.row_cache import CHUNK
from utils.memory import CUDA_CONTEXT, GB

MAX_ROWS = 128  # more hardly speed a card up: a pass of them keeps it busy
# Weights turned back into half precision pay only if as many rows still fit beside them.
ENOUGH_ROWS = 16
TYPICAL_DRAFT = MAX_DRAFT // 2  # tokens with logits of a row, on average of a pass


class ExtractionSettings(NamedTuple):
    """What decides the memory of extraction beside the model's shape.

    Attributes:
        value_bytes: of a weight that is not quantised, and of an activation.
        load_in_4bit, load_in_8bit: the linear layers are 4-bit or 8-bit values, however they are kept.
        prompt_tokens, answer_tokens: at most.
        adapter_weights: of LoRA, in fp32.
    """

    value_bytes: int
    load_in_4bit: bool
    prompt_tokens: int
    answer_tokens: int
    adapter_weights: int = 0
    load_in_8bit: bool = False

    @property
    def quantized(self) -> bool:
        """Whether the linear layers have fewer bits than products."""
        return self.load_in_4bit or self.load_in_8bit


class ExtractionPlan(NamedTuple):
    """How extraction uses a card.

    Attributes:
        parts: bytes by Chinese name, to be added up: the predicted peak.
        budget: bytes that may be used.
        rows: sentences at a time.
        expanded: quantised weights are turned back into half precision once, not in every pass.
        bits: of these.
    """

    parts: dict[str, int]
    budget: int
    rows: int
    expanded: bool
    bits: int = 4

    @property
    def peak(self) -> int:
        """The predicted peak."""
        return sum(self.parts.values())

    def describe(self) -> str:
        """Return the plan as one Chinese line."""
        parts = "，".join(f"{name} {size / GB:.2f}" for name, size in self.parts.items())
        kind = f"，{self.bits}-bit 权重一次展开成半精度" if self.expanded else ""
        return (
            f"显存计划（GB）：{parts}，预计峰值至多 {self.peak / GB:.2f}，可用 {self.budget / GB:.2f}；"
            f"每批 {self.rows} 句{kind}"
        )


def memory_parts(
    shape: ModelShape,
    settings: ExtractionSettings,
    *,
    expanded: bool,
    rows: int,
    cache_tokens: int,
    pass_tokens: int,
    logits: int,
) -> dict[str, int]:
    """Predict the peak of extraction.

    Args:
        shape, settings: of the model and its use.
        expanded: see `ExtractionPlan`.
        rows: sentences at a time.
        cache_tokens: that the cache has room for, in all rows together.
        pass_tokens: of the largest pass.
        logits: positions of a pass that get logits, at most.

    Returns:
        Bytes by Chinese name of the part.
    """
    value = settings.value_bytes
    kept_bytes = linear_bytes(settings.load_in_4bit, settings.load_in_8bit, value)
    weights = int((value if expanded else kept_bytes) * shape.linear_parameters)
    weights += value * (shape.embedding_parameters + shape.other_parameters)
    largest = max(inputs * outputs for inputs, outputs in shape.linear_shapes.values())
    # In an MLP, the widest place: both sides of the activation, residual and norm.
    activations = pass_tokens * value * (2 * shape.inner_hidden_size + 4 * shape.hidden_size)
    activations += value * largest if settings.quantized and not expanded else 0
    head = logits * shape.vocab_size * value + rows * shape.vocab_size * 8  # and choices in fp32
    layer_cache = cache_tokens * shape.key_value_size * value
    return {
        "权重": weights + 4 * settings.adapter_weights,
        "缓存": layer_cache * shape.num_layers,
        "激活与对数几率": max(activations, head, layer_cache),  # a layer's cache stands twice while it grows
        "运行库": CUDA_CONTEXT,
    }


def plan_extraction(
    shape: ModelShape,
    settings: ExtractionSettings,
    budget: int,
    *,
    rows: int | None = None,
    expand: bool | None = None,
) -> ExtractionPlan:
    """Choose the rows and how the weights are kept, so that the peak stays within a budget.

    Args:
        shape, settings: of the model and its use.
        budget: bytes that may be used.
        rows: that the user wants; None: as many as fit.
        expand: whether to turn quantised weights back once; None: if enough rows fit beside them.

    Returns:
        The plan; if not even one row fits, that of one row, for it may turn out shorter.
    """
    row_tokens = math.ceil((settings.prompt_tokens + settings.answer_tokens + MAX_DRAFT) / CHUNK) * CHUNK

    def parts(expanded: bool, count: int) -> dict[str, int]:
        return memory_parts(
            shape,
            settings,
            expanded=expanded,
            rows=count,
            cache_tokens=count * row_tokens,
            pass_tokens=max(PROMPT_TOKENS, count * TYPICAL_DRAFT),
            logits=count * TYPICAL_DRAFT,
        )

    def fitting(expanded: bool) -> int:
        fits = [count for count in range(1, MAX_ROWS + 1) if sum(parts(expanded, count).values()) <= budget]
        return fits[-1] if fits else 0

    if not settings.quantized:
        expanded = False
    elif expand is not None:
        expanded = expand
    else:
        expanded = fitting(True) >= min(rows or ENOUGH_ROWS, ENOUGH_ROWS)
    count = rows or max(1, fitting(expanded))
    bits = 8 if settings.load_in_8bit else 4
    return ExtractionPlan(parts(expanded, count), budget, count, expanded, bits)
