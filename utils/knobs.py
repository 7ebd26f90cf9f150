"""Knobs of a config class: what each may be, and one option for each, its help taken from the source."""

from __future__ import annotations

import ast
import inspect
import io
import math
import re
import textwrap
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from utils.command_line import ChineseArgumentParser, summarise
from utils.common_utils import UserError, is_encodable

_KIND_NAMES = {bool: "开关 true/false", int: "整数", float: "数", str: "字符串", list: "非空的名称列表"}
_TYPE_NAMES = {bool: "布尔值", int: "整数", float: "小数", str: "字符串", list: "列表"}
_BOOLEANS = {"true": True, "1": True, "是": True, "false": False, "0": False, "否": False}


@dataclass(frozen=True)
class Rule:
    """What a knob may be set to.

    Args:
        kind: bool, int, float (an int will do), str (not empty) or list (of different, non-empty strings).
        at_least, above, at_most, below: bounds of a number; None means there is none.
        pattern: regular expression that a string has to match in full; `example` says it in words.
        optional: None is allowed too.
        word: a string that is allowed beside a bool.
    """

    kind: type
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    pattern: str | None = None
    example: str = ""
    optional: bool = False
    word: str | None = None

    def accepts(self, value: Any) -> bool:
        """Tell whether a value is of the right type (a bool is no number) and within the bounds."""
        if value is None:
            return self.optional
        if self.word is not None and value == self.word:
            return True
        if self.kind is bool or isinstance(value, bool):
            return self.kind is type(value)
        if self.kind is str:
            return (
                isinstance(value, str)
                and is_encodable(value)  # not so from a command line that is not UTF-8
                and re.fullmatch(self.pattern or r"(?s).*\S.*", value) is not None
            )
        if self.kind is list:
            return isinstance(value, list) and bool(value) and _are_distinct_names(value)
        return (
            isinstance(value, (int, float) if self.kind is float else int)
            and _is_finite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def describe(self) -> str:
        """What is accepted, in Chinese words that follow "应当是"."""
        bounds = {"不小于": self.at_least, "大于": self.above, "不大于": self.at_most, "小于": self.below}
        limits = "、".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
        what = self.example or (f"{limits} 的" if limits else "") + _KIND_NAMES[self.kind]
        return what + (f" 或 {self.word}" if self.word else "") + (" 或 none" if self.optional else "")

    def parse(self, words: Sequence[str]) -> Any:
        """Turn the words after an option into a value.

        Raises:
            ValueError: they can't be read as this kind of value, or are more than one.
        """
        if self.kind is list:
            return [name for word in words for name in word.split(",") if name]
        (word,) = words
        if self.optional and word.lower() == "none":
            return None
        if word == self.word:
            return word
        if self.kind is bool:
            if word.lower() not in _BOOLEANS:
                raise ValueError(word)
            return _BOOLEANS[word.lower()]
        return self.kind(word)


def _is_finite(value: float) -> bool:
    """Tell whether a number is one that a float can hold: an int may have thousands of digits."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


class KnobConfig(Protocol):
    """A config: knobs are attributes set in `__init__`, each with a trailing comment."""

    @staticmethod
    def rules() -> Mapping[str, Rule]: ...

    def problems(self) -> list[str]:
        """Return every problem of the knobs' values, one Chinese line each."""

    def validate(self) -> None:
        """Raise a `UserError` if there are problems."""


class Knob(NamedTuple):
    """A knob as it stands in the source: its name, the comment behind it, the comment above its block."""

    name: str
    comment: str
    section: str


def show_value(value: Any) -> str:
    """A value and its type, for a message."""
    shown = repr(value)
    shown = shown if len(shown) <= 200 else shown[:200] + "…"
    return f"{shown}（{_TYPE_NAMES[type(value)]}）" if type(value) in _TYPE_NAMES else shown


def same_value(one: object, other: object) -> bool:
    """Tell whether two values, or what `str` makes of them, come to the same: lists of names in any order."""
    lists = [sorted(re.findall(r"[\w.]+", str(each))) for each in (one, other) if str(each).startswith("[")]
    return lists[0] == lists[1] if len(lists) == 2 else one == other


def read_knobs(config_class: type) -> list[Knob]:
    """Read the knobs of a config class from its source, in the order in which they are written there."""
    source = textwrap.dedent(inspect.getsource(config_class))
    sections: dict[int, str] = {}
    trailing: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            own_line = token.line.lstrip().startswith("#")
            (sections if own_line else trailing)[token.start[0]] = token.string.lstrip("# ")
    knobs = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Attribute):
            above = [title for line, title in sections.items() if line < node.lineno]
            comment = trailing.get(node.end_lineno or node.lineno, "")
            knobs.append(Knob(target.attr, comment, above[-1] if above else ""))
    return knobs


def parse_overrides(config: KnobConfig, argv: Sequence[str], description: str) -> set[str]:
    """Set the knobs named on a command line, without checking the values' bounds.

    Args:
        config: changed in place.
        argv: the words after the program's name. `--name value` and `--name=value` set a knob; a bool may
            stand alone (`--fp16`), a list takes words or commas, `none` stands for None. `--debug` is let
            through for `run_main`. `--help` prints all knobs and leaves with exit code 0.
        description: what the program does, for `--help`.

    Returns:
        The names of the knobs that the command line sets.

    Raises:
        UserError: an unknown option, or a missing or unreadable value; all of them, and what else is wrong
            with the config.
    """
    rules = config.rules()
    knobs = [knob for knob in read_knobs(type(config)) if knob.name in rules]
    parsed, complaints = _build_parser(config, knobs, description).collect_complaints(argv)
    given = {knob.name for knob in knobs if getattr(parsed, knob.name, None) is not None}
    for name in (knob.name for knob in knobs if knob.name in given):
        words, rule = getattr(parsed, name), rules[name]
        if not words and rule.kind is not bool:
            complaints.append(f"命令行参数 --{name} 后面缺少取值，应当是{rule.describe()}。")
            continue
        try:
            setattr(config, name, rule.parse(words or ["true"]))
        except ValueError:
            complaints.append(f"命令行参数 --{name} 应当是{rule.describe()}，现在是 {' '.join(words)}。")
    if complaints:
        raise UserError(summarise("命令行与配置", complaints + config.problems()))
    return given


def _build_parser(config: KnobConfig, knobs: Sequence[Knob], description: str) -> ChineseArgumentParser:
    """One option per knob, in groups; values stay lists of words, so that every message is our own."""
    parser = ChineseArgumentParser(usage="%(prog)s [--参数名 取值 ...]", description=description)
    groups = {"": parser.general}
    for knob in knobs:
        if knob.section not in groups:
            groups[knob.section] = parser.add_argument_group(knob.section)
        default = _as_typed(getattr(config, knob.name, None)).replace("%", "%%")
        groups[knob.section].add_argument(
            f"--{knob.name}",
            nargs="*",
            help=f"{knob.comment.replace('%', '%%')}（默认 {default}）",
        )
    return parser


def _as_typed(value: Any) -> str:
    """A value as one would type it on the command line."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _are_distinct_names(names: list[Any]) -> bool:
    return all(isinstance(name, str) and name.strip() for name in names) and len(set(names)) == len(names)
