"""`/v1/extract` as clients see it: the command's answers, at once or as a stream; choices; refusals."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import inference_triplet
from extraction.calibration import Calibration
from extraction.extractor import TripletExtractor
from extraction.loading import load_extractor
from serving.limits import Limits
from serving.metrics import Metrics
from tests.helpers.extraction_samples import (
    FILM,
    FILM_TRIPLETS,
    NOVEL,
    NOVEL_TRIPLETS,
    RAIN,
    TinyRun,
    write_jsonl,
)
from tests.helpers.service import Service, make_engine, running, wait_for
from tests.serving.conftest import LIMITS
from utils.common_utils import to_json

SENTENCES = [
    FILM,
    NOVEL,
    RAIN,
    "余华写《活着》。",
    "张玲执导电视剧𠮷😀，何赛飞主演。",
    "《\u3000Ａｂ１》，林在培！",
    FILM * 4,
]


def test_many_at_a_time_are_answered_as_the_command_answers(
    service: Service, tiny_run: TinyRun, tmp_path: Path
) -> None:
    texts = [SENTENCES[number % len(SENTENCES)] for number in range(200)]
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    words: list[object] = ["--adapter", tiny_run.adapter, "--scores", "--spans"]
    words += ["--input", source, "--output", tmp_path / "out"]
    assert inference_triplet.main([str(word) for word in words]) == 0
    wanted = (tmp_path / "out").read_text("utf-8").splitlines()
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda text: service.extract(text=text, scores=True), texts))
    assert [to_json(answer["results"][0]) for answer in answers] == wanted
    assert service.figure("triplet_rows_in_use") == 0 and service.figure("triplet_queue_sentences") == 0


def test_several_sentences_and_the_error_of_one(service: Service) -> None:
    answer = service.extract(texts=[NOVEL, "", FILM, "坏\x00字"], spans=False)
    assert answer["model"] == "tiny"
    novel, empty, film, bad = answer["results"]
    assert novel == {
        "text": NOVEL,
        "triplets": [
            {
                "predicate": "作者",
                "object_type": "人物",
                "subject_type": "图书作品",
                "object": "余华",
                "subject": "活着",
            }
        ],
    }
    assert empty == {"text": "", "triplets": [], "error": "字段 text 是空的"}
    assert [each["object"] for each in film["triplets"]] == ["张玲", "林在培", "何赛飞"]
    assert bad["triplets"] == [] and bad["error"]


def test_spans_count_characters_as_python_does(service: Service) -> None:
    (result,) = service.extract(text="😀𠮷" + NOVEL)["results"]
    for triplet in result["triplets"]:
        for name in ("object", "subject"):
            start, end = triplet[f"{name}_span"]
            assert result["text"][start:end] == triplet[name]
    assert result["triplets"]


@pytest.mark.parametrize(
    ("extra", "accept", "kind"),
    [
        ({"stream": True}, "*/*", "application/x-ndjson"),
        ({}, "application/x-ndjson", "application/x-ndjson"),
        ({}, "text/event-stream", "text/event-stream"),
    ],
)
def test_a_stream_has_every_result_once(service: Service, extra: dict, accept: str, kind: str) -> None:
    texts = ["", FILM, NOVEL, RAIN, FILM * 3]
    whole = service.extract(texts=texts)["results"]
    with service.client.stream(
        "POST", "/v1/extract", json={"texts": texts, **extra}, headers={"Accept": accept}
    ) as response:
        assert response.headers["content-type"].startswith(kind)
        text = response.read().decode()
    if kind == "text/event-stream":
        *events, last = text.strip().split("\n\n")
        assert last == "event: done\ndata: {}"
        assert all(event.startswith("event: result\n") for event in events)
        lines = [json.loads(event.partition("data: ")[2]) for event in events]
    else:
        lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0]["index"] == 0  # what is no sentence is known at once
    lines.sort(key=lambda line: line["index"])
    assert lines == [{"index": index, **result} for index, result in enumerate(whole)]


def test_choices(service: Service, extractor: TripletExtractor, monkeypatch: pytest.MonkeyPatch) -> None:
    def predicates(**body: Any) -> list[str]:
        return [
            triplet["predicate"] for triplet in service.extract(text=FILM, **body)["results"][0]["triplets"]
        ]

    assert predicates() == ["导演", "主演", "主演"]
    assert set(predicates(predicates=["主演"])) == {"主演"}
    combination = {"predicate": "配音", "subject_type": "影视作品", "object_type": "人物"}
    assert set(predicates(schema={"combinations": [combination]})) <= {"配音"}
    (scored,) = service.extract(text=FILM, scores=True)["results"]
    level = sorted(triplet["score"] for triplet in scored["triplets"])[1]
    (kept,) = service.extract(text=FILM, min_score=level - 1e-4)["results"]
    assert len(kept["triplets"]) == 2 and "score" not in kept["triplets"][0]
    monkeypatch.setattr(extractor, "calibration", Calibration(0.5, 0.25, -1.0))
    (calibrated,) = service.extract(text=FILM, scores=True)["results"]
    before = [triplet["score"] for triplet in scored["triplets"]]
    after = [triplet["score"] for triplet in calibrated["triplets"]]
    assert after == pytest.approx([extractor.calibration.apply(score) for score in before], abs=2e-4)  # type: ignore[union-attr]
    monkeypatch.setattr(extractor, "min_score", sorted(after)[1] - 1e-4)  # unless the request says otherwise
    (usual,) = service.extract(text=FILM)["results"]
    assert len(usual["triplets"]) == 2 and "score" not in usual["triplets"][0]
    assert len(service.extract(text=FILM, min_score=0)["results"][0]["triplets"]) == 3
    assert predicates(schema={"combinations": [combination]}) == predicates(
        schema={"combinations": [combination]}, min_score=0
    )
    monkeypatch.undo()
    # Sentences of other requests with other choices share the batch.
    with ThreadPoolExecutor(20) as pool:
        bodies: list[dict[str, Any]] = [
            {},
            {"predicates": ["主演"]},
            {"scores": True},
            {"predicates": ["导演"]},
        ] * 5
        mixed = list(pool.map(lambda body: service.extract(text=FILM, **body), bodies))
    alone = [service.extract(text=FILM, **body) for body in bodies[:4]]
    assert mixed == alone * 5


REFUSED = [
    ({}, 422, "invalid_request", "text 与 texts 应恰好写一个"),
    ({"text": "甲", "texts": ["乙"]}, 422, "invalid_request", "text 与 texts 应恰好写一个"),
    ({"texts": []}, 422, "invalid_request", "texts 至少要有 1 项"),
    ({"texts": ["甲", 3]}, 422, "invalid_request", "texts.1 应当是字符串"),
    ({"text": " "}, 422, "bad_sentence", "text 不能抽取"),
    ({"text": "甲", "min_score": 1.5}, 422, "invalid_request", "min_score 应不大于 1"),
    ({"text": "甲", "colour": 1}, 422, "invalid_request", "colour 没有这个字段"),
    ({"text": "甲", "timeout": 0}, 422, "invalid_request", "timeout 应大于 0"),
    ({"text": "甲", "model": "none"}, 404, "model_not_found", "现有的是：tiny"),
    ({"text": "甲", "model": "../../etc/passwd"}, 404, "model_not_found", "没有模型"),
    ({"text": "甲", "predicates": ["导眼"]}, 400, "unknown_predicate", "没有谓语 '导眼'"),
    ({"text": "甲", "predicates": []}, 422, "invalid_request", "predicates 至少要有 1 项"),
    ({"text": "甲", "schema": {"combinations": []}}, 422, "invalid_request", "combinations 至少要有 1 项"),
    ({"text": "甲", "schema": "schema.json"}, 422, "invalid_request", "schema 应当是对象"),
    ({"texts": ["甲"] * 41}, 413, "too_many_sentences", "一次至多 40 句，现在是 41 句"),
    ({"text": "甲" * 5001}, 413, "too_many_characters", "一次至多 5,000 个字符，现在是 5,001 个"),
]


@pytest.mark.parametrize(("body", "status", "code", "said"), REFUSED)
def test_bad_requests(service: Service, body: dict, status: int, code: str, said: str) -> None:
    response = service.client.post("/v1/extract", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert said in error["message"]
    if status == 413:
        assert error["limit"] in (40, 5000)


def test_a_full_queue_says_when_to_come_back(extractor: TripletExtractor) -> None:
    limits = Limits(queue=4, sentences=4)
    metrics = Metrics()
    gate = threading.Event()
    engine = make_engine([("tiny", extractor)], limits, metrics, 1, before_step=gate.wait)
    with running(engine, limits, metrics) as service, ThreadPoolExecutor(4) as pool:
        first = pool.submit(service.extract, texts=[RAIN] * 4)
        wait_for(lambda: engine.waiting >= 3)
        response = service.client.post("/v1/extract", json={"texts": [RAIN] * 4})
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["limit"] == 4
        assert "加上这次的 4 句超过上限 4 句" in response.json()["error"]["message"]
        assert service.figure("triplet_failures_total", kind="queue_full") == 1
        gate.set()
        assert len(first.result()["results"]) == 4
        assert len(service.extract(texts=[RAIN] * 4)["results"]) == 4


def test_a_deadline_ends_what_is_not_done(extractor: TripletExtractor) -> None:
    gate = threading.Event()
    metrics = Metrics()
    engine = make_engine([("tiny", extractor)], LIMITS, metrics, 1, before_step=gate.wait)
    with running(engine, LIMITS, metrics) as service:
        response = service.client.post("/v1/extract", json={"text": FILM, "timeout": 0.2})
        assert response.status_code == 504
        assert response.json()["error"]["message"] == "超过了 0.2 秒的时限，一句也没有做完。"
        lines = service.client.post("/v1/extract", json={"texts": [FILM, ""], "timeout": 0.2, "stream": True})
        by_index = {line["index"]: line for line in map(json.loads, lines.text.splitlines())}
        assert by_index[0]["error"] == "生成失败：超过了 0.2 秒的时限"
        gate.set()
        assert service.extract(text=RAIN)["results"][0]["triplets"] == []  # the rows are free again
        assert engine.idle


def test_a_model_whose_prompts_name_relations(relations_run: TinyRun) -> None:
    extractor = load_extractor(relations_run.adapter)
    metrics = Metrics()
    with running(make_engine([("asked", extractor)], LIMITS, metrics, 4), LIMITS, metrics) as service:
        results = service.extract(texts=[FILM, NOVEL], spans=False)["results"]
        wanted = [[triplet._asdict() for triplet in each] for each in (FILM_TRIPLETS, NOVEL_TRIPLETS)]
        assert [result["triplets"] for result in results] == wanted
        (only,) = service.extract(text=FILM, predicates=["主演"])["results"]
        assert [item["object"] for item in only["triplets"]] == ["林在培", "何赛飞"]
        new = {"predicate": "配音", "subject_type": "影视作品", "object_type": "人物", "description": "声音"}
        (asked,) = service.extract(text=FILM, schema={"combinations": [new]})["results"]
        assert {item["predicate"] for item in asked["triplets"]} <= {"配音"} and "error" not in asked
