"""What extraction takes on a card: parts, rows, and when 4-bit weights are turned back."""

from __future__ import annotations

from bases.chatglm import ChatGLMConfig
from bases.chatglm.family import FAMILY
from extraction.memory_plan import ENOUGH_ROWS, MAX_ROWS, ExtractionSettings, memory_parts, plan_extraction
from utils.memory import GB

SHAPE = FAMILY.shape(ChatGLMConfig())  # the published one
SETTINGS = ExtractionSettings(2, load_in_4bit=True, prompt_tokens=256, answer_tokens=128)


def test_a_large_card_takes_expanded_weights_and_all_rows() -> None:
    plan = plan_extraction(SHAPE, SETTINGS, 79 * GB)
    assert (plan.expanded, plan.rows) == (True, MAX_ROWS)
    assert 11 * GB < plan.parts["权重"] < 13 * GB
    assert plan.peak < 79 * GB
    assert "每批 128 句，4-bit 权重一次展开成半精度" in plan.describe()


def test_a_small_card_keeps_four_bits() -> None:
    plan = plan_extraction(SHAPE, SETTINGS, 12 * GB)
    assert not plan.expanded
    assert 8 < plan.rows < MAX_ROWS
    assert plan.peak <= 12 * GB
    larger = plan_extraction(SHAPE, SETTINGS, 20 * GB)
    assert larger.expanded == (larger.rows >= ENOUGH_ROWS and larger.parts["权重"] > 10 * GB)


def test_8_bits_lie_between_4_and_half_precision() -> None:
    in_8bit = SETTINGS._replace(load_in_4bit=False, load_in_8bit=True)
    plans = [
        plan_extraction(SHAPE, each, 79 * GB, rows=8, expand=False)
        for each in (SETTINGS, in_8bit, SETTINGS._replace(load_in_4bit=False))
    ]
    weights = [plan.parts["权重"] / GB for plan in plans]
    assert weights == sorted(weights) and 6 < weights[1] < 7
    assert "8-bit 权重一次展开成半精度" in plan_extraction(SHAPE, in_8bit, 79 * GB).describe()


def test_what_is_asked_for_is_followed() -> None:
    assert plan_extraction(SHAPE, SETTINGS, 79 * GB, rows=3).rows == 3
    assert not plan_extraction(SHAPE, SETTINGS, 79 * GB, expand=False).expanded
    plain = SETTINGS._replace(load_in_4bit=False)
    assert plan_extraction(SHAPE, plain, 79 * GB).parts["权重"] > 12e9
    assert plan_extraction(SHAPE, SETTINGS, GB).rows == 1  # it may turn out shorter


def test_the_cache_counts_what_there_is_room_for() -> None:
    def cache(tokens: int) -> int:
        parts = memory_parts(
            SHAPE, SETTINGS, expanded=True, rows=8, cache_tokens=tokens, pass_tokens=64, logits=8
        )
        return parts["缓存"]

    assert cache(1000) == 1000 * 28 * 2 * 4096 * 2  # keys and values of 28 layers in half precision
    assert cache(2000) == 2 * cache(1000)
