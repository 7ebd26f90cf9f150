"""Label Studio's JSON export: tasks with annotations, each a list of regions and relations between them.

Source: labelstud.io/guide/export (format "JSON") and github.com/HumanSignal/label-studio. A region has
`value.start`, `value.end` (exclusive) and `value.text`; a relation has `from_id`, `to_id`, `direction`
and `labels`. Offsets count code points today (the editor's `charsToCodePoints`) and counted UTF-16 units
before 1.4: `value.text` tells which. The export JSON-MIN leaves the relations out (label-studio issue
1803).
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from data_handle.converters.fields import as_text, find_field, read_span
from data_handle.converters.labelled import Fact, Labelled, Problem, Settings, Span, excerpt
from data_handle.converters.source import Record
from utils.common_utils import UserError

_TAG = re.compile(r"<[/!]?[a-zA-Z][^<>]*>|<!--[^<>]*-->")
_RELATION_FIELDS = ("labels", "label", "relation", "name")


class Region(NamedTuple):
    """A marked part of a text, as the annotation has it."""

    text: str
    type: str
    span: Span | None


def recognise(record: dict[str, Any]) -> str | None:
    """Return the format's name if a record has it.

    Raises:
        UserError: it is of the export JSON-MIN.
    """
    lists = [record.get(name) for name in ("annotations", "completions", "predictions")]
    if isinstance(record.get("data"), dict) and any(isinstance(value, list) for value in lists):
        return "Label Studio JSON"
    if record.keys() >= {"annotation_id", "annotator"} and "data" not in record:
        raise UserError(
            "这是 Label Studio 的 JSON-MIN 导出，它不含关系，无法得到三元组："
            "请在 Label Studio 的 Export 里选 JSON，重新导出。"
        )
    return None


def read(records: list[Record], settings: Settings) -> Iterator[Labelled | Problem]:
    """Yield the sentences of tasks, and what can't be used."""
    for place, task in records:
        where = f"{place.split(' 第 ')[0]} 任务 {task['id']}" if "id" in task else place
        annotations = _objects(task.get("annotations", task.get("completions")))
        text = find_text(task["data"], annotations)
        if text is None:
            yield Problem(where, "任务的 data 里没有唯一的一段文字", excerpt(str(task["data"])))
            continue
        if any(_is_html(item) for each in annotations for item in _objects(each.get("result"))):
            text = html.unescape(_TAG.sub("", text))
        valid = [item for item in annotations if not item.get("was_cancelled")]
        valid = [item for item in valid if item.get("ground_truth")] or valid
        if not valid:
            yield Problem(
                where, "任务被跳过（was_cancelled）" if annotations else "任务还没有标注", excerpt(text)
            )
            continue
        by_annotator: list[list[Fact]] = []
        has_lost = False
        for annotation in valid:
            facts: list[Fact] = []
            for item in read_annotation(text, annotation.get("result"), where):
                if isinstance(item, Problem):
                    has_lost = True
                    yield item
                else:
                    facts.append(item)
            by_annotator.append(facts)
        kept, disputed = _agree(by_annotator, where, settings.agreement)
        yield from disputed
        if kept or not (has_lost or disputed):
            yield Labelled(text, kept, where)
        else:
            yield Problem(where, "没有一个关系可用", excerpt(text))


def find_text(data: dict[str, Any], annotations: Iterable[dict[str, Any]] = ()) -> str | None:
    """Return the text of a task: its field `text`, the only string it has, or the one that regions fit.

    Args:
        data: of the task.
        annotations: of the task, whose regions tell the text among several.
    """
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    if "text" in texts:
        return texts["text"]
    if len(texts) == 1:
        return next(iter(texts.values()))
    values = [
        item["value"]
        for annotation in annotations
        for item in _objects(annotation.get("result"))
        if isinstance(item.get("value"), dict) and isinstance(item["value"].get("text"), str)
    ]
    fitting = [text for text in texts.values() if values and all(_fits(text, value) for value in values)]
    if len(fitting) == 1:
        return fitting[0]
    key = find_field(texts, "text")
    return texts[key] if key is not None and not values else None


def _is_html(item: dict[str, Any]) -> bool:
    return item.get("type") == "hypertextlabels"


def _fits(text: str, value: dict[str, Any]) -> bool:
    span = read_span([value.get("start"), value.get("end")])
    return span is not None and text[span.start : span.end] == value["text"]


def _objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list; none if it is something else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def read_annotation(text: str, result: Any, where: str) -> Iterator[Fact | Problem]:
    """Yield the facts of one annotation's (or prediction's) result; a region without a relation is none."""
    items = _objects(result)
    if not isinstance(result, list) or len(items) < len(result):
        yield Problem(where, "标注的 result 不全是对象", excerpt(str(result)), whole=False)
    regions: dict[str, Region] = {}
    for item in items:
        value = item.get("value")
        if isinstance(value, dict) and "start" in value and "id" in item:  # not a choice or a remark
            try:
                region, further = _region(text, value)
            except ValueError as error:
                yield Problem(where, str(error), excerpt(str(value)), whole=False)
                continue
            if further:
                detail = f"{region.text}：{region.type}、{'、'.join(further)}"
                yield Problem(where, "片段有几个类型，只用第一个", detail, whole=False)
            if region.type or str(item["id"]) not in regions:  # a remark on a region has no labels
                regions[str(item["id"])] = region
        elif isinstance(value, dict) and ("x" in value or "points" in value):
            yield Problem(where, "标注是图片上的区域，不是文字的片段", str(item.get("type")), whole=False)
    if _counts_utf16(text, regions.values()):
        regions = {key: _in_code_points(text, region) for key, region in regions.items()}
    for item in items:
        if item.get("type") != "relation":
            continue
        ends = [regions.get(str(item.get(name))) for name in ("from_id", "to_id")]
        labels = next((item[name] for name in _RELATION_FIELDS if item.get(name)), None)
        labels = [labels] if isinstance(labels, str) else labels
        if ends[0] is None or ends[1] is None:
            yield Problem(where, "关系所指的片段不在里面", excerpt(str(item)), whole=False)
        elif not labels or not isinstance(labels, list):
            detail = f"{ends[0].text} → {ends[1].text}"
            yield Problem(where, "两个片段之间的关系没有选名称", detail, whole=False)
        else:
            for label in labels:
                for subject, object_ in _directed(ends[0], ends[1], item.get("direction")):
                    types = subject.type, object_.type
                    yield Fact(str(label), subject.text, object_.text, *types, subject.span, object_.span)


def _region(text: str, value: dict[str, Any]) -> tuple[Region, list[str]]:
    """Read a region's value, and the labels that it has beside the first.

    Its text is what the annotator saw, its span is checked later.
    """
    span = read_span([value.get("start"), value.get("end")])
    if span is None and isinstance(whole := value.get("globalOffsets"), dict):  # of HTML
        span = read_span([whole.get("start"), whole.get("end")])
    marked = value.get("text")
    if isinstance(marked, str):
        marked = marked if "\n" not in text else marked.replace("\\n", "\n")
    elif span is not None and span.end <= len(text):
        marked = text[span.start : span.end]
    else:
        raise ValueError("片段没有文字，偏移也不在原文里")
    labels = next((item for key, item in value.items() if key.endswith("labels") and item), [""])
    labels = labels if isinstance(labels, list) else [labels]
    return Region(marked, as_text(labels[0], "labels"), span), [str(label) for label in labels[1:]]


def _counts_utf16(text: str, regions: Iterable[Region]) -> bool:
    """Tell whether offsets count UTF-16 units: all of them fit that way, and not all fit as code points."""
    if all(ord(character) < 0x10000 for character in text):
        return False
    marked = [(region.text, region.span) for region in regions if region.span is not None]
    units = text.encode("utf-16-le")
    return any(text[span.start : span.end] != value for value, span in marked) and all(
        units[2 * span.start : 2 * span.end] == value.encode("utf-16-le") for value, span in marked
    )


def _in_code_points(text: str, region: Region) -> Region:
    """Return a region whose offsets counted UTF-16 units with such that count code points."""
    if region.span is None:
        return region
    start = len(text.encode("utf-16-le")[: 2 * region.span.start].decode("utf-16-le"))
    return region._replace(span=Span(start, start + len(region.text)))


def _directed(first: Region, second: Region, direction: Any) -> list[tuple[Region, Region]]:
    if direction == "left":
        return [(second, first)]
    return [(first, second), (second, first)] if direction == "bi" else [(first, second)]


def _agree(by_annotator: list[list[Fact]], where: str, agreement: float) -> tuple[list[Fact], list[Problem]]:
    """Return the facts that enough annotators have marked, and the others as problems."""
    votes: Counter[Fact] = Counter()
    first: dict[Fact, Fact] = {}
    for facts in by_annotator:
        keys = {fact._replace(subject_span=None, object_span=None): fact for fact in facts}
        votes.update(keys.keys())
        for key, fact in keys.items():
            first.setdefault(key, fact)
    kept, disputed = [], []
    for key, fact in first.items():
        if votes[key] < agreement * len(by_annotator):
            detail = f"{' | '.join(key[:3])}：{len(by_annotator)} 位里有 {votes[key]} 位"
            disputed.append(Problem(where, "标注者意见不一，没有达到 --agreement", detail, whole=False))
        else:
            kept.append(fact)
    return kept, disputed
