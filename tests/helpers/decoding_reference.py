"""Constrained greedy decoding as plainly as can be: the whole sequence anew for every token, no cache."""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from extraction.decoding.grammar import AnswerGrammar


def repeats_twice(text: bytes) -> bool:
    """Tell whether the last two whole triplets of an answer stand in it before."""
    items = re.findall(r'\{"predicate": .*?"subject": "(?:[^"\\]|\\.)*"\}', text.decode("utf-8", "ignore"))
    return len(items) > 2 and items[-1] in items[:-2] and items[-2] in items[:-2]


@torch.no_grad()
def greedy_one_by_one(
    model: Any, grammar: AnswerGrammar, prompt: list[int], sentence: str, max_new_tokens: int
) -> list[int]:
    """Return the ids of an answer; `prompt` ends with `[gMASK] <sop>`."""
    matcher = grammar.matcher(grammar.source(sentence))
    answer: list[int] = []
    text = b""
    while len(answer) < max_new_tokens and not repeats_twice(text) and not matcher.is_stopped():
        if forced := matcher.compute_ff_tokens():
            token = forced[0]
        else:
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, -1]
            allowed = torch.from_numpy(grammar.mask(matcher))
            token = int(logits.masked_fill(~allowed, -math.inf).argmax())
        assert matcher.consume_token(token)
        answer.append(token)
        text += grammar.vocabulary.token_bytes[token]
    return answer
