"""Convert the DuIE release format to training lines: `python -m data_handle.convert_duie IN OUT`.

A DuIE line is `{"text": …, "spo_list": [{"predicate", "subject", "subject_type", "object", "object_type"}]}`;
object and object_type are `{"@value": …}`, with further slots for complex relations (DuIE 2.0), or plain
strings (DuIE 1.0). Values are taken over as they are written.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run as a file, which finds none of its neighbours
    sys.exit("请在项目目录里这样运行：python -m data_handle.convert_duie 输入文件 输出文件")

from data_handle.converters.duie import Item, read_item
from data_handle.converters.fields import VALUE
from data_handle.converters.labelled import Fact
from data_handle.foreign import name_foreign_record, remedy_for
from task.prompt import INSTRUCTION, build_prompt
from task.triplets import Triplet, format_target
from utils.command_line import ChineseArgumentParser
from utils.common_utils import UserError, log, run_main
from utils.directories import temporary_beside
from utils.jsonl import BadLine, describe_bad_lines, iter_objects, text_problem


@dataclass
class Conversion:
    """What became of a DuIE file."""

    lines: int = 0
    triplets: int = 0
    empty_lines: int = 0
    slots_left_out: int = 0
    unseen_predicates: set[str] = field(default_factory=set)
    bad_lines: list[BadLine] = field(default_factory=list)


def convert(
    source: str | Path,
    target: str | Path,
    *,
    instruction: str = INSTRUCTION,
    predicates: Collection[str] = (),
    max_lines: int | None = None,
    keep_slots: bool = False,
    drop_empty: bool = False,
    force: bool = False,
) -> Conversion:
    """Convert a DuIE file; the result appears whole or not at all.

    Args:
        source: the DuIE file.
        target: the JSONL file to write.
        instruction: the instruction of every prompt.
        predicates: the relations to keep; all if empty. What is left of a sentence may be `[]`.
        max_lines: stop after this many written lines.
        keep_slots: make a triplet of each further slot of a complex object, its relation named
            `predicate_slot` (上映时间_inArea); otherwise they are left out.
        drop_empty: leave out sentences without triplets instead of writing `[]`.
        force: overwrite an existing target.

    Raises:
        UserError: a path can't be used, not one line could be converted, or none has one of the predicates.
    """
    source, target = Path(source), Path(target)
    if not instruction.strip() or "\n\n" in instruction:
        raise UserError("指令不能是空的，也不能含有空行（空行之后是句子）。")
    if target.is_dir():
        raise UserError(f"输出 {target} 是目录，请给出文件名。")
    if target.exists() and not force:
        raise UserError(f"输出文件 {target} 已经存在，要覆盖请加 --force。")
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"输入和输出是同一个文件 {target}，请换一个输出文件名。")

    result = Conversion(unseen_predicates=set(predicates))
    sentences = _sentences(source, result, frozenset(predicates), keep_slots, drop_empty)
    try:
        unfinished = temporary_beside(target)
    except OSError as error:
        raise UserError(f"写不了 {target}（{error.strerror}）：请检查目录和权限。") from error
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            for text, triplets in itertools.islice(sentences, max_lines):
                line = {"context": build_prompt(text, instruction), "target": format_target(triplets)}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                result.lines += 1
                result.triplets += len(triplets)
                result.empty_lines += not triplets
        if not result.lines:
            raise UserError(_nothing_converted(source, result.bad_lines))
        if predicates and not result.triplets:
            raise UserError(
                f"{source} 里没有这些关系：{'、'.join(sorted(predicates))}，请检查 --predicates。"
            )
        unfinished.replace(target)
    except OSError as error:
        raise UserError(f"写 {target} 时出错（{error.strerror}）：请检查权限和剩余空间。") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return result


def _nothing_converted(source: Path, bad_lines: Sequence[BadLine]) -> str:
    if not bad_lines:
        return f"{source} 里没有一行可以转换。"
    if kind := bad_lines[0].kind:
        return f"{source} 里没有一行可以转换：里面是 {kind}，不是 DuIE；{remedy_for(kind, source)}。"
    return f"{source} 里没有一行可以转换，第一处坏行是 {bad_lines[0]}。"


def _sentences(
    source: Path, result: Conversion, predicates: frozenset[str], keep_slots: bool, drop_empty: bool
) -> Iterator[tuple[str, list[Triplet]]]:
    """Yield each good line's text and triplets; bad lines and slots left out are noted in `result`."""
    for item in iter_objects(source):
        if isinstance(item, BadLine):
            result.bad_lines.append(item)
            continue
        line_number, record = item
        try:
            text, items = _text(record, "text"), _items(record)
        except ValueError as error:
            result.bad_lines.append(BadLine(str(source), line_number, str(error), kind=_foreign(record)))
            continue
        triplets = []
        for fact, slots, unusable in items:
            if predicates and fact.predicate not in predicates:
                continue
            result.unseen_predicates.discard(fact.predicate)
            triplets += [_triplet(each) for each in (fact, *(slots if keep_slots else ()))]
            result.slots_left_out += len(unusable) + (0 if keep_slots else len(slots))
        if triplets or not drop_empty:
            yield text, list(dict.fromkeys(triplets))


def _foreign(record: dict[str, Any]) -> str:
    """Name the format of a record that is none of DuIE's; no name if it may be one (of the test set, say)."""
    kind = name_foreign_record(record) or ""
    return "" if "DuIE" in kind or kind.startswith("没有答案") else kind


def _items(record: dict[str, Any]) -> list[Item]:
    """Read a line's spo_list; a `ValueError` says in Chinese what is wrong with it."""
    items = record.get("spo_list")
    if not isinstance(items, list):
        if kind := _foreign(record):
            raise ValueError(f"没有 spo_list 列表（像是 {kind}）")
        raise ValueError("没有 spo_list 列表（测试集没有标注，不能用来训练）")
    for item in items:
        if not isinstance(item, dict):
            raise ValueError("spo_list 里应当都是 JSON 对象")
        for name in ("predicate", "subject", "subject_type", "object", "object_type"):
            value = item.get(name)
            if name.startswith("object") and isinstance(value, dict):
                if VALUE not in value:
                    raise ValueError(f"字段 {name} 缺少 {VALUE}")
                _text(value, VALUE)
            else:
                _text(item, name)
    return [read_item(item) for item in items]


def _triplet(fact: Fact) -> Triplet:
    return Triplet(fact.predicate, fact.object_type, fact.subject_type, fact.object, fact.subject)


def _text(record: dict[str, Any], name: str) -> str:
    if problem := text_problem(record, name):
        raise ValueError(problem)
    return record[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert the file named on the command line; bad lines are named on stderr and skipped.

    Args:
        arguments: the command line without the program's name; `sys.argv` if None.
    """
    parser = ChineseArgumentParser(
        prog="python -m data_handle.convert_duie",
        description="把 DuIE 1.0/2.0 的训练集或验证集转换成本项目的 JSONL。",
    )
    parser.add_argument("source", metavar="IN", help="DuIE 文件，每行一个 JSON")
    parser.add_argument("target", metavar="OUT", help="要写的 JSONL 文件")
    parser.add_argument("--instruction", default=INSTRUCTION, help="提示词里的指令（默认“%(default)s”）")
    parser.add_argument("--predicates", default="", help="只保留这些关系，用逗号隔开（默认全部）")
    parser.add_argument("--max_lines", type=int, help="最多写多少行（默认全部）")
    parser.add_argument(
        "--slots",
        choices=("drop", "triplets"),
        default="drop",
        help="复杂关系的附加项（inWork、onDate、inArea、period）：drop 不要（默认），"
        "triplets 各成一个三元组，关系名如“上映时间_inArea”",
    )
    parser.add_argument("--drop_empty", action="store_true", help="不写没有三元组的句子（默认写成 []）")
    parser.add_argument("--force", action="store_true", help="覆盖已有的输出文件")
    options = parser.parse_args(arguments)
    if options.max_lines is not None and options.max_lines < 1:
        raise UserError("--max_lines 应当至少是 1。")

    result = convert(
        options.source,
        options.target,
        instruction=options.instruction,
        predicates={name.strip() for name in re.split("[,，、]", options.predicates) if name.strip()},
        max_lines=options.max_lines,
        keep_slots=options.slots == "triplets",
        drop_empty=options.drop_empty,
        force=options.force,
    )
    for line in describe_bad_lines(result.bad_lines):
        log(line)
    if result.unseen_predicates:
        log(f"注意：没有见到这些关系：{'、'.join(sorted(result.unseen_predicates))}，请检查 --predicates。")
    left_out = f"，略去附加项 {result.slots_left_out} 个" if result.slots_left_out else ""
    log(
        f"已写入 {options.target}：{result.lines} 行，{result.triplets} 个三元组，"
        f"其中 {result.empty_lines} 行没有三元组，跳过坏行 {len(result.bad_lines)} 行{left_out}。"
    )
    return 0


if __name__ == "__main__":
    run_main(main)
