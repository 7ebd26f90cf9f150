"""The product's own training lines: `context` and `target` (README, "数据格式"), as lines or in an array.

Answers in other notations than ours (one object, a list that is wrapped, prose around the fence, no
types) are read as what they say; the prompt's own instruction is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from data_handle.converters.answers import read_answer
from data_handle.converters.fields import as_text, read_span
from data_handle.converters.labelled import Fact, Labelled, Problem, Settings, excerpt
from data_handle.converters.source import Record
from task.prompt import split_context

_INSTRUCTION = re.compile(r"Instruction: .*?\nInput: (.*?)\n\n", re.DOTALL)


def recognise(record: dict[str, Any]) -> str | None:
    """Return the format's name if a record has it."""
    return "本项目的训练数据（context/target）" if {"context", "target"} <= record.keys() else None


def read(records: list[Record], settings: Settings) -> Iterator[Labelled | Problem]:
    """Yield the sentences of records, and what can't be used."""
    for where, record in records:
        try:
            context, target = (as_text(record[name], name) for name in ("context", "target"))
            head, sentence, _ = split_context(context)
            match = _INSTRUCTION.fullmatch(head)
            facts = _with_spans(read_answer(target), record.get("spans"))
            yield Labelled(sentence, facts, where, match[1] if match else None)
        except ValueError as error:
            yield Problem(where, str(error), excerpt(str(record["target"])))


def _with_spans(facts: list[Fact], spans: Any) -> list[Fact]:
    """Return facts with the places that an earlier conversion kept beside them."""
    if not isinstance(spans, list) or len(spans) != len(facts):
        return facts
    pairs = [span if isinstance(span, dict) else {} for span in spans]
    return [
        fact._replace(
            subject_span=read_span(pair.get("subject_span")), object_span=read_span(pair.get("object_span"))
        )
        for fact, pair in zip(facts, pairs, strict=True)
    ]
