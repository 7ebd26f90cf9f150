"""Which part of a prompt is the sentence: the instruction around it is what the prompts of a file share.

An instruction stands before the sentence as a rule, ends with a colon, a line, a full stop or an opening
quote, and says that something is to be extracted; it may go on, or stand, behind the sentence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from data_handle.converters.labelled import Fact

_CUT = re.compile(r"[:：]\s*|\n+\s*")
_WEAK_CUT = re.compile(r"[。！？!?]\s*|[“「『\"‘']")
_MAX_CUTS = 50  # an instruction isn't longer
_ASKING = re.compile(
    "抽取|提取|三元组|识别|找出|列出|返回|输出|分析|哪些|指令|extract|triple|relation|entit|identif|instruction",
    re.IGNORECASE,
)
_QUOTES = {"“": "”", "「": "」", "『": "』", '"': '"', "‘": "’", "'": "'"}
# A name before the sentence, and an invitation to answer behind it, belong to neither.
_NAME = re.compile(
    r"\s*(?:给定|输入|待抽取|原始)?的?(?:文本|句子|原文|输入|内容|语句|段落|text|sentence|input)[:：]\s*",
    re.IGNORECASE,
)
_INVITATION = re.compile(
    r"\n\s*(?:输出|答案|回答|结果|抽取结果|三元组|answer|output|response)[:：]\s*$", re.IGNORECASE
)
_COMMON = 2  # a beginning is no accident if more prompts than that have it


class Turn(NamedTuple):
    """A question and its answer.

    Args:
        where: file and line.
        prompt: instruction and sentence, or the sentence alone.
        is_bare: the source has the instruction elsewhere: the prompt is the sentence.
        answer: what was answered.
        system: what was said before, by a system prompt say.
    """

    where: str
    prompt: str
    is_bare: bool
    answer: str
    system: str = ""


class Prompts:
    """The prompts of a file, which tell what is an instruction in each of them."""

    def __init__(self, turns: Sequence[tuple[Turn, list[Fact]]]) -> None:
        self._heads: Counter[str] = Counter()
        for turn, facts in turns:
            if not turn.is_bare:
                self._heads.update(_possible_heads(turn.prompt, facts, weak=True))
        bare = [turn.prompt for turn, _ in turns if turn.is_bare]
        self._are_named = bool(bare) and all(map(_NAME.match, bare))
        # Where no prompt asks for anything, and they have no beginning in common, they are sentences.
        asked = [turn for turn, _ in turns if not turn.is_bare]
        self._are_sentences = not any(
            _ASKING.search(turn.prompt) or self._shared(turn.prompt) for turn in asked
        ) and all(turn.system.strip() or len(asked) > _COMMON for turn in asked)

    def sentence_of(self, turn: Turn, facts: list[Fact]) -> str | None:
        """Return the sentence of a prompt; None if that can't be told."""
        if turn.is_bare:
            named = _NAME.match(turn.prompt) if self._are_named else None
            return turn.prompt[named.end() :] if named else turn.prompt
        prompt = _INVITATION.sub("", turn.prompt)
        if self._are_sentences:
            return prompt
        possible = _possible_heads(prompt, facts, weak=False)
        usual = [head for head in _possible_heads(prompt, facts, weak=True) if self._heads[head] > _COMMON]
        asking = [head for head in _possible_heads(prompt, facts, weak=True) if _ASKING.search(head)]
        if usual:
            most = max(self._heads[head] for head in usual)
            head = [each for each in usual if self._heads[each] == most][-1]
        elif asking:
            head = next((each for each in possible if each in asking), asking[0])
            named = _NAME.match(prompt, len(head))
            head = prompt[: named.end()] if named else head
        elif (sentence := _before_instruction(prompt, facts)) is not None:
            return sentence
        elif possible:
            head = possible[0]
        else:
            return None
        return _without_tail(prompt[len(head) :], head)

    def _shared(self, prompt: str) -> bool:
        return any(self._heads[head] > _COMMON for head in _possible_heads(prompt, [], weak=True))


def _possible_heads(prompt: str, facts: Iterable[Fact], weak: bool) -> list[str]:
    """Return beginnings that may be instructions: without values of the answer, the shortest first."""
    values = {value for fact in facts for value in (fact.subject, fact.object)}
    ends = {match.end() for match in islice(_CUT.finditer(prompt), _MAX_CUTS)}
    if weak:
        ends |= {match.end() for match in islice(_WEAK_CUT.finditer(prompt), _MAX_CUTS)}
    return [
        prompt[:end]
        for end in sorted(ends)
        if prompt[end:].strip() and all(value in prompt[end:] for value in values)
    ]


def _before_instruction(prompt: str, facts: Iterable[Fact]) -> str | None:
    """Return the sentence of a prompt whose last line asks; None if it has no such line."""
    sentence, line, tail = prompt.rstrip().rpartition("\n")
    values = {value for fact in facts for value in (fact.subject, fact.object)}
    if line and _ASKING.search(tail) and sentence.strip() and all(value in sentence for value in values):
        return sentence.strip()
    return None


def _without_tail(sentence: str, head: str) -> str:
    """Return a sentence without the quote that closes it, and what the instruction says behind that."""
    closing = _QUOTES.get(head.strip()[-1:])
    if closing and closing in sentence:
        return sentence[: sentence.rindex(closing)].strip()
    return sentence.strip()
