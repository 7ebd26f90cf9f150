"""Builds data/mixed_{train,dev}_dataset.jsonl from data/source/, and counts or checks them.

python -m data.build_mixed            write both files
python -m data.build_mixed --stats    count what is in them
python -m data.build_mixed --check    test them against the promises of data/README.md
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

from data.notation import (
    Block,
    Entry,
    Schema,
    SourceError,
    Tables,
    parse_block,
    read_blocks,
    read_schema,
    read_sections,
)
from task.prompt import INSTRUCTION, build_prompt, split_context
from task.triplets import KEYS, format_target, is_triplet_target, parse_target
from utils.command_line import ChineseArgumentParser
from utils.common_utils import log, run_main

DATA = Path(__file__).resolve().parent

SOURCE = DATA / "source"
FILES = {"train": DATA / "mixed_train_dataset.jsonl", "dev": DATA / "mixed_dev_dataset.jsonl"}
DEMO_TITLE = "娘家的故事第二部"  # the sentence that the commands show; in neither file
SEED = 20240601
DEFAULT_SHARE = {"train": 0.4, "dev": 0.5}  # how many triplet lines carry the default instruction
# Values of these types are common property; everything else that dev names must be new to the model.
COMMON_TYPES = {"Date", "Number", "Text", "国家", "地点", "城市", "出版社", "网站", "学校", "目", "气候"}
_STATISTICS_WIDTH = 70  # characters, after which a list goes on in the next line
MIN_EXAMPLES = 8  # in train, of each predicate that dev asks for
TRIES = 200  # draws for one filling of a pattern before the tables count as too small

Line = dict[str, str]


def new_names(entries: list[Entry]) -> set[str]:
    """Return the names that are particular to these sentences: subjects, and objects that are not common."""
    names = set()
    for triplet in (triplet for entry in entries for triplet in entry.triplets):
        names.add(triplet.subject)
        if triplet.object_type not in COMMON_TYPES:
            names.add(triplet.object)
    return names


def fill_patterns(
    patterns: list[Block], tables: Tables, schema: Schema, forbidden: set[str], seen: set[str]
) -> list[Entry]:
    """Fill each pattern as often as it asks, without the `forbidden` names and without a sentence twice."""
    entries = []
    for pattern in patterns:
        for _ in range(pattern.repeat):
            for _ in range(TRIES):
                block = tables.fill(pattern)
                if block.text not in seen and not any(name in block.text for name in forbidden):
                    break
            else:
                raise SourceError(f"表太小，填不满句式：{pattern.text}")
            seen.add(block.text)
            entries.append(parse_block(block, schema))
    return entries


def to_lines(entries: list[Entry], split: str) -> list[Line]:
    """Give each entry an instruction and turn it into a line, in a shuffled order."""
    rng = random.Random(SEED)
    wordings = read_sections(SOURCE / "instructions.txt")
    entries = rng.sample(entries, len(entries))
    decks: dict[str, list[str]] = {}

    def instruction(entry: Entry, default: bool) -> str:
        if default:
            return INSTRUCTION
        name = f"{split} {entry.task or '三元组'}"
        if not decks.get(name):
            decks[name] = rng.sample(wordings[name], len(wordings[name]))
        return decks[name].pop()

    lines = []
    for entry in entries:
        default = not entry.task and rng.random() < DEFAULT_SHARE[split]
        target = entry.answer if entry.task else format_target(entry.triplets)
        lines.append({"context": build_prompt(entry.text, instruction(entry, default)), "target": target})
    return lines


def build() -> dict[str, list[Line]]:
    """Return the lines of both files; the same every time."""
    schema = read_schema(SOURCE / "schema.txt")
    dev = [parse_block(block, schema) for block in read_blocks(SOURCE / "dev.txt")]
    train = [
        parse_block(block, schema)
        for path in sorted(SOURCE.glob("train_*.txt"))
        for block in read_blocks(path)
    ]
    patterns = [block for path in sorted(SOURCE.glob("patterns_*.txt")) for block in read_blocks(path)]
    tables = Tables(SOURCE / "entities.txt", random.Random(SEED))
    seen = {entry.text for entry in dev + train}
    train += fill_patterns(patterns, tables, schema, new_names(dev), seen)
    return {"train": to_lines(train, "train"), "dev": to_lines(dev, "dev")}


def render(lines: list[Line]) -> str:
    """Return the content of a JSONL file."""
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def read(split: str) -> list[Line]:
    """Return the lines of a written file."""
    return [json.loads(line) for line in FILES[split].read_text(encoding="utf-8").splitlines()]


def instruction_of(line: Line) -> str:
    """Return the wording of a line's instruction."""
    return split_context(line["context"])[0].split("\nInput: ", 1)[1].removesuffix("\n\n")


def sentence_of(line: Line) -> str:
    """Return the sentence of a line."""
    return split_context(line["context"])[1]


def statistics(split: str) -> str:
    """Return a table of what is in a file."""
    lines = read(split)
    answers = [parse_target(line["target"]) for line in lines if is_triplet_target(line["target"])]
    labels = Counter(line["target"] for line in lines if not is_triplet_target(line["target"]))
    triplets = [triplet for answer in answers for triplet in answer]
    sizes = Counter(len(answer) for answer in answers)
    predicates = Counter(f"{triplet.predicate}（{triplet.subject_type}）" for triplet in triplets)
    default = sum(instruction_of(line) == INSTRUCTION for line in lines)
    rows = [
        f"{FILES[split].name}：{len(lines)} 行",
        f"  三元组抽取 {len(answers)} 行（其中空列表 {sizes[0]} 行），三元组 {len(triplets)} 个；"
        f"分类 {sum(labels.values())} 行",
        f"  指令说法 {len({instruction_of(line) for line in lines})} 种，其中默认指令 {default} 行",
        "  每行三元组个数：" + "，".join(f"{size} 个 {sizes[size]} 行" for size in sorted(sizes)),
        _counted(f"  谓语和主语类型的组合 {len(predicates)} 种：", predicates),
        _counted("  分类答案：", labels),
    ]
    return "\n".join(rows)


def _counted(head: str, counts: Counter[str]) -> str:
    """Return counts on as many lines as they need."""
    lines = [head]
    for name, count in counts.most_common():
        if len(lines[-1]) > _STATISTICS_WIDTH:
            lines.append("    ")
        lines[-1] += f"{name} {count}，"
    return "\n".join(lines).removesuffix("，")


def check_line(line: Line, allowed: set[tuple[str, str, str]]) -> list[str]:
    """Return what is wrong with one line on its own."""
    if list(line) != ["context", "target"]:
        return ["字段应当是 context、target"]
    sentence, target = sentence_of(line), line["target"]
    if line["context"] != build_prompt(sentence, instruction_of(line)):
        return ["context 与提示词模板不符"]
    if DEMO_TITLE in sentence:
        return ["出现了演示句"]
    if not is_triplet_target(target):
        return [] if target == target.strip() and 0 < len(target) <= 8 else ["分类答案应当是简短的文字"]
    triplets = parse_target(target)
    problems = []
    items = json.loads(target.removeprefix("```json\n").removesuffix("\n```"))
    if format_target(triplets) != target or any(tuple(item) != KEYS for item in items):
        problems.append("target 的写法与 README 不符")
    if len(set(triplets)) != len(triplets):
        problems.append("三元组重复")
    for triplet in triplets:
        name = f"{triplet.predicate}（{triplet.subject}，{triplet.object}）"
        if triplet.subject not in sentence or triplet.object not in sentence:
            problems.append(f"{name} 不在句子里")
        if (triplet.predicate, triplet.subject_type, triplet.object_type) not in allowed:
            problems.append(f"{name} 的类型与 schema.txt 不符")
        if re.search(r"[《》“”]|^\s|\s$|^$", triplet.subject + triplet.object):
            problems.append(f"{name} 带有书名号、引号或空白")
    return problems


def skeleton(line: Line) -> str:
    """Return a line's sentence with its values blanked out: what is left is its phrasing."""
    sentence = sentence_of(line)
    if is_triplet_target(line["target"]):
        values = {
            value for triplet in parse_target(line["target"]) for value in (triplet.subject, triplet.object)
        }
        for value in sorted(values, key=lambda value: (-len(value), value)):
            sentence = sentence.replace(value, "□")
    return re.sub(r"\d+", "0", sentence)


def check_overlap(lines: dict[str, list[Line]]) -> list[str]:
    """Return what dev shares with train and must not."""
    train, dev = lines["train"], lines["dev"]
    problems = [
        f"验证集的{what}在训练集里也有：{value}"
        for what, part in (("句子", sentence_of), ("句式", skeleton), ("指令", instruction_of))
        for value in sorted({part(line) for line in dev} & {part(line) for line in train} - {INSTRUCTION})
    ]
    text = "\n".join(sentence_of(line) for line in train)
    entries = [
        Entry(sentence_of(line), tuple(parse_target(line["target"])))
        for line in dev
        if is_triplet_target(line["target"])
    ]
    return problems + [
        f"验证集的名称在训练集里也有：{name}" for name in sorted(new_names(entries)) if name in text
    ]


def check_coverage(lines: dict[str, list[Line]]) -> list[str]:
    """Return the predicates that dev asks for and train hardly shows."""
    counts = {
        split: Counter(
            (triplet.predicate, triplet.subject_type)
            for line in lines[split]
            if is_triplet_target(line["target"])
            for triplet in parse_target(line["target"])
        )
        for split in lines
    }
    return [
        f"{predicate}（{subject_type}）在训练集里只有 {counts['train'][predicate, subject_type]} 个三元组"
        for predicate, subject_type in counts["dev"]
        if counts["train"][predicate, subject_type] < MIN_EXAMPLES
    ]


def check() -> list[str]:
    """Return everything in which the two files break their promises; an empty list if nothing."""
    schema = read_schema(SOURCE / "schema.txt")
    allowed = {(name, subject, value) for (name, subject), value in schema.types.items()}
    built, lines = build(), {split: read(split) for split in FILES}
    problems = []
    for split, path in FILES.items():
        if path.read_text(encoding="utf-8") != render(built[split]):
            problems.append(
                f"{path.name} 与 data/source/ 生成的不一致，请重新运行 python -m data.build_mixed"
            )
        for number, line in enumerate(lines[split], start=1):
            problems += [f"{path.name} 第 {number} 行：{problem}" for problem in check_line(line, allowed)]
        sentences = Counter(sentence_of(line) for line in lines[split])
        problems += [f"{path.name} 句子重复：{text}" for text, count in sentences.items() if count > 1]
    return problems + check_overlap(lines) + check_coverage(lines)


def main() -> int:
    """Run the command."""
    parser = ChineseArgumentParser(description="由 data/source/ 生成两个数据文件，或统计、检查它们。")
    parser.add_argument("--stats", action="store_true", help="统计两个文件的内容")
    parser.add_argument("--check", action="store_true", help="检查两个文件，有问题时退出码为 1")
    arguments = parser.parse_args()
    if arguments.check:
        problems = check()
        for problem in problems:
            log(problem)
        log(f"发现 {len(problems)} 个问题。" if problems else "两个文件都没有问题。")
        return 1 if problems else 0
    if arguments.stats:
        print("\n\n".join(statistics(split) for split in FILES))
        return 0
    for split, lines in build().items():
        FILES[split].write_text(render(lines), encoding="utf-8")
        log(f"已写入 {FILES[split].name}：{len(lines)} 行")
    return 0


if __name__ == "__main__":
    run_main(main, user_errors=(SourceError,))
