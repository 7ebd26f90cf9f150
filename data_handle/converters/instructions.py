"""Instruction data: Alpaca (instruction, input, output), ShareGPT (conversations) and OpenAI's messages.

Sources: github.com/tatsu-lab/stanford_alpaca, LLaMA-Factory's `data/README.md` (alpaca and sharegpt),
OpenAI's fine-tuning format (`messages` with role and content). Where the sentence stands in one text with
the instruction, the instruction is what most prompts begin with.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any, NamedTuple

from data_handle.converters.answers import read_answer
from data_handle.converters.fields import as_text
from data_handle.converters.labelled import Fact, Labelled, Problem, Settings, excerpt
from data_handle.converters.source import Record

_ASKERS = {"human", "user"}
_ANSWERERS = {"gpt", "assistant", "chatgpt", "bot", "model"}
_CUT = re.compile(r"[:：]\s*|\n+\s*")
_MAX_CUTS = 50  # an instruction isn't longer
_CHAT_KEYS = ("conversations", "messages", "conversation")


class _Turn(NamedTuple):
    """A question and its answer."""

    where: str
    prompt: str  # instruction and sentence
    is_bare: bool  # the prompt is the sentence alone
    answer: str


def recognise(record: dict[str, Any]) -> str | None:
    """Return the format's name if a record has it."""
    for key in _CHAT_KEYS:
        turns = record.get(key)
        if isinstance(turns, list) and turns and all(isinstance(turn, dict) for turn in turns):
            return "messages（role/content）" if "role" in turns[0] else "ShareGPT"
    if {"instruction", "output"} <= record.keys():
        return "Alpaca"
    if {"prompt", "response"} <= record.keys() or {"prompt", "completion"} <= record.keys():
        return "prompt/response"
    return None


def read(records: list[Record], settings: Settings) -> Iterator[Labelled | Problem]:
    """Yield the sentences of records, and what can't be used."""
    turns: list[tuple[_Turn, list[Fact]]] = []
    for record in records:
        try:
            found = list(_turns(record))
        except ValueError as error:
            yield Problem(record.where, str(error))
            continue
        if not found:
            yield Problem(record.where, "没有一问一答")
        for turn in found:
            try:
                turns.append((turn, read_answer(turn.answer)))
            except ValueError as error:
                yield Problem(turn.where, str(error), excerpt(turn.answer))
    heads = _count_heads([(turn.prompt, facts) for turn, facts in turns if not turn.is_bare])
    for turn, facts in turns:
        sentence = turn.prompt if turn.is_bare else _sentence(turn.prompt, facts, heads)
        if sentence is None:
            yield Problem(turn.where, "分不清指令和句子", excerpt(turn.prompt))
        else:
            yield Labelled(sentence, facts, turn.where)


def _turns(record: Record) -> Iterator[_Turn]:
    where, value = record
    for key in _CHAT_KEYS:
        if isinstance(value.get(key), list):
            messages = [_message(message) for message in value[key]]
            for (asker, prompt), (answerer, answer) in pairwise(messages):
                if asker in _ASKERS and answerer in _ANSWERERS:
                    yield _Turn(where, prompt, False, answer)
            return
    if "prompt" in value:
        answer = value.get("response", value.get("completion"))
        yield _Turn(where, as_text(value["prompt"], "prompt"), False, as_text(answer, "response"))
        return
    sentence, output = as_text(value.get("input"), "input"), value["output"]
    answer = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    if sentence.strip():
        yield _Turn(where, sentence, True, answer)
    else:
        yield _Turn(where, as_text(value["instruction"], "instruction"), False, answer)


def _message(message: dict[str, Any]) -> tuple[str, str]:
    """Return who speaks, and what."""
    speaker = message.get("from", message.get("role"))
    content = message.get("value", message.get("content"))
    if isinstance(content, list):  # parts, as in OpenAI's newer messages
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(speaker).lower(), as_text(content, "content")


def _count_heads(prompts: list[tuple[str, list[Fact]]]) -> Counter[str]:
    """Count beginnings that may be instructions: up to a colon or line end, without values of the answer."""
    heads: Counter[str] = Counter()
    for prompt, facts in prompts:
        heads.update(_possible_heads(prompt, facts))
    return heads


def _possible_heads(prompt: str, facts: list[Fact]) -> list[str]:
    values = {value for fact in facts for value in (fact.subject, fact.object)}
    cuts = islice(_CUT.finditer(prompt), _MAX_CUTS)
    ends = [match.end() for match in cuts if match.end() < len(prompt)]
    return [prompt[:end] for end in ends if all(value in prompt[end:] for value in values)]


def _sentence(prompt: str, facts: list[Fact], heads: Counter[str]) -> str | None:
    """Cut the instruction off a prompt: the longest of the beginnings that most prompts share.

    A beginning that only this prompt has may be part of its sentence: then the shortest.
    """
    possible = _possible_heads(prompt, facts)
    if not possible:
        return None
    most = max(heads[head] for head in possible)
    shared = [head for head in possible if heads[head] == most]
    return prompt[len(shared[-1] if most > 2 else shared[0]) :].strip()
