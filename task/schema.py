"""The schema: which predicates occur between which types of subject and object, as seen in training data."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from task.triplets import Combination, Triplet, combination_of, combinations_in
from utils.common_utils import UserError, is_encodable

__all__ = ["Combination", "Schema"]


@dataclass(frozen=True)
class Schema:
    """A set of combinations; `triplet in schema` asks for the triplet's own."""

    combinations: frozenset[Combination]

    @classmethod
    def from_targets(cls, targets: Iterable[str]) -> Schema:
        """Collect the combinations of training answers, see `combinations_in`."""
        return cls(combinations_in(targets))

    def __contains__(self, triplet: Triplet) -> bool:
        return combination_of(triplet) in self.combinations

    def to_dict(self) -> dict[str, list[dict[str, str]]]:
        """Return the content of `schema.json`, sorted, so that equal schemas are equal files."""
        return {"combinations": [combination._asdict() for combination in sorted(self.combinations)]}

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Read a file with the content of `to_dict`, by training or by hand.

        Raises:
            UserError: the file is missing, or is not a list of combinations under "combinations".
        """
        try:
            items = json.loads(Path(path).read_text(encoding="utf-8-sig"))["combinations"]
            combinations = [Combination(**item) for item in items]
        except OSError as error:
            raise UserError(f"读不了模式文件 {path}：{error.strerror}。") from error
        except UnicodeDecodeError as error:
            raise UserError(f"模式文件 {path} 不是 UTF-8 编码，请把它转成 UTF-8。") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(_malformed(path)) from error
        names = [name for combination in combinations for name in combination]
        if not all(isinstance(name, str) and name and is_encodable(name) for name in names):
            raise UserError(_malformed(path))
        return cls(frozenset(combinations))


def _malformed(path: str | Path) -> str:
    fields = "、".join(Combination._fields)
    return f'模式文件 {path} 应为 {{"combinations": [...]}}，每一项恰好有非空字符串 {fields}。'
