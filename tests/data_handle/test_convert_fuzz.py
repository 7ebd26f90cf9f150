"""Damaged files of any format: converted as far as they go, or refused in one sentence; never a traceback."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_handle.annotation.results import read_results
from data_handle.annotation.selection import select
from data_handle.annotation.tasks import build_tasks
from data_handle.conversion.checking import check_sentences
from data_handle.converters import read_file
from data_handle.converters.answers import read_answer
from data_handle.converters.labelled import Settings
from tests.data_handle.converting import DIRECTED, FILM, as_json
from utils.common_utils import UserError

QUESTION = json.dumps(
    {"instruction": "抽", "schema": [{"predicate": "导演"}], "input": FILM}, ensure_ascii=False
)
MARKED = {"start": 1, "end": 5, "text": "雾港来信", "labels": ["影视作品"]}
RECORDS: list[dict[str, Any]] = [
    {"instruction": "抽取：" + FILM, "input": "", "output": as_json(DIRECTED)},
    {"conversations": [{"from": "human", "value": "抽：" + FILM}, {"from": "gpt", "value": "[]"}]},
    {"messages": [{"role": "user", "content": FILM}, {"role": "assistant", "content": "[]"}]},
    {"context": FILM, "target": as_json(DIRECTED), "spans": [{"subject_span": [1, 5], "object_span": None}]},
    {
        "task": "RE",
        "instruction": QUESTION,
        "output": '{"导演": [{"subject": "雾港来信", "object": "沈知远"}]}',
    },
    {"task": "KG", "instruction": QUESTION, "output": '{"作品": {"雾港来信": {"导演": ["沈知远"]}}}'},
    {
        "text": FILM,
        "entities": [
            {"id": 1, "label": "作品", "start_offset": 1, "end_offset": 5},
            {"id": 2, "label": "人物", "start_offset": 7, "end_offset": 10},
        ],
        "relations": [{"from_id": 1, "to_id": 2, "type": "导演"}],
    },
    {
        "id": 1,
        "data": {"text": FILM},
        "annotations": [
            {
                "ground_truth": False,
                "was_cancelled": False,
                "result": [
                    {"id": "a", "type": "labels", "value": MARKED},
                    {"id": "b", "type": "labels", "value": MARKED},
                    {"type": "relation", "from_id": "a", "to_id": "b", "direction": "bi", "labels": ["导演"]},
                ],
            }
        ],
    },
    {
        "text": FILM,
        "spo_list": [
            {
                "predicate": "导演",
                "subject": "雾港来信",
                "subject_type": "影视作品",
                "object": {"@value": "沈知远", "inWork": "x"},
                "object_type": {"@value": "人物", "inWork": "y"},
            }
        ],
    },
    {
        "text": FILM,
        "triplets": [{"subject": {"name": "雾港来信", "pos": [1, 5]}, "predicate": "导演", "object": "沈"}],
    },
    {"text": FILM, "triplets": [{**DIRECTED._asdict(), "score": 0.5, "object_span": [7, 10]}]},
    {"sentence": FILM, "head": "雾港来信", "relation": "导演", "tail": "沈知远", "head_offset": "1"},
]
JUNK = st.sampled_from(
    [
        None,
        True,
        -1,
        10**30,
        0.5,
        "",
        "x",
        "\ud800",
        "[]",
        "{}",
        "[1]",
        [],
        [None],
        [[1, 2, 3]],
        {},
        {"@value": 1},
    ]
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each place of a JSON value that can be changed: container and key."""
    if isinstance(value, dict):
        return [(value, key) for key in value] + [place for item in value.values() for place in places(item)]
    if isinstance(value, list):
        return [(value, index) for index in range(len(value))] + [p for item in value for p in places(item)]
    return []


@st.composite
def damaged(draw: st.DrawFn) -> list[Any]:
    records = json.loads(json.dumps(draw(st.lists(st.sampled_from(RECORDS), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(1, 3))):
        choices = places(records)
        if choices:
            container, key = choices[draw(st.integers(0, len(choices) - 1))]
            container[key] = json.loads(json.dumps(draw(JUNK)))
    return records


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged(), st.booleans())
def test_damaged_records(tmp_path: Path, records: list[Any], as_lines: bool) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(
        "\n".join(map(json.dumps, records)) if as_lines else json.dumps(records), encoding="utf-8"
    )
    for keep_slots in (False, True):
        try:
            content = read_file(path, Settings(keep_slots=keep_slots))
        except UserError:
            continue
        assert content.units >= 1
        checked = check_sentences(content.sentences, {})
        assert content.sentences or content.problems
        for sample in checked.samples:
            for triplet in sample.triplets:
                assert triplet.subject in sample.text and triplet.object in sample.text
                assert all(triplet)
    with contextlib.suppress(UserError):
        results, _ = read_results(path)
        build_tasks(results, "model")
        select(results, 5)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.binary(max_size=60), st.text(alphabet='句子主语关系宾,\t"\n\r雾港{}[]:\x00', max_size=80))
)
def test_any_bytes(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "any.dat"
    path.write_bytes(
        content if isinstance(content, bytes) else "句子,主语,关系,宾语\n".encode() + content.encode()
    )
    with contextlib.suppress(UserError):
        check_sentences(read_file(path, Settings()).sentences, {})


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            ["T1\t作品 1 5\t雾港", "T2\t人物 7 99\tx", "R1\t导演 Arg1:T1 Arg2:T2", "R", "T", "E1 x", "\t"]
        )
    )
)
def test_any_brat_lines(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "a.txt").write_text(FILM, encoding="utf-8")
    path = tmp_path / "a.ann"
    path.write_text("\n".join(lines), encoding="utf-8")
    with contextlib.suppress(UserError):
        check_sentences(read_file(path, Settings()).sentences, {})


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.sampled_from(
            [*"()（）<>[]{}【】,，;；|_-→\t\n:：\"'“”`*1.、甲乙", "主体", "关系", "客体", "类型", "```"]
        )
    )
)
def test_any_answer_is_read_or_refused(parts: list[str]) -> None:
    for question in (None, "抽取三元组"):
        with contextlib.suppress(ValueError):
            for fact in read_answer("".join(parts), question=question):
                assert isinstance(fact.subject, str) and isinstance(fact.predicate, str)


def test_hostile_answers_cost_no_quadratic_time(tmp_path: Path) -> None:
    size = 100_000
    answers = ["```" + " " * size, "```" * size, "(" * size, "[{" * size, "（甲" * size, "[" + "{}," * size]
    records = [{"context": FILM, "target": answer} for answer in answers]
    records += [{"instruction": "：" * size, "output": answer} for answer in [as_json(DIRECTED), *answers]]
    path = tmp_path / "hostile.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    started = time.process_time()
    read_file(path, Settings())
    assert time.process_time() - started < 15


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(UserError, match="嵌套过深"):
        read_file(path, Settings())
