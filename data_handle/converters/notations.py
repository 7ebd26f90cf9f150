"""Facts in words: "(主语,关系,宾语)" in brackets, "主体：…；关系：…；客体：…", "主语_关系_宾语" in lines.

These are the notations that instruction data in Chinese have for triplets: KnowLM's tuples
(github.com/zjunlp/KnowLM), the lines with "_" of github.com/liucongg/ChatGLM-Finetuning, and labels before
each value. An answer is read as a whole or not at all.
"""

from __future__ import annotations

import re

from data_handle.converters.fields import NAMES
from data_handle.converters.labelled import Fact

_BRACKETS = {"(": ")", "（": "）", "<": ">", "【": "】", "[": "]"}
_AMBIGUOUS = "["  # ["甲", "乙", "丙"] is a list of three words: two of them at least make triplets
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`"}
# What may stand before the first bracket, between two, and after the last.
_LEAD = re.compile(r"(?:[^()（）<>【】\[\]]{0,80}[:：])?\s*")
_NUMBER = r"(?:[-*•·]\s+|[(（]?\d{1,3}[.、)）:：]\s*)?"
_BETWEEN = re.compile(rf"[\s,，、;；|\[\]。.和及]*{_NUMBER}[\s\[]*")
_MARK = re.compile(rf"\s*{_NUMBER}(?:三元组\s*\d*\s*[:：]\s*)?")
_COMMA = re.compile(r"[,，]|[()（）]")  # words in brackets are something else
_RULE = re.compile(r"[\s:|-]*-{3}[\s:|-]*")  # of a table in Markdown
_GROUP_END = re.compile(r"[;；]")
_HYPHEN = re.compile(r"\s*[-—–]\s*")  # needs a relation in Chinese, unlike dates
_LINE_MARKS = (  # what stands between the three parts on a line
    re.compile(r"\t+"),
    re.compile(r"\s*[|｜]\s*"),
    re.compile(r"\s*(?:-+>|—+>|=+>|→|-{2,}|—{2})\s*"),
    re.compile("_"),
    _HYPHEN,
)
_CHINESE = re.compile("[\u4e00-\u9fff]")
_ROLES = ("subject_type", "object_type", "subject", "predicate", "object")
_AMBIGUOUS_NAMES = {"value", "label", "type", "property", "source", "target", "from", "to"}
_ROLE_OF = {
    name.replace("_", ""): role
    for role in reversed(_ROLES)
    for name in NAMES[role].split()
    if (len(name) > 1 or _CHINESE.match(name)) and name not in _AMBIGUOUS_NAMES
}
_ROLE_OF |= dict.fromkeys(("类型", "类别", "type"), "type")  # of the value before
_LABEL = re.compile(
    r"(?<![^\W\d_])("
    + "|".join("[ _]?".join(map(re.escape, _name)) for _name in sorted(_ROLE_OF, key=len, reverse=True))
    + r")(?:[（(]([^（()）]{1,20})[)）])?[*\"'”’]{0,3}\s*[:：=]\s*[*]{0,2}\s*",
    re.IGNORECASE,
)
_VALUE_END = re.compile(r"[\n。;；]")
_CALL = re.compile(r"\s*([^\W\d][^()（）,，;；:：]{0,20})\s*[:：]?\s*[(（]([^()（）]*)[)）]\s*")
_MAX_LEAD = 60


def read_words(body: str, is_asked: bool) -> list[Fact]:
    """Read an answer in words.

    Args:
        body: the answer.
        is_asked: the question asks for triplets: then words with commas between them are such too.

    Returns:
        Its facts; none if it is in none of these notations.

    Raises:
        ValueError: in Chinese, if a fact lacks a part.
    """
    facts = _read_labelled(body) or read_tuples(body) or _read_lines(body, is_asked)
    return facts or (_read_calls(body) if is_asked else [])


def read_tuples(body: str) -> list[Fact]:
    """Read "(head,relation,tail)" one after another; nothing if there is other text between them."""
    facts: list[Fact] = []
    if body[:2] in ("((", "（（") and body.rstrip()[-2:] in ("))", "））"):
        body = body.rstrip()[1:-1]
    lead = _LEAD.match(body)
    place = lead.end() if lead else 0
    while (between := _BETWEEN.match(body, place)) and between.end() < len(body):
        start = between.end()
        is_square = body[start - 1 : start] == _AMBIGUOUS and body[start] not in _BRACKETS
        start -= is_square
        end = _closing(body, start)
        parts = _parts(body[start + 1 : end]) if end else []
        if len(parts) != 3 or not all(parts):
            return []
        facts.append(Fact(parts[1], parts[0], parts[2]))
        place = (end or 0) + 1
    if len(facts) == 1 and body.strip()[-1:] == "]" and "(" not in body and "（" not in body:
        return []
    return facts


def _closing(body: str, start: int) -> int | None:
    """Return where the bracket that opens at a place is closed; None if that is none, or it isn't."""
    opening, closing = body[start], _BRACKETS.get(body[start])
    depth = 0
    for place in range(start, len(body)):
        depth += (body[place] == opening) - (body[place] == closing)
        if not depth:
            return place if closing else None
    return None


def _parts(text: str) -> list[str]:
    """Split at commas, else at semicolons or bars, that stand in no brackets and no quotes.

    The quotes are taken off.
    """
    for marks in (",，", ";；", "|"):
        parts = _split(text, marks)
        if len(parts) > 1:
            break
    return parts


def _split(text: str, marks: str) -> list[str]:
    parts, depth, quote, start = [], 0, "", 0
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES and not text[start:place].strip():
            quote = _QUOTES[character]
        elif character in "(（":
            depth += 1
        elif character in ")）":
            depth -= 1
        elif character in marks and not depth:
            parts.append(text[start:place])
            start = place + 1
    return [_unquoted(part) for part in [*parts, text[start:]]]


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1].strip() if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] else text


def _read_labelled(body: str) -> list[Fact]:
    """Read values with labels before them; a label that comes again begins the next fact."""
    labels = list(_LABEL.finditer(body))
    if not labels or labels[0].start() > _MAX_LEAD:
        return []
    if len({_ROLE_OF[_plain(label[1])] for label in labels} & {"subject", "predicate", "object"}) < 3:
        return []
    found: list[dict[str, str]] = []
    ends = [*(label.start() for label in labels[1:]), len(body)]
    role = ""
    for label, end in zip(labels, ends, strict=True):
        before, role = role, _ROLE_OF[_plain(label[1])]
        if role == "type":
            role = f"{before}_type"
        value = _VALUE_END.split(body[label.end() : end].strip())[0]
        if not found or role in found[-1]:
            found.append({})
        found[-1][role] = _bare(value)
        if label[2] and role in ("subject", "object"):
            found[-1][f"{role}_type"] = label[2].strip()
    facts = []
    for fields in found:
        if not {"subject", "predicate", "object"} <= fields.keys():
            raise ValueError("答案里有的三元组缺少主语、关系或宾语")
        types = fields.get("subject_type", ""), fields.get("object_type", "")
        facts.append(Fact(fields["predicate"], fields["subject"], fields["object"], *types))
    return facts


def _bare(value: str) -> str:
    """Return a value without what stands between it and the next label, and without its quotes."""
    value = value.strip().rstrip(",，、|*-•·{[(（<【 \t")
    for opening, closing in _BRACKETS.items():
        if value.endswith(closing) and opening not in value:
            value = value[:-1].rstrip(",，、 ")
    return _unquoted(value.rstrip("}"))


def _plain(label: str) -> str:
    return re.sub("[ _]", "", label).lower()


def _read_lines(body: str, is_asked: bool) -> list[Fact]:
    """Read a fact a line, its parts with the same mark between them; the first line may name the parts."""
    rows = [row for row in (_MARK.sub("", line, count=1).strip() for line in body.split("\n")) if row]
    if len(rows) == 1:
        rows = [row.strip() for row in _GROUP_END.split(rows[0]) if row.strip()]
    rows = [row.strip("|").rstrip("。.;；,，、 ") for row in rows if not _RULE.fullmatch(row)]
    for mark in (*_LINE_MARKS, *([_COMMA] if is_asked else [])):
        found = [[_unquoted(part) for part in mark.split(row)] for row in rows]
        if not found or not all(len(parts) == 3 and all(parts) for parts in found):
            continue
        if mark is _HYPHEN and not all(_CHINESE.search(parts[1]) for parts in found):
            continue
        order = [_ROLE_OF.get(_plain(part)) for part in found[0]]
        if {"subject", "predicate", "object"} <= set(order):
            places = [order.index(role) for role in ("subject", "predicate", "object")]
            found = [[parts[place] for place in places] for parts in found[1:]]
        return [Fact(parts[1], parts[0], parts[2]) for parts in found]
    return []


def _read_calls(body: str) -> list[Fact]:
    """Read "relation(subject, object)" or "relation：(subject, object)", one after another."""
    rows = [row for row in re.split(r"[\n;；]", body.rstrip("。. ")) if row.strip()]
    matches = [_CALL.fullmatch(_MARK.sub("", row, count=1)) for row in rows]
    if not all(matches):
        return []
    facts = []
    for match in filter(None, matches):
        parts = _parts(match[2])
        if len(parts) != 2 or not all(parts):
            return []
        facts.append(Fact(match[1].strip(), parts[0], parts[1]))
    return facts
