"""Measure the embedded base itself, without adapter, on fresh generated samples: F1 of answer items by task.

python -m tiny_base.evaluate --samples 100
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bases.chatglm import ChatGLMForConditionalGeneration, ChatGLMTokenizer
from tiny_base.corpus.__main__ import DEV_FILE
from tiny_base.corpus.heldout import HeldOut
from tiny_base.corpus.tasks import LONG_BLANK, Sample, TaskWriter
from utils.command_line import ChineseArgumentParser
from utils.common_utils import log, run_main

MODEL_DIR = Path(__file__).resolve().parents[1] / "models" / "chatglm-tiny"
TASKS = (
    *("five_fields", "three_fields", "lines", "chosen_relations", "question", "relation_between", "entities"),
    *("relations_present", "subject_type", "copy", "review_topic", "review_mood", "news_topic", "written"),
)


def items(answer: str) -> set[str]:
    """Split an answer into what is counted: triplets of JSON (in any order of keys), lines, entries."""
    body = answer.strip().removeprefix("```json").removesuffix("```").strip()
    try:
        value = json.loads(body)
    except ValueError:
        return {line for line in body.splitlines() if line}
    if isinstance(value, dict):
        return {json.dumps([key, value[key]], ensure_ascii=False) for key in value}
    if not isinstance(value, list):
        return {body}
    return {json.dumps(item, ensure_ascii=False, sort_keys=True) for item in value}


def generate(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    samples: list[Sample],
    batch_size: int = 20,
) -> list[str]:
    """Answer samples greedily, in batches of similar length.

    Returns:
        The answers, in the order of the samples.
    """
    encoded = []
    for sample in samples:
        assert sample.blank == LONG_BLANK
        encoded.append(
            [*tokenizer.encode_plain(sample.before), tokenizer.gmask_token_id, tokenizer.bos_token_id]
        )
    order = sorted(range(len(samples)), key=lambda index: len(encoded[index]))
    answers = [""] * len(samples)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        longest = max(len(encoded[row]) for row in rows)
        padded = [[tokenizer.pad_token_id] * (longest - len(encoded[row])) + encoded[row] for row in rows]
        input_ids = torch.tensor(padded)
        attention_mask = torch.tensor(
            [[0] * (longest - len(encoded[row])) + [1] * len(encoded[row]) for row in rows]
        )
        output = model.generate(
            input_ids=input_ids, attention_mask=attention_mask, max_new_tokens=320, do_sample=False
        )
        for row, ids in zip(rows, output[:, longest:].tolist(), strict=True):
            answers[row] = tokenizer.decode(ids, skip_special_tokens=True)
    return answers


def normal(tokenizer: ChatGLMTokenizer, text: str) -> str:
    """Bring a reference into the form that decoding gives: full-width characters are normalised."""
    return tokenizer.decode(tokenizer.encode_plain(text), skip_special_tokens=True)


def main() -> None:
    """Print one JSON object: F1 and share of exact answers by task."""
    parser = ChineseArgumentParser(description="在新生成的样本上测量小模型本身（不带适配器）")
    parser.add_argument("--model", type=Path, default=MODEL_DIR, help="模型目录")
    parser.add_argument("--samples", type=int, default=100, help="每种任务的样本数")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS, help="任务")
    parser.add_argument("--show", type=int, default=0, help="每种任务显示几个答错的例子")
    parser.add_argument("--threads", type=int, default=2, help="CPU 线程数")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = ChatGLMTokenizer.from_pretrained(str(args.model))
    model = ChatGLMForConditionalGeneration.from_pretrained(str(args.model), dtype=torch.float32).eval()
    writer = TaskWriter("evaluation", HeldOut.from_file(DEV_FILE))
    results = {}
    for task in args.tasks:
        samples = [getattr(writer, task)() for _ in range(args.samples)]
        found = wanted = right = exact = 0
        shown = 0
        for sample, answer in zip(samples, generate(model, tokenizer, samples), strict=True):
            reference = normal(tokenizer, sample.target)
            got, want = items(answer), items(reference)
            found, wanted, right = found + len(got), wanted + len(want), right + len(got & want)
            exact += got == want
            if got != want and shown < args.show:
                shown += 1
                log(f"[{task}] {sample.before}\n  应为 {reference}\n  实为 {answer}")
        f1 = 2 * right / max(1, found + wanted)
        results[task] = {"f1": round(f1, 4), "exact": round(exact / len(samples), 4)}
        log(f"{task}: {results[task]}")
    print(json.dumps(results, ensure_ascii=False))


if __name__ == "__main__":
    run_main(main)
