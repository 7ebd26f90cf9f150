"""Whether the relations that a prompt names leave room for a sentence."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from task.prompt import PromptTokenizer, build_prompt, with_relations
from task.schema import Schema
from utils.common_utils import UserError

ROOM_FOR_SENTENCE = 48  # tokens that relations in a prompt have to leave


class Room(NamedTuple):
    """What relations take of a prompt at most: their tokens together, and how many would fit at most."""

    tokens: int
    left: int  # for a sentence
    fitting: int


def relations_room(tokenizer: PromptTokenizer, schema: Schema, size: int, max_source_seq_len: int) -> Room:
    """Find out whether a prompt has room for relations and a sentence.

    Args:
        tokenizer: of the base.
        schema: the relations.
        size: of a prompt at most; the longest are counted.
        max_source_seq_len: tokens of a prompt.

    Raises:
        UserError: it hasn't; with how many would fit.
    """

    def taken(names: Sequence[str]) -> int:
        return len(tokenizer.prompt_ids(with_relations(build_prompt(""), names)))

    frame = taken([])
    costs = sorted((taken([name, ""]) - frame for name in schema.names()), reverse=True)
    tokens = sum(costs[:size])
    sums = itertools.accumulate(costs)
    room = max_source_seq_len - frame
    fitting = sum(total <= room - ROOM_FOR_SENTENCE for total in sums)
    if room - tokens < ROOM_FOR_SENTENCE:
        fix = f"把 relations_per_prompt 调到 {fitting} 或更小，或" if fitting else ""
        raise UserError(
            f"max_source_seq_len={max_source_seq_len} 放不下写明关系的提示词：指令 {frame} 个 token，"
            f"{min(size, len(costs))} 种关系至多 {tokens} 个，留给句子的不到 {ROOM_FOR_SENTENCE} 个；"
            f"请{fix}把 max_source_seq_len 调到 {frame + tokens + 2 * ROOM_FOR_SENTENCE} 以上。"
        )
    return Room(tokens, room - tokens, fitting)
