"""The sentences of a file, labelled or not: training lines, results, other JSON, tables, or one a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_handle.converters import read_file
from data_handle.converters.fields import get_field
from data_handle.converters.labelled import Settings
from data_handle.converters.source import open_source
from task.prompt import split_context
from utils.common_utils import UserError


def read_sentences(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each sentence of a file, with the place where it stands.

    Raises:
        UserError: the file can't be read.
    """
    source = open_source(path)
    if source.form == "records":
        for where, value in source.records:
            text = _text(value)
            if isinstance(text, str) and text.strip():
                yield where, text.strip()
        return
    if source.form != "table":
        yield from _labelled(path)
        return
    with suppress(UserError):  # no table of labels: then a sentence a line
        yield from _labelled(path)
        return
    for number, line in enumerate(source.text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def _labelled(path: Path) -> Iterator[tuple[str, str]]:
    for sentence in read_file(path, Settings()).sentences:
        yield sentence.where, sentence.text.strip()


def _text(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if isinstance(context := value.get("context"), str):
        return split_context(context)[1]
    data = value.get("data")  # of a task of Label Studio
    return get_field(data if isinstance(data, dict) else value, "text")
