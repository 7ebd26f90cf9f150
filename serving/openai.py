"""`POST /v1/chat/completions` for clients of the OpenAI kind, and how models are described to them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from extraction.records import typed_problem
from extraction.splitting import asks_for_triplets
from serving.answers import Answers, Wanted, check_size, choose, make_question
from serving.body import StrictRoute
from serving.engine import Engine
from serving.errors import RequestError
from serving.extract import SSE, json_response, unless_gone
from serving.jobs import Outcome
from serving.lane import Lane
from serving.limits import Limits
from serving.metrics import Metrics
from serving.response_format import Shape, read_response_format
from serving.schemas import Choices
from task.prompt import build_prompt, split_context
from utils.common_utils import to_json


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a conversation; only the last one of the user is read."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: str
    content: str | list[TextPart] | None = None

    @property
    def text(self) -> str:
        """What it says."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    """What a stream has beside its content."""

    include_usage: bool = False


class ChatRequest(Choices):
    """A conversation whose last user message is a sentence, or a whole prompt as training data has it.

    Sampling is of no use here (answers are greedy), so temperature and the like change nothing.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)
    spans: bool = False
    messages: list[Message] = Field(min_length=1, max_length=1000)
    model: str | None = None
    response_format: dict[str, Any] | None = Field(
        None, description="text（默认：三元组的 JSON 列表）、json_object 或 json_schema（见文档）。"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = Field(None, description="只能是 1。")
    tools: list[Any] | None = Field(None, max_length=0, description="不支持。")


class ChatMessage(BaseModel):
    """The answer's message."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """The answer; there is one."""

    index: int = 0
    message: ChatMessage
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    """The answer to a `ChatRequest`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


def make_router(engine: Engine, limits: Limits, metrics: Metrics) -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=StrictRoute, tags=["OpenAI"])
    streamed = {SSE: {"schema": {"type": "string"}}}

    @router.post("/v1/chat/completions", response_model=ChatResponse, responses={200: {"content": streamed}})
    async def chat(request: Request, body: ChatRequest) -> Response:
        """与 OpenAI 的客户端兼容：最后一条用户消息是句子，回答是三元组的 JSON。

        消息也可以是训练数据写法的整个提示词；其中不要三元组的，回答是模型自由写的。
        """
        lane = engine.find(body.model)
        shape = read_response_format(body.response_format)
        text = next((message.text for message in reversed(body.messages) if message.role == "user"), None)
        if text is None:
            raise RequestError(422, "no_user_message", "messages 里没有 user 的消息。", param="messages")
        check_size([text], limits)
        if problem := typed_problem(text):
            raise RequestError(422, "bad_sentence", f"这条消息不能抽取：{problem}。", param="messages")
        wanted = choose(lane, body, shape.predicates)
        wanted = wanted._replace(
            scores=wanted.scores or shape.with_scores, spans=wanted.spans or shape.with_spans
        )
        prompt = text if split_context(text)[0] else build_prompt(text)
        if not asks_for_triplets(prompt):
            if body.response_format is not None and shape != Shape():
                raise RequestError(
                    400,
                    "response_format",
                    "这个提示词不要三元组，response_format 只能是 text。",
                    param="response_format",
                )
            wanted = wanted._replace(constraint=None)
        seconds = min(body.timeout or limits.seconds, limits.seconds)
        question = make_question(prompt, wanted)
        answers = Answers(engine, lane.name, [question], seconds, growing=bool(body.stream))
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": lane.name}
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            chunks = _chunks(head, answers, shape, wanted, with_usage, metrics)
            return StreamingResponse(chunks, media_type=SSE)
        outcome = await unless_gone(request, _last(answers))
        content, reason = _content(outcome, shape, wanted)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": content},
            "finish_reason": reason,
        }
        answer = {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(outcome)}
        return json_response(answer)

    return router


def _content(outcome: Outcome, shape: Shape, wanted: Wanted) -> tuple[str, str]:
    """Return an answer's text, or what there is of it, and why it ends.

    Raises:
        RequestError: there is none.
    """
    extraction = outcome.extraction
    if extraction.error is not None:
        if outcome.failure == "timeout":
            raise RequestError(504, "timeout", f"{extraction.error}。")
        raise RequestError(500, outcome.failure or "generation", f"生成失败：{extraction.error}。")
    reason = "length" if extraction.truncated else "stop"
    if wanted.constraint is None:
        return extraction.raw, reason
    scores, spans = wanted.scores and bool(extraction.scores), wanted.spans and bool(extraction.spans)
    triplets = extraction.to_list(scores, spans)
    return (shape.write if outcome.whole else shape.begin)(triplets), reason


async def _last(answers: Answers) -> Outcome:
    """Return the outcome of the only question."""
    try:
        async for _, outcome in answers:
            if outcome.whole:
                return outcome
    finally:
        answers.cancel()
    raise AssertionError("a question without an outcome")


async def _chunks(
    head: dict[str, Any], answers: Answers, shape: Shape, wanted: Wanted, with_usage: bool, metrics: Metrics
) -> AsyncIterator[bytes]:
    """Yield an answer as the events of a stream, triplet after triplet; what goes wrong is the last event."""
    head = {**head, "object": "chat.completion.chunk"} | ({"usage": None} if with_usage else {})

    def event(delta: dict[str, str], reason: str | None = None) -> bytes:
        return _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    sent = ""
    try:
        yield event({"role": "assistant", "content": ""})
        async for _, outcome in answers:
            content, reason = _content(outcome, shape, wanted)
            if not content.startswith(sent):
                raise AssertionError("an answer that is not what it began with")
            yield event({"content": content[len(sent) :]})
            sent = content
            if outcome.whole:
                yield event({}, reason)
                if with_usage:
                    yield _event({**head, "choices": [], "usage": _usage(outcome)})
        yield b"data: [DONE]\n\n"
    except RequestError as error:  # too late for a status
        metrics.failed(error.code)
        yield _event(error.body())
    except (asyncio.CancelledError, GeneratorExit):
        metrics.failed("hung_up")
        raise
    finally:
        answers.cancel()


def _usage(outcome: Outcome) -> dict[str, int]:
    return {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.answer_tokens,
        "total_tokens": outcome.prompt_tokens + outcome.answer_tokens,
    }


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {to_json(content)}\n\n".encode()


def describe_model(engine: Engine, lane: Lane, whole: bool = False) -> dict[str, Any]:
    """Return what clients are told of a model, its schema too if `whole`."""
    extractor = lane.extractor
    schema = extractor.schema
    described = {
        "id": lane.name,
        "object": "model",
        "created": int(engine.ready_since),
        "owned_by": "local",
        "max_source_tokens": extractor.max_source_seq_len,
        "max_new_tokens": extractor.generation_config.max_new_tokens,
        "half_right_score": extractor.half_right_score,
        "predicates": None if schema is None else sorted({each.predicate for each in schema.combinations}),
    }
    return described | ({"schema": schema and schema.to_dict()} if whole else {})
