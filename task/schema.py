"""The schema: which predicates occur between which types of subject and object, as seen in training data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from task.triplets import Combination, Triplet, combination_of, combinations_in
from utils.common_utils import UserError, is_encodable
from utils.small_json import parse_small_json, read_small_file

# Names are forced into answers token by token, and every combination is a branch of the grammar.
MAX_NAME_CHARACTERS = 100
MAX_COMBINATIONS = 5_000
MAX_DESCRIPTION_CHARACTERS = 200


@dataclass(frozen=True)
class Schema:
    """A set of combinations; `triplet in schema` asks for the triplet's own.

    Args:
        combinations: the set.
        descriptions: pairs of a combination and a line that says what is meant, sorted; not all have one.
    """

    combinations: frozenset[Combination]
    descriptions: tuple[tuple[Combination, str], ...] = ()

    @classmethod
    def from_targets(cls, targets: Iterable[str]) -> Schema:
        """Collect the combinations of training answers, see `combinations_in`."""
        return cls(combinations_in(targets))

    def __contains__(self, triplet: Triplet) -> bool:
        return combination_of(triplet) in self.combinations

    def unknown(self, triplets: Iterable[Triplet]) -> Counter[Combination]:
        """Count the combinations that triplets have and this schema lacks: under it they can't be written."""
        combinations = map(combination_of, triplets)
        return Counter(each for each in combinations if each not in self.combinations)

    def to_dict(self) -> dict[str, list[dict[str, str]]]:
        """Return the content of `schema.json`, sorted, so that equal schemas are equal files."""
        said = {combination: {"description": line} for combination, line in self.descriptions}
        return {"combinations": [each._asdict() | said.get(each, {}) for each in sorted(self.combinations)]}

    def joined(self, other: Schema) -> Schema:
        """Return the combinations of both; what this one says of them goes before what the other does."""
        return Schema(
            self.combinations | other.combinations,
            tuple(sorted((dict(other.descriptions) | dict(self.descriptions)).items())),
        )

    def restricted(self, combinations: Iterable[Combination]) -> Schema:
        """Return the part of it that has these combinations."""
        kept = self.combinations.intersection(combinations)
        return Schema(kept, tuple(item for item in self.descriptions if item[0] in kept))

    def split(self, size: int) -> list[Schema]:
        """Return it in parts of at most so many combinations, those of like types together, of like size."""
        order = sorted(
            self.combinations, key=lambda each: (each.subject_type, each.object_type, each.predicate)
        )
        return [self.restricted(part) for part in split_evenly(order, size)]

    def names(self) -> list[str]:
        """Return the combinations as a prompt names them, sorted."""
        descriptions = dict(self.descriptions)
        return [relation_name(each, descriptions) for each in sorted(self.combinations)]

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Read a file with the content of `to_dict`, by training or by hand, or the schema file of DuIE.

        The latter has an object a line with the same names; object_type may be an object with "@value" (its
        other slots are left out, and so are further fields). In both, `description` may say what is meant.

        Raises:
            UserError: the file is missing, is too large, or declares something else.
        """
        try:
            text = read_small_file(path).decode("utf-8-sig")
            return cls(*_read(text))
        except OSError as error:
            raise UserError(f"读不了模式文件 {path}：{error.strerror}。") from error
        except UnicodeDecodeError as error:
            raise UserError(f"模式文件 {path} 不是 UTF-8 编码，请把它转成 UTF-8。") from error
        except ValueError as error:
            raise UserError(_malformed(path, str(error))) from error


def describe_counts(counts: Counter[Combination], limit: int = 5) -> str:
    """Return "导演（影视作品 → 人物）3 个、…" for a sentence, the most frequent first."""
    shown = "、".join(
        f"{each.predicate}（{each.subject_type} → {each.object_type}）{count} 个"
        for each, count in counts.most_common(limit)
    )
    return shown + (f"等 {len(counts)} 种" if len(counts) > limit else "")


def name_problem(name: Any) -> str | None:
    """Say in Chinese why a predicate or type can't stand in a schema; None if it can."""
    return _text_problem(name) if isinstance(name, str) else "应当是字符串"


@lru_cache(maxsize=4096)  # the names of a schema come again and again in its data
def _text_problem(name: str) -> str | None:
    if not name.strip():
        return "是空的"
    if not is_encodable(name):
        return "含有不成对的代理字符（\\ud800–\\udfff）"
    if len(name) > MAX_NAME_CHARACTERS:
        return f"有 {len(name):,} 个字符，超过上限 {MAX_NAME_CHARACTERS}"
    return None


def relation_name(combination: Combination, descriptions: Mapping[Combination, str]) -> str:
    """Return a combination as a prompt names it, with what is said of it; on one line."""
    line = descriptions.get(combination)
    name = f"{combination.subject_type}-{combination.predicate}-{combination.object_type}"
    return " ".join((f"{name}（{line}）" if line else name).split())


def split_evenly(items: Sequence[Combination], size: int) -> list[Sequence[Combination]]:
    """Return items in order, in as few parts of at most `size` as do, none longer than another by two."""
    parts = -(-len(items) // size)
    return [items[len(items) * n // parts : len(items) * (n + 1) // parts] for n in range(parts)]


def _read(text: str) -> tuple[frozenset[Combination], tuple[tuple[Combination, str], ...]]:
    """Read the content of a schema file; a `ValueError` says in Chinese what is wrong with it."""
    try:
        content = parse_small_json(text)
    except ValueError:  # not one JSON value: perhaps one a line
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        read = [_combination(_parse(line, number), f"第 {number} 行") for number, line in lines]
    else:
        if isinstance(content, dict) and "combinations" not in content:  # a single line
            read = [_combination(content, "第 1 行")]
        elif isinstance(content, dict) and isinstance(content["combinations"], list):
            items = content["combinations"]
            read = [_combination(item, f"第 {n} 项", exact=True) for n, item in enumerate(items, 1)]
        else:
            raise ValueError("里面没有 combinations 列表")
    combinations = frozenset(combination for combination, _ in read)
    if len(combinations) > MAX_COMBINATIONS:
        raise ValueError(f"共有 {len(combinations):,} 种，超过上限 {MAX_COMBINATIONS:,}")
    if not combinations and not text.strip():
        raise ValueError("文件是空的")
    return combinations, tuple(sorted({each: line for each, line in read if line}.items()))


def _parse(line: str, number: int) -> Any:
    try:
        return parse_small_json(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"第 {number} 行不是合法的 JSON，第 {error.colno} 个字符处出错") from None
    except ValueError as error:
        raise ValueError(f"第 {number} 行 JSON {error}") from None


def _combination(item: Any, where: str, exact: bool = False) -> tuple[Combination, str]:
    """Return the combination that an object declares and what it says of it, "" for nothing.

    `exact` allows it no further fields.
    """
    if not isinstance(item, dict):
        raise ValueError(f"{where}不是 JSON 对象")
    if exact and (further := sorted(set(item) - {*Combination._fields, "description"})):
        raise ValueError(f"{where}有多余的字段 {'、'.join(name[:60] for name in further[:10])}")
    names = []
    for field in Combination._fields:
        if field not in item:
            raise ValueError(f"{where}缺少字段 {field}")
        name = item[field]
        if not exact and isinstance(name, dict):
            name = name.get("@value")
        if problem := name_problem(name):
            raise ValueError(f"{where}的字段 {field} {problem}")
        names.append(name)
    line = item.get("description", "")
    if not isinstance(line, str) or not is_encodable(line) or len(line) > MAX_DESCRIPTION_CHARACTERS:
        if exact:
            raise ValueError(
                f"{where}的字段 description 应当是至多 {MAX_DESCRIPTION_CHARACTERS} 个字符的一句话"
            )
        line = ""
    return Combination(*names), " ".join(line.split())


def _malformed(path: str | Path, problem: str) -> str:
    fields = "、".join(Combination._fields)
    return (
        f'模式文件 {path} 应为 {{"combinations": [...]}}，每一项恰好有非空字符串 {fields}；'
        f"或每行一个这样的对象（DuIE 的 schema）。现在{problem}。"
    )
