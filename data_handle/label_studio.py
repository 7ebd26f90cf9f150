"""The loop with annotators: `python -m data_handle.label_studio import|export|select …`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from data_handle.annotation.results import read_results
from data_handle.annotation.selection import select
from data_handle.annotation.tasks import build_config, build_tasks, combinations_of
from data_handle.conversion.pipeline import check_outputs, convert, log_problems, write_whole
from data_handle.convert import add_options, build_conversion, read_command_line
from data_handle.converters import DOCCANO, LABEL_STUDIO
from data_handle.converters.plain_sentences import read_sentences
from task.schema import Schema
from utils.command_line import ChineseArgumentParser, positive_int, probability
from utils.common_utils import UserError, log, run_main, to_json

_PROGRAM = "python -m data_handle.label_studio"


def import_labels(arguments: Sequence[str]) -> int:
    """Turn exported tasks into training lines."""
    parser = ChineseArgumentParser(
        prog=f"{_PROGRAM} import",
        description="把 Label Studio 导出的 JSON（或 doccano 的 JSONL）转换成训练文件。",
    )
    add_options(parser)
    conversion = build_conversion(read_command_line(parser, arguments))
    conversion.converters = (LABEL_STUDIO, DOCCANO)
    convert(conversion)
    return 0


def export_tasks(arguments: Sequence[str]) -> int:
    """Turn extraction results into tasks with pre-annotations, and write the configuration for them."""
    parser = ChineseArgumentParser(
        prog=f"{_PROGRAM} export",
        description="把抽取结果写成 Label Studio 的任务：模型的三元组作为预标注（带分数），附标注配置。",
    )
    parser.add_argument(
        "results", metavar="RESULTS", help="inference_triplet.py --input … --output … --scores --spans 的结果"
    )
    parser.add_argument("-o", "--output", metavar="文件", required=True, help="要写的任务文件（JSON）")
    parser.add_argument(
        "--config", metavar="XML", help="把标注配置写到这个文件（项目设置里的 Labeling Interface）"
    )
    parser.add_argument("--schema", metavar="文件", help="适配器的 schema.json：配置里列出其中全部关系和类型")
    parser.add_argument("--min_score", type=probability, default=0.0, help="不要分数更低的三元组（默认 0）")
    parser.add_argument(
        "--model_version", default="chatglm-triplet", help="预标注的来源名（默认 %(default)s）"
    )
    parser.add_argument("--overwrite", action="store_true", help="覆盖已有的输出文件")
    options = parser.parse_args(arguments)
    output, config = Path(options.output), Path(options.config) if options.config else None
    schema = Path(options.schema) if options.schema else None
    check_outputs([output, config], [Path(options.results), schema], options.overwrite)

    results, unusable = read_results(Path(options.results))
    combinations = combinations_of(results)
    if schema is not None:
        combinations |= Schema.load(schema).combinations
    tasks, problems = build_tasks(results, options.model_version, options.min_score)
    log_problems(unusable + problems)
    texts = {output: to_json(tasks, indent=1) + "\n"}
    if config is not None:
        texts[config] = build_config(combinations)
    write_whole(texts)
    items = [item for task in tasks for each in task.get("predictions", ()) for item in each["result"]]
    relations = sum(item["type"] == "relation" for item in items)
    failed = sum(result.failed for result in results)
    log(
        f"已写入 {output}：{len(tasks)} 个任务，{len(items) - relations} 个实体，{relations} 个关系"
        + (f"，其中 {failed} 个任务抽取失败、没有预标注" if failed else "")
        + (f"；标注配置在 {config}。" if config else "。")
    )
    return 0


def select_sentences(arguments: Sequence[str]) -> int:
    """Choose the results whose sentences are worth labelling next."""
    parser = ChineseArgumentParser(
        prog=f"{_PROGRAM} select",
        description="从抽取结果里选出最值得标注的句子：模型最没有把握的，分散在各种关系和长短上，不选相近的。",
    )
    parser.add_argument(
        "results", metavar="RESULTS", help="inference_triplet.py --input … --output … --scores 的结果"
    )
    parser.add_argument("-n", "--count", type=positive_int, default=200, help="选多少句（默认 200）")
    parser.add_argument(
        "-o", "--output", metavar="文件", required=True, help="要写的结果文件（JSONL），可以再用 export"
    )
    parser.add_argument(
        "--exclude", metavar="文件", nargs="+", default=[], help="已经标注的文件，其中的句子不选"
    )
    parser.add_argument("--seed", type=positive_int, default=42, help="没有分数可比时的随机种子（默认 42）")
    parser.add_argument("--overwrite", action="store_true", help="覆盖已有的输出文件")
    options = parser.parse_args(arguments)
    output = Path(options.output)
    inputs = [Path(name) for name in (options.results, *options.exclude)]
    check_outputs([output], inputs, options.overwrite)

    results, problems = read_results(Path(options.results))
    log_problems(problems)
    labelled = [text for name in options.exclude for _, text in read_sentences(Path(name))]
    chosen = select(results, options.count, labelled, options.seed)
    if not chosen:
        raise UserError(f"{options.results} 里没有可选的句子：都已经标注，或者抽取失败。")
    write_whole({output: "".join(to_json(each.fields) + "\n" for each in chosen)})
    empty = sum(not result.found for result in chosen)
    log(
        f"已写入 {output}：从 {len(results)} 句里选出 {len(chosen)} 句"
        f"（其中 {empty} 句模型没有抽出三元组）"
        + (
            "。"
            if len(chosen) == options.count
            else f"，不足 {options.count} 句：其余都与选中的或已标注的相近。"
        )
    )
    return 0


_COMMANDS = {"import": import_labels, "export": export_tasks, "select": select_sentences}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the three commands.

    Args:
        arguments: the command line without the program's name; `sys.argv` if None.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in _COMMANDS:
        return _COMMANDS[words[0]](words[1:])
    parser = ChineseArgumentParser(
        prog=_PROGRAM,
        description="与标注工具来回：导入标注、把模型的结果导出成预标注、选出下一批要标的句子。",
    )
    parser.add_argument(
        "command",
        choices=tuple(_COMMANDS),
        help="import 导入标注；export 导出预标注；select 选句子。各自的选项见 import --help 等",
    )
    parser.parse_args(words)
    return 2  # not reached: what isn't a command is refused


if __name__ == "__main__":
    run_main(main)
