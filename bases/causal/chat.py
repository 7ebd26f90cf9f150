"""What stands around a context and its answer: the formats that published chat models were trained with.

A directory's chat template is a program (in Jinja). It is read as a text here, never run: what it mentions
tells which of the known formats it writes. A model with another template, or without one, gets the context as
it is, and its answer ends with the tokenizer's own end token.
"""

from __future__ import annotations

from typing import NamedTuple

# Qwen2.5 puts this into the system's turn if nothing else is given.
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
_NO_THOUGHTS = "<think>\n\n</think>\n\n"


class ChatFormat(NamedTuple):
    """A format of conversation; texts in it may hold names of special tokens.

    Attributes:
        markers: what a template of this format mentions.
        before: what stands before the context.
        after: what stands between context and answer.
        end: the token that ends an answer.
    """

    markers: tuple[str, ...]
    before: str
    after: str
    end: str


_CHATML_BEFORE, _CHATML_AFTER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
# The first whose markers are all in the template; what mentions more comes before what mentions less.
FORMATS = {
    "qwen3": ChatFormat(
        ("<|im_start|>", "<|im_end|>", "enable_thinking"),
        _CHATML_BEFORE,
        _CHATML_AFTER + _NO_THOUGHTS,
        "<|im_end|>",
    ),
    "qwen2": ChatFormat(
        ("<|im_start|>", "<|im_end|>", QWEN_SYSTEM),
        f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n" + _CHATML_BEFORE,
        _CHATML_AFTER,
        "<|im_end|>",
    ),
    "chatml": ChatFormat(("<|im_start|>", "<|im_end|>"), _CHATML_BEFORE, _CHATML_AFTER, "<|im_end|>"),
    "llama3": ChatFormat(
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "gemma": ChatFormat(
        ("<start_of_turn>", "<end_of_turn>"),
        "<start_of_turn>user\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>",
    ),
    "glm4": ChatFormat(
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>"), "<|user|>\n", "<|assistant|>\n", "<|user|>"
    ),
    "phi3": ChatFormat(
        ("<|user|>", "<|end|>", "<|assistant|>"), "<|user|>\n", "<|end|>\n<|assistant|>\n", "<|end|>"
    ),
    "chatglm3": ChatFormat(("[gMASK]", "<|user|>", "</s>"), "<|user|>\n", "<|assistant|>\n", "</s>"),
    "chatglm2": ChatFormat(("[gMASK]", "[Round 1]", "</s>"), "[Round 1]\n\n问：", "\n\n答：", "</s>"),
    "mistral": ChatFormat(("[INST]", "[/INST]"), "[INST] ", " [/INST]", "</s>"),
}
PLAIN = "plain"


def choose_format(template: str, known: set[str]) -> str:
    """Return the name of the format that a chat template writes; `PLAIN` for none that is known.

    Args:
        template: its text; "" where a model has none.
        known: names of the tokenizer's special tokens.
    """
    for name, chat in FORMATS.items():
        special = {marker for marker in chat.markers if marker.startswith("<")} | {chat.end}
        if all(marker in template for marker in chat.markers) and special <= known:
            return name
    return PLAIN
