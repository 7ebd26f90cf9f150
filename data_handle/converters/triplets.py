"""JSON records with a sentence and its facts, in the spellings that public data sets and scripts use.

`{"text": …, "triplets": […]}` with subject/predicate/object, head/relation/tail, h/r/t, 主语/关系/宾语 and
the like; facts as objects, as lists of three, or with ends that have name, type and position. Sources: CasRel
(`triple_list`, github.com/weizhepei/CasRel), TPLinker (`relation_list` with `subj_char_span`,
github.com/131250208/TPlinker-joint-extraction), NYT (`sentText`, `relationMentions` with `em1Text`),
InstructIE (`input`, `relation` with `head_type`, github.com/zjunlp/DeepKE), untyped DuIE lists as of
bert4keras. One fact a record (`{"sentence", "head", "relation", "tail"}`) will do too, several records a
sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_handle.converters.answers import read_answer, read_value
from data_handle.converters.fields import as_text, find_field, get_field, is_fact, read_fact
from data_handle.converters.labelled import Fact, Labelled, Problem, Settings, excerpt, labelled_or_lost
from data_handle.converters.source import Record


def recognise(record: dict[str, Any]) -> str | None:
    """Return the format's name if a record has it."""
    if find_field(record, "text") is None:
        return None
    text_key, key = find_field(record, "text"), find_field(record, "facts")
    if key is not None and key != text_key and _holds_facts(record[key]):
        return f"句子与三元组（{text_key}、{key}）"
    if _is_single(record):
        return "每条一个三元组的 JSON"
    return None


def read(records: list[Record], settings: Settings) -> Iterator[Labelled | Problem]:
    """Yield the sentences of records, and what can't be used."""
    for where, record in records:
        try:
            text = as_text(get_field(record, "text"), "句子")
            key = find_field(record, "facts")
            if key is not None and _holds_facts(record[key]):
                yield from _read_list(text, record[key], where)
            else:
                yield Labelled(text, [read_fact(record)._replace(where=where)], where)
        except ValueError as error:
            yield Problem(where, str(error), excerpt(str(record)))


def _holds_facts(value: Any) -> bool:
    """Tell facts, which may have become text on their way through a table, from the name of one relation."""
    return isinstance(value, (list, dict)) or (
        isinstance(value, str) and value.strip()[:1] in ("[", "{", "(")
    )


def _read_list(text: str, items: Any, where: str) -> Iterator[Labelled | Problem]:
    if isinstance(items, str) or (isinstance(items, dict) and not is_fact(items)):
        yield Labelled(text, read_answer(items) if isinstance(items, str) else read_value(items), where)
        return
    facts: list[Fact] = []
    items = [items] if isinstance(items, dict) else items
    for item in items:
        try:
            facts += read_answer(item, question="三元组") if isinstance(item, str) else [read_fact(item)]
        except ValueError as error:
            yield Problem(where, str(error), excerpt(str(item)), whole=False)
    yield labelled_or_lost(text, facts, items, where)


def _is_single(record: dict[str, Any]) -> bool:
    text_key = find_field(record, "text")
    rest = {key: value for key, value in record.items() if key != text_key}
    return is_fact(rest)
