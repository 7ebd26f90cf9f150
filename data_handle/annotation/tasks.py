"""Extraction results as Label Studio's tasks with pre-annotations, and the labelling configuration for them.

Format: labelstud.io/guide/predictions. Offsets count code points, as the editor's own do; a relation goes
from the subject to the object.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

from data_handle.annotation.results import Found, Result, score_of
from data_handle.converters.labelled import Problem, Span, excerpt
from task.schema import Combination

LABELS, TEXT = "label", "text"  # names of the configuration's parts, which regions refer to
# Characters that XML 1.0 has no way to write.
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _RegionKey(NamedTuple):
    span: Span
    type: str


def build_tasks(
    results: Sequence[Result], model_version: str, min_score: float = 0.0
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Return a task for each sentence, with what was extracted as its prediction.

    Args:
        results: lines of an extraction. One that failed becomes a task without prediction.
        model_version: what predictions are said to come from.
        min_score: triplets below are left out.

    Returns:
        The tasks, and the triplets whose values aren't in their sentence.
    """
    tasks: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for result in results:
        task: dict[str, Any] = {"data": {"text": result.text, "source": result.where}}
        if isinstance(identity := result.fields.get("id"), (str, int)):
            task["data"]["id"] = identity
        if not result.failed:
            found = [each for each in result.found if each.score is None or each.score >= min_score]
            regions, lost = _build_regions(result, found)
            problems += lost
            prediction: dict[str, Any] = {"model_version": model_version, "result": regions}
            if (score := score_of(found)) is not None:
                prediction["score"] = score
            task["predictions"] = [prediction]
        tasks.append(task)
    return tasks, problems


def build_config(combinations: Iterable[Combination]) -> str:
    """Return the labelling configuration (XML): a label for each type, a relation for each predicate."""
    known = list(combinations)
    types = sorted({kind for each in known for kind in (each.subject_type, each.object_type)})
    predicates = sorted({each.predicate for each in known})
    lines = ["<View>", "  <Relations>"]
    lines += [f"    <Relation value={_attribute(name)}/>" for name in predicates]
    lines += ["  </Relations>", f'  <Labels name="{LABELS}" toName="{TEXT}">']
    for number, name in enumerate(types):
        lines.append(f'    <Label value={_attribute(name)} background="{_colour(number)}"/>')
    lines += ["  </Labels>", f'  <Text name="{TEXT}" value="$text" granularity="symbol"/>', "</View>"]
    return "\n".join(lines) + "\n"


def combinations_of(results: Iterable[Result]) -> set[Combination]:
    """Return the predicates of results with their types."""
    return {
        Combination(each.triplet.predicate, each.triplet.subject_type, each.triplet.object_type)
        for result in results
        for each in result.found
    }


def _build_regions(result: Result, found: Sequence[Found]) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Return regions and relations; values that stand in one place with one type share a region."""
    regions: dict[_RegionKey, dict[str, Any]] = {}
    relations: list[dict[str, Any]] = []
    problems = []
    for each in found:
        triplet = each.triplet
        keys = []
        for value, kind, span in (
            (triplet.subject, triplet.subject_type, each.subject_span),
            (triplet.object, triplet.object_type, each.object_span),
        ):
            if span is None or result.text[span.start : span.end] != value:
                start = result.text.find(value)
                span = Span(start, start + len(value)) if start >= 0 else None
            if span is None:
                problems.append(
                    Problem(result.where, "值不在句子里，没有预标注", excerpt(value), whole=False)
                )
            else:
                keys.append(_RegionKey(span, kind))
        if len(keys) < 2:
            continue
        for key in keys:
            region = regions.setdefault(key, _region(key, f"r{len(regions) + 1}", result.text))
            if each.score is not None:
                region["score"] = max(each.score, region.get("score", 0.0))
        relation: dict[str, Any] = {
            "type": "relation",
            "from_id": regions[keys[0]]["id"],
            "to_id": regions[keys[1]]["id"],
            "direction": "right",
            "labels": [triplet.predicate],
        }
        if each.score is not None:
            relation["score"] = each.score
        relations.append(relation)
    return [*regions.values(), *relations], problems


def _region(key: _RegionKey, identity: str, text: str) -> dict[str, Any]:
    start, end = key.span
    return {
        "id": identity,
        "from_name": LABELS,
        "to_name": TEXT,
        "type": "labels",
        "value": {"start": start, "end": end, "text": text[start:end], "labels": [key.type]},
    }


def _attribute(name: str) -> str:
    return quoteattr(_NOT_XML.sub("�", name), {"\n": "&#10;", "\t": "&#9;", "\r": "&#13;"})


def _colour(number: int) -> str:
    """Return a colour that differs from those of the numbers before, as #rrggbb."""
    parts = colorsys.hls_to_rgb(number * 0.618 % 1, 0.6, 0.65)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)
