"""Command lines: one voice for every command."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from utils import __version__
from utils.common_utils import UserError


def closest_name(name: str, names: Iterable[str]) -> str | None:
    """The known name that `name` was most likely meant to be, if any comes near."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)


class ChineseArgumentParser(argparse.ArgumentParser):
    """A parser that speaks as every command of the project does.

    Options are taken with "-" and with "_" inside their names, and shown with "_". All mistakes of a command
    line are told at once, in Chinese, an unknown option with the nearest known one. `--help`, `--version` and
    `--debug` (for `run_main`) are there already.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_ChineseHelp, add_help=False, allow_abbrev=False, **options)
        self._positionals.title, self._optionals.title = "参数", "选项"
        self.general = self.add_argument_group("通用")
        self.general.add_argument("--help", "-h", action="help", help="显示这份说明")
        self.general.add_argument(
            "--version", action="version", version=f"%(prog)s {__version__}", help="显示版本"
        )
        self.general.add_argument("--debug", action="store_true", help="出错时打印完整的调用栈")
        self._complaints: list[str] = []

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read a command line.

        Raises:
            UserError: all that is wrong with it.
        """
        parsed, complaints = self.collect_complaints(args, namespace)
        if complaints:
            raise UserError(summarise("命令行", complaints))
        return parsed

    def collect_complaints(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Read a command line; return its values, and a Chinese sentence for each of its mistakes."""
        self._respell()
        self._complaints = []
        words = self._known_words(sys.argv[1:] if args is None else list(args))
        try:
            parsed, rest = super().parse_known_args(words, namespace)
        except _GivesUpError:
            return argparse.Namespace(), self._complaints
        if rest:
            self._complaints.append(self._unknown(rest[0]))
        return parsed, self._complaints

    def error(self, message: str) -> NoReturn:
        """Take argparse's own complaint, in Chinese; it reads no further then."""
        for pattern, replacement in _TRANSLATIONS:
            if match := re.fullmatch(pattern, message, re.DOTALL):
                message = match.expand(replacement)
                break
        else:
            message = f"命令行参数有误：{message}（--help 查看用法）。"
        if not (self._complaints and message.startswith(_MISSING)):  # which may be what wasn't understood
            self._complaints.append(message)
        raise _GivesUpError

    def format_help(self) -> str:
        """Return the help; what every command has stands last."""
        self._respell()
        self._action_groups.sort(key=lambda group: group is self.general)
        return super().format_help()

    def _respell(self) -> None:
        """Give every option the one spelling that is shown."""
        for action in self._actions:
            action.option_strings = [_spelling(option) for option in action.option_strings]
            self._option_string_actions |= dict.fromkeys(action.option_strings, action)

    def _known_words(self, words: Sequence[str]) -> list[str]:
        """Spell options in the one way; leave out unknown ones with their values, and complain of them."""
        known: list[str] = []
        skipping = False  # the values of an unknown option
        for index, word in enumerate(words):
            if word == "--":
                return known + list(words[index:])
            name, equals, value = word.partition("=")
            option = _spelling(name) if word.startswith("-") else ""
            before = self._option_string_actions.get(known[-1]) if known else None
            if option in self._option_string_actions:
                skipping = False
                takes_none = self._option_string_actions[option].nargs == 0
                if equals and takes_none:
                    self._complaints.append(f"命令行参数 {option} 不带取值，却写了 {value!r}。")
                known.append(option if takes_none else option + equals + value)
            elif _is_value(word):
                if not skipping:
                    known.append(word)
            elif before is not None and not skipping and self._is_dashed_value(before, word):
                known[-1] += "=" + word
            else:
                skipping = True
                self._complaints.append(self._unknown(word))
        return known

    def _is_dashed_value(self, option: argparse.Action, word: str) -> bool:
        """Tell whether a word with one dash in front is the value of the option before, and no option."""
        if word.startswith("--"):
            return False
        is_number = re.match(r"-[\d.]", word) is not None
        return is_number if option.nargs == "*" else option.nargs is None and not self._hint(word)

    def _hint(self, word: str) -> str | None:
        """Return the name of the known option that an unknown one may be meant to be."""
        names = [
            option.lstrip("-")
            for action in self._actions
            for option in action.option_strings
            if action.help is not argparse.SUPPRESS
        ]
        return closest_name(_spelling(word.split("=")[0]).lstrip("-"), names)

    def _unknown(self, word: str) -> str:
        """Say that an option is not known, and which one may be meant."""
        hint = self._hint(word)
        return f"认不出命令行参数 {word}，{f'是不是想写 --{hint}？' if hint else '--help 列出全部参数。'}"

    # argparse ends at the first of the following mistakes; here they are noted, and it goes on.

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            kind = {int: "整数", float: "数"}.get(action.type) if isinstance(action.type, type) else None
            message = f"应为{kind}，现在是 {arg_string!r}" if kind else error.message
            self._complaints.append(f"命令行参数 {_name(action)} {message}。")
            return None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if value is not None and action.choices is not None and value not in action.choices:
            wanted = "、".join(map(str, action.choices))
            self._complaints.append(f"命令行参数 {_name(action)} 应为 {wanted} 之一，现在是 {value!r}。")

    def _match_argument(self, action: argparse.Action, arg_strings_pattern: str) -> int:
        try:
            return super()._match_argument(action, arg_strings_pattern)
        except argparse.ArgumentError:
            self._complaints.append(f"命令行参数 {_name(action)} 后面缺少取值。")
            return 0

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.option_strings and not arg_strings and action.nargs in (None, "+"):
            return None  # missing, and complained of
        return super()._get_values(action, arg_strings)


class _GivesUpError(Exception):
    """argparse can't read on; what is wrong has been noted."""


_MISSING = "缺少参数 "
# What argparse itself says of mistakes that a user can make, and how that reads in Chinese.
_TRANSLATIONS = (
    (r"the following arguments are required: (.*)", _MISSING + r"\1（--help 查看用法）。"),
    (r"one of the arguments (.*) is required", _MISSING + r"\1 之一（--help 查看用法）。"),
    (r"argument (\S+): not allowed with argument (\S+)", r"命令行参数 \1 不能与 \2 同时使用。"),
)


def summarise(what: str, problems: Sequence[str]) -> str:
    """Return one problem as it is, several as a list with a heading."""
    if len(problems) == 1:
        return problems[0]
    return f"{what}有 {len(problems)} 处错误：\n" + "\n".join(f"  - {line}" for line in problems)


def positive_int(word: str) -> int:
    """Read a positive integer for argparse."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", word):
        raise argparse.ArgumentTypeError(f"应为正整数，现在是 {word!r}")
    return int(word)


def positive_number(word: str) -> float:
    """Read a positive number for argparse."""
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"应为正数，现在是 {word!r}")
    return value


def probability(word: str) -> float:
    """Read a number between 0 and 1 for argparse."""
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"应为 0 到 1 之间的数，现在是 {word!r}")
    return value


class _ChineseHelp(argparse.HelpFormatter):
    """Help whose fixed words are Chinese; option and explanation on lines of their own when long."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36, width=110)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.option_strings and action.nargs == "*":
            return action.metavar if isinstance(action.metavar, str) else "取值"
        return super()._format_args(action, default_metavar)

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        shown = [action for action in actions if action.dest not in ("help", "version", "debug")]
        super().add_usage(usage, shown, groups, prefix="用法：")


def _spelling(option: str) -> str:
    """An option as it is shown, whichever of "-" and "_" stands inside its name."""
    name = option.lstrip("-")
    return option[: len(option) - len(name)] + name.replace("-", "_")


def _name(action: argparse.Action) -> str:
    """An option or a positional argument by the name that its user knows."""
    return (
        _spelling(action.option_strings[0]) if action.option_strings else str(action.metavar or action.dest)
    )


def _is_value(word: str) -> bool:
    """Tell whether argparse takes a word for a value: no dash first, or a plain negative number."""
    return not word.startswith("-") or word == "-" or re.fullmatch(r"-\d+|-\d*\.\d+", word) is not None
