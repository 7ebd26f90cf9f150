"""CSV for people: a line for each mention, which Excel opens as it is (UTF-8 with a byte order mark)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from export.formats import WriteOptions
from export.graph_store import Edge, GraphStore
from export.guard import quote, with_guard

# Names that `python -m data_handle.convert` knows, so that a corrected table can be trained on.
HEADINGS = (
    "句子编号", "句子", "主语", "主语类型", "关系", "宾语", "宾语类型", "得分",
    "主语开始", "主语结束", "宾语开始", "宾语结束",
)  # fmt: skip


def write(store: GraphStore, path: Path, options: WriteOptions) -> list[str]:
    """Write the table; memory doesn't grow with it.

    Returns:
        What the user should know, in Chinese.
    """
    guarded = 0

    def cell(text: str) -> str:
        nonlocal guarded
        safe = text if options.keep_formulas else with_guard(text)
        guarded += safe != text
        return safe

    with path.open("w", encoding="utf-8-sig", newline="") as file:
        file.write(",".join(map(quote, HEADINGS)) + "\r\n")
        for row in rows(store, cell):
            file.write(",".join(map(quote, row)) + "\r\n")
    if not guarded:
        return []
    return [f"{guarded} 个值以 = + - @ 等开头，前面加了 '，免得被当作公式；要原样的请加 --keep_formulas。"]


def rows(store: GraphStore, cell: Callable[[str], str]) -> Iterator[list[str | float | None]]:
    """Yield the cells of each mention, in the order of `HEADINGS`; `cell` is applied to every text."""
    for edge in store.edges(each_mention=True, with_text=True):
        yield _cells(edge, cell)


def _cells(edge: Edge, cell: Callable[[str], str]) -> list[str | float | None]:
    texts = (
        edge.sentence_id, edge.text or "", edge.subject.name, edge.subject.type,
        edge.predicate, edge.object.name, edge.object.type,
    )  # fmt: skip
    spans = (edge.subject_start, edge.subject_end, edge.object_start, edge.object_end)
    return [*map(cell, texts), edge.score, *spans]
