"""The prompt: one wording and one encoding for training, evaluation and inference."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from utils.common_utils import UserError

INSTRUCTION = "帮我抽取出下面句子中的三元组信息，返回JSON："
PROMPT_TEMPLATE = (
    "Instruction: 你现在是一个很厉害的阅读理解器，严格按照人类指令进行回答。\n"
    "Input: {instruction}\n\n{sentence}\nAnswer: "
)
WANTED = "只抽取这些关系（主语类型-关系-宾语类型）："

# head: up to the blank line that ends the instruction; tail: the cue for the answer
_CONTEXT = re.compile(r"(Instruction: .*?\nInput: .*?\n\n)(.*)(\nAnswer: ?)", re.DOTALL)
_BLANK_LINE = "\n\n"
# No piece of the published vocabulary is longer, so more characters than this per token can't fit.
_MAX_CHARACTERS_PER_TOKEN = 128


class PromptTokenizer(Protocol):
    """What encoding a prompt needs of a base model's tokenizer."""

    def prompt_ids(self, context: str) -> list[int]: ...


class EncodedPrompt(NamedTuple):
    """`input_ids` ends where the answer begins; `truncated` says that the sentence lost its end."""

    input_ids: list[int]
    truncated: bool


def build_prompt(sentence: str, instruction: str = INSTRUCTION) -> str:
    """Return the `context` of a sentence, in the notation of the data files."""
    return PROMPT_TEMPLATE.format(instruction=instruction, sentence=sentence)


def split_context(context: str) -> tuple[str, str, str]:
    """Split a context into (head, sentence, tail), which joined give the context again.

    A context in another notation than `PROMPT_TEMPLATE` is taken as one sentence without head and tail.
    """
    match = _CONTEXT.fullmatch(context)
    return (match[1], match[2], match[3]) if match else ("", context, "")


def with_relations(context: str, names: Iterable[str]) -> str:
    """Return a context whose instruction ends with the relations that are wanted, by their names.

    One in another notation than `PROMPT_TEMPLATE` has no instruction to put them in, and stays as it is.
    """
    head, sentence, tail = split_context(context)
    if not head:
        return context
    return f"{head.removesuffix(_BLANK_LINE)}\n{WANTED}{'、'.join(names)}{_BLANK_LINE}{sentence}{tail}"


def encode_prompt(tokenizer: PromptTokenizer, context: str, max_source_seq_len: int) -> EncodedPrompt:
    """Encode a context, with what stands around it for this base model.

    Args:
        tokenizer: of the base model.
        context: the whole prompt, instruction and sentence.
        max_source_seq_len: the most ids to return, special ones included. A longer context loses
            characters at the end of its sentence, never of its instruction or its "Answer: ".

    Raises:
        UserError: the instruction alone does not fit.
    """
    head, sentence, tail = split_context(context)

    fits, too_long = 0, min(len(sentence), max_source_seq_len * _MAX_CHARACTERS_PER_TOKEN) + 1
    if too_long == len(sentence) + 1:
        ids = tokenizer.prompt_ids(context)
        if len(ids) <= max_source_seq_len:
            return EncodedPrompt(ids, truncated=False)
        too_long -= 1

    best = tokenizer.prompt_ids(head + tail)
    if len(best) > max_source_seq_len:
        raise UserError(
            f"max_source_seq_len={max_source_seq_len} 太小：指令本身就有 {len(best)} 个 token，"
            "没有留给句子的位置，请把它调大。"
        )
    while too_long - fits > 1:  # bisect for the longest beginning of the sentence that fits
        middle = (fits + too_long) // 2
        ids = tokenizer.prompt_ids(head + sentence[:middle] + tail)
        if len(ids) <= max_source_seq_len:
            fits, best = middle, ids
        else:
            too_long = middle
    return EncodedPrompt(best, truncated=True)
