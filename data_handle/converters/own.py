"""The product's own training lines: `context` and `target` (README, "数据格式"), as lines or in an array.

Answers in other notations than ours (one object, a list that is wrapped, prose around the fence, no
types) are read as what they say; the prompt's own instruction is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from data_handle.converters.answers import read_answer
from data_handle.converters.fields import as_text
from data_handle.converters.source import Record
from data_handle.labelled import Labelled, Problem, Settings, excerpt
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
            yield Labelled(sentence, read_answer(target), where, match[1] if match else None)
        except ValueError as error:
            yield Problem(where, str(error), excerpt(str(record["target"])))
