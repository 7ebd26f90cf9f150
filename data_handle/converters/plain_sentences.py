"""The sentences of a file, labelled or not: training lines, results, other JSON, or one a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_handle.converters.fields import get_field
from data_handle.converters.source import open_source
from task.prompt import split_context


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
    for number, line in enumerate(source.text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def _text(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    context = value.get("context")
    return split_context(context)[1] if isinstance(context, str) else get_field(value, "text")
