"""IEPile, OneKE and their kin: the instruction is JSON itself, with `schema` and `input`.

Source: github.com/zjunlp/IEPile and github.com/zjunlp/DeepKE (InstructKGC). Tasks RE (schema of names), SPO
(schema with types) and KG (schema by type of entity, answers as {type: {entity: {attribute: value}}}).
One sentence comes several times, with other parts of the schema: its facts are put together. Tasks NER
and EE have no
relations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from data_handle.converters.answers import Types, read_answer
from data_handle.converters.fields import as_text
from data_handle.converters.labelled import Fact, Labelled, Problem, Settings, excerpt
from data_handle.converters.python_values import parse_python
from data_handle.converters.source import Record, parse_json

_TASKS = {"RE", "SPO", "KG"}


def recognise(record: dict[str, Any]) -> str | None:
    """Return the format's name if a record has it."""
    is_known = _answer(record) is not None and read_question(record.get("instruction")) is not None
    return "IEPile / OneKE" if is_known else None


def read_question(instruction: Any) -> dict[str, Any] | None:
    """Return an instruction that is an object, or one as text, with `input`; None if it is something else."""
    if isinstance(instruction, str) and instruction.lstrip().startswith("{") and "input" in instruction:
        for parse in (parse_json, parse_python):
            try:
                instruction = parse(instruction)
                break
            except ValueError:
                continue
    return instruction if isinstance(instruction, dict) and "input" in instruction else None


def read(records: list[Record], settings: Settings) -> Iterator[Labelled | Problem]:
    """Yield the sentences of records, and what can't be used."""
    for where, record in records:
        task = str(record.get("task") or "RE")
        if task not in _TASKS:
            yield Problem(where, f"是 {task} 任务，没有关系")
            continue
        question, output = read_question(record["instruction"]) or {}, _answer(record)
        try:
            text = as_text(question.get("input"), "input")
            answer = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
            facts = _read_entities(answer) if task == "KG" else None
            yield Labelled(text, read_answer(answer, types_of(question)) if facts is None else facts, where)
        except ValueError as error:
            yield Problem(where, str(error), excerpt(str(output)))


def _answer(record: dict[str, Any]) -> Any:
    return next((record[name] for name in ("output", "label") if name in record), None)


def types_of(question: dict[str, Any]) -> dict[str, Types]:
    """Return the types of each predicate, of a schema that gives them."""
    schema = question.get("schema")
    items = [item for item in schema if isinstance(item, dict)] if isinstance(schema, list) else []
    return {
        str(item["predicate"]): Types(str(item.get("subject_type", "")), str(item.get("object_type", "")))
        for item in items
        if "predicate" in item
    }


def _read_entities(answer: str) -> list[Fact] | None:
    """Read {type: {entity: {attribute: value or values}}}; None if the answer has another form."""
    try:
        value = parse_json(answer)
    except ValueError:
        return None
    if not isinstance(value, dict) or not all(isinstance(entities, dict) for entities in value.values()):
        return None
    facts = []
    for kind, entities in value.items():
        for name, attributes in entities.items():
            if not isinstance(attributes, dict):
                return None
            for attribute, found in attributes.items():
                for item in found if isinstance(found, list) else [found]:
                    if not isinstance(item, dict):  # an attribute of an attribute is no triplet
                        facts.append(Fact(attribute, name, as_text(item, attribute), kind))
    return facts
