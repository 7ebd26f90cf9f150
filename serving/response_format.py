"""`response_format` of OpenAI's clients: the shape in which a chat answer gives its triplets.

A JSON schema is honoured as far as triplets fit it: a list of objects, alone or as a field of an object,
whose fields are some of a triplet's. An `enum` of predicates is a choice that the model is held to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.errors import RequestError
from task.triplets import KEYS
from utils.common_utils import to_json

# What a schema may say beside rules for values.
_NOTES = {"title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions"}
_LEAST = {"minLength": 1, "minimum": 0, "minItems": 2}  # what every value has
_MOST = {"maximum": 1, "maxItems": 2}
_TYPES = {
    **dict.fromkeys(KEYS, "string"),
    "score": "number",
    "object_span": "array",
    "subject_span": "array",
}
_MAX_REFERENCES = 16


@dataclass(frozen=True)
class Shape:
    """How triplets become the content of a chat answer.

    Args:
        field: of the object around the list; None for the bare list.
        keys: of each item; None for all that there are.
        predicates: the only ones that are wanted; None for any.
    """

    field: str | None = None
    keys: tuple[str, ...] | None = None
    predicates: tuple[str, ...] | None = None

    @property
    def with_scores(self) -> bool:
        """Whether items have a score."""
        return self.keys is not None and "score" in self.keys

    @property
    def with_spans(self) -> bool:
        """Whether items have a span."""
        return self.keys is not None and bool({"object_span", "subject_span"} & set(self.keys))

    def write(self, triplets: list[dict[str, Any]]) -> str:
        """Return the content for triplets."""
        if self.keys is not None:
            triplets = [{key: item[key] for key in self.keys if key in item} for item in triplets]
        return to_json(triplets if self.field is None else {self.field: triplets})

    def begin(self, triplets: list[dict[str, Any]]) -> str:
        """Return what the content for triplets and perhaps more of them begins with."""
        return self.write(triplets).removesuffix("]" if self.field is None else "]}")


def read_response_format(value: Mapping[str, Any] | None) -> Shape:
    """Return the shape that a `response_format` asks for.

    Raises:
        RequestError: triplets don't fit it.
    """
    kind = "text" if value is None else value.get("type")
    if value is None or kind == "text":
        return Shape()
    if kind == "json_object":
        return Shape("triplets")
    if kind != "json_schema":
        raise _refuse("type 应为 text、json_object 或 json_schema")
    wrapper = value.get("json_schema")
    schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
    if not isinstance(schema, dict):
        raise _refuse("json_schema 里缺少 schema")
    try:
        return _Reader(schema).shape()
    except (TypeError, AttributeError) as error:  # a number or an object where a schema has names
        raise _refuse("里面有不合 JSON Schema 规定的值") from error


class _Reader:
    """Finds out where in a JSON schema the triplets go."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._root = schema

    def shape(self) -> Shape:
        """Return what the schema asks for."""
        top = self._resolve(self._root)
        if _may_be(top, "array"):
            return self._list(None, top)
        properties = top.get("properties")
        if not _may_be(top, "object") or not isinstance(properties, dict):
            raise _refuse("最外层应为列表，或有一个列表字段的对象")
        _check_keywords(top, "最外层的对象", {"properties", "required", "additionalProperties"})
        lists = {name: part for name, part in properties.items() if _may_be(self._resolve(part), "array")}
        needed = set(top.get("required") or properties)
        if len(lists) != 1 or not needed <= set(lists):
            raise _refuse("最外层的对象应当恰好有一个列表字段，没有别的必需字段")
        (name, part), *_ = lists.items()
        return self._list(name, self._resolve(part))

    def _list(self, field: str | None, schema: dict[str, Any]) -> Shape:
        if schema.get("minItems"):
            raise _refuse("不能规定最少几个三元组：句子里可能一个也没有")
        _check_keywords(schema, "列表", {"items", "minItems"})
        item = self._resolve(schema.get("items", {}))
        properties = item.get("properties")
        if not _may_be(item, "object") or not isinstance(properties, dict) or not properties:
            raise _refuse("列表的每一项应为有字段的对象")
        _check_keywords(item, "列表的项", {"properties", "required", "additionalProperties"})
        if missing := [name for name in item.get("required") or () if name not in properties]:
            raise _refuse(f"每一项必需的字段 {str(missing[0])[:100]} 不在 properties 里")
        predicates = None
        for key, part in properties.items():
            if key not in _TYPES:
                raise _refuse(f"每一项不能有字段 {key[:100]}，可用的是 {'、'.join(_TYPES)}")
            part = self._value(key, self._resolve(part))
            choice = part.get("enum", [part["const"]] if "const" in part else None)
            if choice is not None and key != "predicate":
                raise _refuse(f"字段 {key} 不能规定取值，只有 predicate 可以")
            if choice is not None:
                if (
                    not choice
                    or not isinstance(choice, list)
                    or not all(isinstance(each, str) for each in choice)
                ):
                    raise _refuse("predicate 的 enum 应当是字符串的列表")
                predicates = tuple(choice)
        return Shape(field, tuple(properties), predicates)

    def _value(self, key: str, part: dict[str, Any]) -> dict[str, Any]:
        """Return the schema of a field's value, of several the one that the value fits.

        Raises:
            RequestError: it does not fit, or need not.
        """
        kind = _TYPES[key]
        if isinstance(part.get("anyOf"), list):  # that may be null, say
            _check_keywords(part, f"字段 {key} ", {"anyOf"})
            fitting = [each for each in map(self._resolve, part["anyOf"]) if _may_be(each, kind)]
            part = fitting[0] if fitting else {"type": "null"}
        if not _may_be({"type": kind} | part, kind):
            raise _refuse(f"字段 {key} 的类型是 {kind}")
        narrower = [name for name, bound in _LEAST.items() if part.get(name, bound) > bound]
        narrower += [name for name, bound in _MOST.items() if part.get(name, bound) < bound]
        if narrower:
            raise _refuse(f"字段 {key} 的 {narrower[0]} 不能这样规定")
        _check_keywords(part, f"字段 {key} ", {"enum", "const", "items", "prefixItems", *_LEAST, *_MOST})
        for number in [part.get("items", {}), *part.get("prefixItems", ())]:
            if not isinstance(number, bool) and not _may_be({"type": "number"} | number, "integer", "number"):
                raise _refuse(f"{key} 里是整数")
        return part

    def _resolve(self, schema: Any) -> dict[str, Any]:
        """Follow references within the schema."""
        for _ in range(_MAX_REFERENCES):
            if not isinstance(schema, dict):
                break
            reference = schema.get("$ref")
            if reference is None:
                return schema
            schema = self._root
            for name in str(reference).removeprefix("#").strip("/").split("/"):
                schema = schema.get(name) if isinstance(schema, dict) else None
        raise _refuse("里面有看不懂的部分（$ref 指向别处，或不是对象）")


def _may_be(schema: dict[str, Any], *kinds: str) -> bool:
    """Tell whether a schema says that its values have one of the types, perhaps among others."""
    said = schema.get("type")
    return any(kind in (said if isinstance(said, list) else [said]) for kind in kinds)


def _check_keywords(schema: dict[str, Any], place: str, known: set[str]) -> None:
    """Refuse rules that answers might break: they are not looked at."""
    if unknown := sorted(set(schema) - known - _NOTES - {"type"}):
        raise _refuse(f"{place}不能规定 {str(unknown[0])[:100]}")


def _refuse(problem: str) -> RequestError:
    return RequestError(
        400, "response_format", f"response_format 不能满足：{problem}。", param="response_format"
    )
