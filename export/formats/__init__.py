"""The forms that a graph is written in: a file for each, and what the command needs to know of them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from utils.common_utils import UserError

NODE_LABEL, EDGE_TYPE = "实体", "关系"
DEFAULT_BASE_IRI = "https://example.org/kg/"


@dataclass(frozen=True)
class WriteOptions:
    """What a user may choose.

    Args:
        typed: types and predicates as labels, relation types or tables, instead of properties only.
        each_mention: an edge for each mention instead of one for each fact.
        with_text: the sentence along with each edge.
        keep_formulas: no apostrophe before what a spreadsheet would take for a formula (CSV).
        base_iri: what IRIs begin with.
        batch_size: rows a statement (Cypher).
    """

    typed: bool = False
    each_mention: bool = False
    with_text: bool = False
    keep_formulas: bool = False
    base_iri: str = DEFAULT_BASE_IRI
    batch_size: int = 1000


def labels(kind: str, options: WriteOptions) -> list[str]:
    """Return the labels of an entity of a type."""
    return [NODE_LABEL, kind] if options.typed and kind != NODE_LABEL else [NODE_LABEL]


def require(library: str, wanted_for: str) -> Any:
    """Import an optional library.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise UserError(
            f"{wanted_for} 需要软件包 {library}，现在没有装：请运行 pip install -r requirements-graph.txt。"
        ) from error
