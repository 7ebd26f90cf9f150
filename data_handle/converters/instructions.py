"""Instruction data: Alpaca (instruction, input, output), ShareGPT (conversations) and OpenAI's messages.

Sources: github.com/tatsu-lab/stanford_alpaca, LLaMA-Factory's `data/README.md` (alpaca and sharegpt),
OpenAI's fine-tuning format (`messages` with role and content), XTuner (`conversation` of input and output),
Firefly (human and assistant), ChatGLM-6B's own (content and summary), ms-swift (query and response).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from data_handle.converters.answers import read_answer
from data_handle.converters.fields import as_text, get_field, is_fact
from data_handle.converters.iepile import read_question, types_of
from data_handle.converters.labelled import Fact, Labelled, Problem, Settings, excerpt
from data_handle.converters.prompts import Prompts, Turn
from data_handle.converters.source import Record

_ASKERS = {"human", "user", "instruction", "问"}
_ANSWERERS = {"gpt", "assistant", "chatgpt", "bot", "model", "output", "答"}
_CHAT_KEYS = ("conversations", "messages", "conversation")
# Keys of a turn that holds question and answer both.
_PAIR_KEYS = (("human", "assistant"), ("user", "assistant"), ("input", "output"), ("question", "answer"))
_INSTRUCTIONS = ("instruction", "prompt", "query", "question")
_SENTENCES = ("input", "text", "sentence", "context", "content")
_ANSWERS = ("output", "response", "completion", "answer", "answers", "target", "summary")


def recognise(record: dict[str, Any]) -> str | None:
    """Return the format's name if a record has it."""
    for key in _CHAT_KEYS:
        turns = record.get(key)
        if isinstance(turns, list) and turns and all(isinstance(turn, dict) for turn in turns):
            return "messages（role/content）" if "role" in turns[0] else "ShareGPT"
    facts = get_field(record, "facts")
    if isinstance(facts, list) and facts and all(map(is_fact, facts)):
        return None  # which say more than the same as an answer
    if {"instruction", "output"} <= record.keys():
        return "Alpaca"
    if {"prompt", "response"} <= record.keys() or {"prompt", "completion"} <= record.keys():
        return "prompt/response"
    if isinstance(facts, (list, dict)):
        return None
    names = _first(record, _INSTRUCTIONS), _first(record, _SENTENCES), _first(record, _ANSWERS)
    if names[2] is None or not any(isinstance(record[name], str) for name in names[:2] if name):
        return None
    return f"问答（{'、'.join(filter(None, names))}）"


def read(records: list[Record], settings: Settings) -> Iterator[Labelled | Problem]:
    """Yield the sentences of records, and what can't be used."""
    turns: list[tuple[Turn, list[Fact]]] = []
    for record in records:
        try:
            found = list(_turns(record))
        except ValueError as error:
            yield Problem(record.where, str(error))
            continue
        if not found:
            yield Problem(record.where, "没有一问一答")
        for turn in found:
            try:
                question = read_question(turn.prompt)
                if question is not None:  # as of IEPile
                    text = as_text(question["input"], "input")
                    yield Labelled(text, read_answer(turn.answer, types_of(question)), turn.where)
                    continue
                facts = read_answer(turn.answer, question=f"{turn.system}\n{turn.prompt}")
                turns.append((turn, facts))
            except ValueError as error:
                yield Problem(turn.where, str(error), excerpt(turn.answer))
    prompts = Prompts(turns)
    for turn, facts in turns:
        sentence = prompts.sentence_of(turn, facts)
        if sentence is None:
            yield Problem(turn.where, "分不清指令和句子", excerpt(turn.prompt))
        else:
            yield Labelled(sentence, facts, turn.where)


def _turns(record: Record) -> Iterator[Turn]:
    where, value = record
    system = value.get("system")
    system = system if isinstance(system, str) else ""
    for key in _CHAT_KEYS:
        if isinstance(value.get(key), list):
            messages: list[tuple[str, str]] = []
            for message in value[key]:
                messages += _messages(message)
            for (asker, prompt), (answerer, answer) in pairwise(messages):
                if asker == "system":
                    system = prompt
                if asker in _ASKERS and answerer in _ANSWERERS:
                    yield Turn(where, prompt, False, answer, system)
            return
    instruction, sentence = (_text_of(value, names) for names in (_INSTRUCTIONS, _SENTENCES))
    name = _first(value, _ANSWERS)
    if name is None:
        raise ValueError("没有答案")
    output = value[name]
    answer = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    if instruction.strip() and sentence.strip():
        yield Turn(where, sentence, True, answer, f"{system}\n{instruction}")
    elif instruction.strip():
        yield Turn(where, instruction, False, answer, system)
    else:  # under such a name it is the sentence, unless there is an instruction in it
        yield Turn(where, sentence, False, answer, system or "句子")


def _first(record: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if record.get(name) is not None), None)


def _text_of(record: dict[str, Any], names: tuple[str, ...]) -> str:
    name = _first(record, names)
    return as_text(record[name], name) if name else ""


def _messages(message: dict[str, Any]) -> list[tuple[str, str]]:
    """Return who speaks, and what; two of them where a message holds question and answer both."""
    speaker = message.get("from", message.get("role"))
    if speaker is None:
        pair = next((pair for pair in _PAIR_KEYS if set(pair) <= message.keys()), ())
        found = [("user", "assistant")[number] for number in range(len(pair))]
        system = [("system", message["system"])] if isinstance(message.get("system"), str) else []
        return system + [(who, as_text(message[key], key)) for who, key in zip(found, pair, strict=True)]
    content = message.get("value", message.get("content"))
    if isinstance(content, list):  # parts, as in OpenAI's newer messages
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return [(str(speaker).lower(), as_text(content, "content"))]
