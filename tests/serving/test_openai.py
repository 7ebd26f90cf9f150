"""Clients of the OpenAI kind: the package itself, response formats, several adapters on one base."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from extraction.extractor import TripletExtractor
from extraction.loading import load_extractor
from extraction.options import ExtractorOptions
from serving.engine import Engine
from serving.loading import prepare
from serving.metrics import Metrics
from serving.response_format import Shape, read_response_format
from task.prompt import PROMPT_TEMPLATE, build_prompt
from tests.helpers.extraction_samples import FILM, FILM_TRIPLETS, NOVEL, NOVEL_TRIPLETS, RAIN, TinyRun
from tests.helpers.service import Service, make_engine, running, wait_for
from tests.serving.conftest import LIMITS
from utils.common_utils import UserError

NOVEL_ITEMS = [triplet._asdict() for triplet in NOVEL_TRIPLETS]


def connect(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with connect(service) as started:
        yield started


def say(text: str) -> list[Any]:
    return [{"role": "system", "content": "ignored"}, {"role": "user", "content": text}]


def test_the_client_lists_asks_and_streams(client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    assert model.id == "tiny"
    assert client.models.retrieve("tiny").to_dict()["predicates"] == ["主演", "作者", "导演"]
    answer = client.chat.completions.create(model="tiny", messages=say(NOVEL), temperature=0.7, max_tokens=5)
    assert json.loads(answer.choices[0].message.content or "") == NOVEL_ITEMS
    assert answer.choices[0].finish_reason == "stop"
    assert (
        answer.usage
        and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    )
    parts = [{"type": "text", "text": NOVEL[:4]}, {"type": "text", "text": NOVEL[4:]}]
    again = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}])  # type: ignore[list-item, misc]
    assert again.choices[0].message.content == answer.choices[0].message.content
    stream = client.chat.completions.create(
        model="tiny", messages=say(NOVEL), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage == answer.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"


def streamed(client: openai.OpenAI, text: str, **options: Any) -> list[str]:
    """Return the parts of the content that come one after the other."""
    stream = client.chat.completions.create(model="tiny", messages=say(text), stream=True, **options)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert parts[0] == parts[-1] == ""  # the role, and the end
    return parts[1:-1]


PICKED = {"predicate": {"type": "string"}, "object": {"type": "string"}, "score": {"type": "number"}}
PICKED_LIST = {"type": "array", "items": {"type": "object", "properties": PICKED}}


@pytest.mark.parametrize(
    ("options", "item"),
    [
        ({}, '{"predicate"'),
        ({"response_format": {"type": "json_object"}}, '{"predicate"'),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "x",
                        "schema": {"type": "object", "properties": {"all": PICKED_LIST}},
                    },
                }
            },
            '"score": ',
        ),
        ({"extra_body": {"scores": True, "spans": True}}, '"subject_span": ['),
    ],
    ids=["list", "object", "schema", "scores"],
)
def test_a_stream_brings_one_triplet_after_the_other(
    client: openai.OpenAI, options: dict[str, Any], item: str
) -> None:
    for text in (FILM, NOVEL, RAIN, f"{FILM * 6}{NOVEL}"):
        whole = client.chat.completions.create(model="tiny", messages=say(text), **options)
        parts = streamed(client, text, **options)
        assert "".join(parts) == whole.choices[0].message.content
        if "score" in str(options) and len(text) > 100:
            assert len(parts) == 1  # of several pieces: found again, a triplet may score higher
        else:
            assert max(part.count(item) for part in parts) <= 1


def test_the_first_triplet_comes_before_the_last_is_made(extractor: TripletExtractor) -> None:
    go_on = threading.Event()

    def hold() -> None:
        (lane,) = engine.lanes.values()
        if any(work.shown for work, _ in lane._rows.values()):
            go_on.wait(60)

    metrics = Metrics()
    engine = make_engine([("tiny", extractor)], LIMITS, metrics, 8, hold)
    with running(engine, LIMITS, metrics) as service, connect(service) as client:
        stream = client.chat.completions.create(model="tiny", messages=say(FILM), stream=True)
        assert next(stream).choices[0].delta.role == "assistant"
        text = next(stream).choices[0].delta.content or ""
        assert json.loads(f"{text}]")[0] == FILM_TRIPLETS[0]._asdict()
        assert engine.rows == 1
        stream.close()
        wait_for(lambda: service.figure("triplet_failures_total", kind="hung_up") == 1)
        go_on.set()
        wait_for(lambda: engine.rows == 0)
        assert service.figure("triplet_sentences_total", model="tiny", outcome="ok") == 0


def test_what_fails_in_the_middle_of_a_stream(extractor: TripletExtractor) -> None:
    metrics = Metrics()
    engine = make_engine([("tiny", extractor)], LIMITS, metrics, 8, lambda: time.sleep(0.2))
    with running(engine, LIMITS, metrics) as service, connect(service) as client:
        stream = client.chat.completions.create(
            model="tiny", messages=say(FILM), stream=True, extra_body={"timeout": 0.3}
        )
        with pytest.raises(openai.APIError, match=r"超过了 0\.3 秒的时限"):
            list(stream)
        assert service.figure("triplet_failures_total", kind="timeout") == 1


def test_the_products_own_prompt(client: openai.OpenAI, extractor: TripletExtractor) -> None:
    answer = client.chat.completions.create(model="tiny", messages=say(build_prompt(NOVEL)))
    assert json.loads(answer.choices[0].message.content or "") == NOVEL_ITEMS
    # What wants no triplets is answered freely, as the extractor does.
    prompt = PROMPT_TEMPLATE.format(instruction="这句话说的是什么？", sentence=NOVEL)
    free = client.chat.completions.create(model="tiny", messages=say(prompt))
    assert free.choices[0].message.content == extractor.extract([NOVEL], [prompt])[0].raw
    with pytest.raises(openai.BadRequestError, match="response_format 只能是 text"):
        client.chat.completions.create(
            model="tiny", messages=say(prompt), response_format={"type": "json_object"}
        )


def test_response_formats(client: openai.OpenAI) -> None:
    class Found(BaseModel):
        predicate: Literal["主演"]
        subject: str
        object: str
        score: float

    class Answer(BaseModel):
        found: list[Found]

    whole = client.chat.completions.create(
        model="tiny", messages=say(FILM), response_format={"type": "json_object"}
    )
    items = [triplet._asdict() for triplet in FILM_TRIPLETS]
    assert json.loads(whole.choices[0].message.content or "") == {"triplets": items}
    parsed = client.chat.completions.parse(model="tiny", messages=say(FILM), response_format=Answer)
    answer = parsed.choices[0].message.parsed
    assert answer is not None and answer.found
    assert {each.predicate for each in answer.found} == {"主演"}
    assert all(0 < each.score <= 1 for each in answer.found)


def test_refusals_are_the_clients_own_errors(client: openai.OpenAI) -> None:
    def ask(**changes: Any) -> None:
        client.chat.completions.create(**{"model": "tiny", "messages": say(NOVEL), **changes})

    with pytest.raises(openai.NotFoundError, match="没有模型 'gpt'"):
        ask(model="gpt")
    with pytest.raises(openai.UnprocessableEntityError, match="messages 里没有 user 的消息"):
        ask(messages=[{"role": "system", "content": "x"}])
    with pytest.raises(openai.UnprocessableEntityError, match="n 应不大于 1"):
        ask(n=2)
    with pytest.raises(openai.UnprocessableEntityError, match="tools 至多 0 项"):
        ask(tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(openai.UnprocessableEntityError, match=r"messages\.0\.content\.0\.type 应为 'text'"):
        ask(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])
    ask(stream=None, n=None, tools=None, response_format=None, stop=None, max_tokens=None)
    with pytest.raises(openai.APIStatusError, match="一次至多 5,000 个字符"):
        ask(messages=say("甲" * 6000))


ITEM = {"type": "object", "properties": {"subject": {"type": "string"}, "object": {"type": "string"}}}


class LooseItem(BaseModel):
    subject: str | None = None
    score: float = Field(ge=0, le=1)
    subject_span: tuple[int, int]


class Loose(BaseModel):
    """As a hurried client writes it."""

    items: list[LooseItem] = []


BOTH = ("subject", "object")
LIST = {"type": "array", "items": {"$ref": "#/$defs/T"}}
CHOICE = {"type": "object", "properties": {"predicate": {"enum": ["甲", "乙"]}}}


def schema(content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": content}}


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (None, Shape()),
        ({"type": "text"}, Shape()),
        ({"type": "json_object"}, Shape("triplets")),
        (schema({"type": "array", "items": ITEM}), Shape(None, ("subject", "object"))),
        (schema({"$defs": {"T": ITEM}, "type": "object", "properties": {"all": LIST}}), Shape("all", BOTH)),
        (schema({"type": "array", "items": CHOICE}), Shape(None, ("predicate",), ("甲", "乙"))),
        (schema(Loose.model_json_schema()), Shape("items", ("subject", "score", "subject_span"))),
    ],
)
def test_shapes(value: Any, shape: Shape) -> None:
    assert read_response_format(value) == shape


@pytest.mark.parametrize(
    "value",
    [
        {"type": "xml"},
        {"type": "json_schema"},
        schema({"type": "string"}),
        schema({"type": "object", "properties": {"a": {"type": "string"}}}),
        schema({"type": "array", "items": {"type": "string"}}),
        schema({"type": "array", "minItems": 1, "items": ITEM}),
        schema({"type": "array", "items": {"type": "object", "properties": {"colour": {"type": "string"}}}}),
        schema({"type": "array", "items": {"type": "object", "properties": {"object": {"type": "integer"}}}}),
        schema({"type": "array", "items": {"type": "object", "properties": {"object": {"enum": ["x"]}}}}),
        schema({"type": "array", "maxItems": 1, "items": ITEM}),
        schema({"type": "array", "items": ITEM | {"required": ["subject", "predicate"]}}),
        schema({"type": "array", "items": {"type": "object", "properties": {"object": {"pattern": "^x"}}}}),
        schema({"type": "array", "items": {"type": "object", "properties": {"score": {"minimum": 0.5}}}}),
        schema({"type": "array", "items": {"type": "object", "properties": {"object": {"maxLength": 2}}}}),
        schema({"type": "array", "items": ITEM | {"oneOf": []}}),
        schema({"$ref": "#"}),
        schema({"$ref": "file:///etc/passwd"}),
        schema({"$ref": "#/$defs/none"}),
    ],
)
def test_what_triplets_do_not_fit(value: Any) -> None:
    with pytest.raises(Exception, match="response_format 不能满足"):
        read_response_format(value)


def test_adapters_on_one_base_answer_as_each_alone(tiny_run: TinyRun, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_run.adapter, other)
    narrow = {"combinations": [{"predicate": "导演", "subject_type": "影视作品", "object_type": "人物"}]}
    (other / "schema.json").write_text(json.dumps(narrow), encoding="utf-8")
    config = json.loads((other / "adapter_config.json").read_text("utf-8"))
    config["lora_alpha"] = 0.5  # much weaker
    (other / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    places = {"one": tiny_run.adapter, "other": other}
    alone = {name: load_extractor(place).extract([FILM, NOVEL]) for name, place in places.items()}
    assert alone["one"] != alone["other"]
    metrics = Metrics()
    engine = Engine(
        prepare({name: ExtractorOptions(place) for name, place in places.items()}, metrics), LIMITS, metrics
    )
    with running(engine, LIMITS, metrics) as service:
        one, second = (lane.extractor.model for lane in engine.lanes.values())
        assert one is second  # the weights are there once
        names = [name for _ in range(10) for name in places]
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda name: service.extract(texts=[FILM, NOVEL], model=name), names))
        for name, answer in zip(names, answers, strict=True):
            assert answer["model"] == name
            assert [result["triplets"] for result in answer["results"]] == [
                extraction.to_list(with_spans=True) for extraction in alone[name]
            ]
        assert service.extract(text=NOVEL)["model"] == "one"


def test_adapters_of_different_bases_are_refused(
    tiny_run: TinyRun, tmp_path: Path, random_base: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_run.adapter, other)
    models = {
        "one": ExtractorOptions(tiny_run.adapter),
        "two": ExtractorOptions(other, pre_model=str(random_base)),
    }
    with pytest.raises(UserError, match="一个服务只能有一个基座"):
        prepare(models, Metrics())()
