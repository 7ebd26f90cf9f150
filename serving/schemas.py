"""Requests and answers of the service, as its description (`/openapi.json`) has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from serving.limits import MAX_COMBINATIONS
from task.schema import MAX_DESCRIPTION_CHARACTERS, Schema, name_problem
from task.triplets import Combination


class _Strict(BaseModel):
    """Fields have the types that they say; what is not known is refused."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


def _check_name(name: str) -> str:
    if problem := name_problem(name):
        raise ValueError(problem)
    return name


Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_check_name)]


class CombinationModel(_Strict):
    """A predicate with the types of its subject and object."""

    predicate: Name
    subject_type: Name
    object_type: Name
    description: str | None = Field(
        None, max_length=MAX_DESCRIPTION_CHARACTERS, description="一句话的说明；提示词写明关系的模型才读它。"
    )


class SchemaModel(_Strict):
    """The combinations that answers may hold; the content of `schema.json`."""

    combinations: list[CombinationModel] = Field(min_length=1, max_length=MAX_COMBINATIONS)

    def to_schema(self) -> Schema:
        """Return it as the extractor knows it."""
        said = {
            Combination(each.predicate, each.subject_type, each.object_type): each.description
            for each in self.combinations
        }
        lines = {combination: " ".join(line.split()) for combination, line in said.items() if line}
        return Schema(frozenset(said), tuple(sorted((each, line) for each, line in lines.items() if line)))


class Choices(BaseModel):
    """What of the answers is wanted."""

    relations: SchemaModel | None = Field(
        None, alias="schema", description="允许的关系；不写就用模型训练时见过的。不能与 predicates 同时写。"
    )
    predicates: list[Name] | None = Field(
        None,
        min_length=1,
        max_length=MAX_COMBINATIONS,
        description="只要这些谓语（须是模型的 schema 里有的）。",
    )
    min_score: float | None = Field(
        None,
        ge=0,
        le=1,
        description="只保留置信度不低于它的三元组；不写就用训练时在验证集上定的（另写了 schema 时不用）。",
    )
    scores: bool = Field(False, description="给出每个三元组的置信度 score。")
    spans: bool = Field(
        True, description="给出 object_span 与 subject_span：[起, 止)，单位是 Unicode 字符（码点）。"
    )
    timeout: float | None = Field(None, gt=0, description="最多等多少秒；不能超过服务的上限。")

    @model_validator(mode="after")
    def _one_choice(self) -> Choices:
        if self.relations is not None and self.predicates is not None:
            raise ValueError("schema 与 predicates 只能写一个")
        return self


class ExtractRequest(_Strict, Choices):
    """Sentences to extract from."""

    text: str | None = Field(None, description="一个句子。与 texts 恰好写一个。")
    texts: list[str] | None = Field(None, min_length=1, description="多个句子；一句失败不影响别的句子。")
    model: str | None = Field(None, description="用哪个适配器（见 /v1/models）；默认是第一个。")
    stream: bool = Field(
        False, description="结果一有就送出：每句一行 JSON（NDJSON）；Accept 是 text/event-stream 时用 SSE。"
    )

    @model_validator(mode="after")
    def _one_source(self) -> ExtractRequest:
        if (self.text is None) == (self.texts is None):
            raise ValueError("text 与 texts 应恰好写一个")
        return self

    @property
    def sentences(self) -> list[str]:
        """The sentences, in their order."""
        return [self.text] if self.text is not None else self.texts or []


class TripletModel(BaseModel):
    """A fact of a sentence."""

    predicate: str
    object_type: str
    subject_type: str
    object: str
    subject: str
    score: float | None = Field(None, description="置信度，0 到 1；要求了 scores 才有。")
    object_span: tuple[int, int] | None = Field(None, description="[起, 止)；要求了 spans 才有。")
    subject_span: tuple[int, int] | None = None


class ResultModel(BaseModel):
    """What came of a sentence; marks that are not true are left out."""

    text: str
    triplets: list[TripletModel]
    truncated: bool | None = Field(None, description="回答到长度上限还没有结束，后面的三元组可能缺失。")
    error: str | None = Field(None, description="这一句没有得到结果的原因，此时 triplets 为空。")
    raw: str | None = Field(None, description="失败时，模型写出的内容。")


class ExtractResponse(BaseModel):
    """The answer to an `ExtractRequest`."""

    model: str
    results: list[ResultModel] = Field(description="每个句子一项，次序与请求相同。")


class StreamedResult(ResultModel):
    """A line of a stream."""

    index: int = Field(description="句子在请求里的序号，从 0 开始；先做完的先到。")


class ErrorDetail(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    code: str
    param: str | None
    limit: float | None = None


class ErrorModel(BaseModel):
    """A refusal."""

    error: ErrorDetail


class ModelInfo(BaseModel):
    """An adapter on the base, or the bare base."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "local"
    max_source_tokens: int
    max_new_tokens: int
    half_right_score: float | None = Field(description="置信度低于它的三元组多半是错的；不知道就是 null。")
    predicates: list[str] | None = Field(description="能写的谓语；不受限制就是 null。")


class ModelDetails(ModelInfo):
    """A model with all combinations of its schema."""

    relations: SchemaModel | None = Field(alias="schema", description="不受限制就是 null。")


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class Health(BaseModel):
    """How the service is."""

    status: Literal["loading", "ready", "draining"]
    models: list[str]
    waiting: int = Field(description="等待的句数。")
    rows: int = Field(description="正在生成的行数。")
    capacity: int = Field(description="一起生成的行数上限。")
    limits: dict[str, Any] = Field(description="对请求的各种上限。")
