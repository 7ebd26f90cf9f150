"""Numbers and dates of a spreadsheet as its cells show them: what an annotator saw is what the sentence says.

Source: ECMA-376, part 1, 18.8.31 (number formats). Only what tables of labels have: dates with their
separators, years of four digits or two, times, percentages, decimals and thousands; everything else as it is.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

_LITERAL = re.compile(r'"([^"]*)"|\\(.)')
_CONDITION = re.compile(r"\[[^\]]*\]")  # locale, colour, elapsed hours
_PART = re.compile(
    r"(?P<literal>\"[^\"]*\"|\\.)|(?P<noon>am/pm|上午/下午)|(?P<code>y+|m+|d+|h+|s+)", re.IGNORECASE
)
_IN_WORDS = re.compile("m{3,}|d{3,}|a{3,}", re.IGNORECASE)  # months and days by their names


def as_shown(value: Any, code: str) -> str:
    """Return the text of a cell that holds no text.

    Args:
        value: a number, a date, a time or a truth value.
        code: the cell's number format ("General", "0.00%", 'yyyy"年"m"月"d"日"').
    """
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, (int, float)):
        return _number(value, code)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time() and "h" in code.lower():
        value, code = value.date(), "General"  # a date that went through a program
    if isinstance(value, (datetime.date, datetime.time)):
        return _date(value, code) or _plain_date(value)
    return str(value).strip()


def _number(value: float, code: str) -> str:
    positive = _CONDITION.sub("", code).split(";")[0]
    bare = _LITERAL.sub("", positive)
    match = re.search(r"[#0,]*[#0](?:\.([#0]+))?", bare)
    if bare in ("General", "@") or match is None:
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    is_percentage = "%" in bare
    digits = match[1] or ""
    text = f"{value * (100 if is_percentage else 1):{',' if ',' in match[0] else ''}.{len(digits)}f}"
    if "," not in match[0]:
        whole = match[0].split(".")[0].count("0")
        text = text.zfill(whole + len(text) - len(text.split(".")[0]))
    optional = len(digits) - len(digits.rstrip("#"))
    for _ in range(optional):
        text = text.removesuffix("0")
    text = text.removesuffix(".") + ("%" if is_percentage else "")
    before, after = (_literals(part) for part in _around(positive))
    return f"{before}{text}{after}"


def _around(code: str) -> tuple[str, str]:
    """Return what stands before and behind the digits of a number format."""
    masked = _LITERAL.sub(lambda match: "\0" * len(match[0]), code)
    places = [place for place, character in enumerate(masked) if character in "#0"]
    return code[: places[0]], code[places[-1] + 1 :]


def _literals(code: str) -> str:
    """Return what a part of a format shows besides digits; "_" and "*" only fill up the cell."""
    shown = re.findall(r'"([^"]*)"|\\(.)|[_*].|([¥￥$€])', code)
    return "".join(quoted or escaped or sign for quoted, escaped, sign in shown)


def _date(value: datetime.date | datetime.time, code: str) -> str:
    """Return a date as its format shows it; nothing if that is no format of a date."""
    code = _CONDITION.sub("", code.split(";")[0])
    parts = list(_PART.finditer(code))
    if code == "General" or not any(part["code"] for part in parts) or _IN_WORDS.search(code):
        return ""
    shown, place, before = [], 0, ""
    has_noon = any(part["noon"] for part in parts)
    following = [*(part["code"] or "" for part in parts[1:]), ""]
    for part, after in zip(parts, following, strict=True):
        shown.append(code[place : part.start()])
        place = part.end()
        if part["literal"]:
            shown.append(part["literal"].strip('"').removeprefix("\\"))
        elif part["noon"]:
            shown.append("上午" if getattr(value, "hour", 0) < 12 else "下午")
        else:
            letters = part["code"].lower()
            is_minute = letters[0] == "m" and (before[:1] == "h" or after[:1].lower() == "s")
            shown.append(_field(value, letters, is_minute, has_noon))
            before = letters
    return "".join([*shown, code[place:]]).strip()


def _field(value: Any, letters: str, is_minute: bool, has_noon: bool) -> str:
    """Return one field of a date or a time."""
    kind, width = letters[0], min(len(letters), 2)
    if kind == "y":
        year = getattr(value, "year", 1900)
        return f"{year:04d}" if len(letters) > 2 else f"{year % 100:02d}"
    names = {"m": "minute" if is_minute else "month", "d": "day", "h": "hour", "s": "second"}
    number = getattr(value, names[kind], 0)
    if kind == "h" and has_noon:
        number = number % 12 or 12
    return f"{number:0{width}d}"


def _plain_date(value: datetime.date | datetime.time) -> str:
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return str(value)
