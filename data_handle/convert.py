"""Labels in any usual format to training lines: `python -m data_handle.convert INPUT… -o train.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_handle.conversion.pipeline import Conversion, convert
from data_handle.conversion.template import write_template
from data_handle.converters.labelled import Settings
from task.prompt import INSTRUCTION
from utils.command_line import ChineseArgumentParser, positive_int, probability, summarise
from utils.common_utils import UserError, log, run_main


def add_options(parser: ChineseArgumentParser) -> None:
    """Add the options of a conversion to a command's parser."""
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help="标注文件或 brat 文件夹，可以有几个")
    parser.add_argument("-o", "--output", metavar="文件", help="要写的训练文件（JSONL）")
    parser.add_argument("--dev", metavar="文件", help="从中分出验证集，写到这个文件")
    parser.add_argument(
        "--dev_ratio", type=probability, metavar="比例", help="验证集占多少（默认 0.1），要与 --dev 一起用"
    )
    parser.add_argument("--seed", type=positive_int, default=42, help="划分用的随机种子（默认 42）")
    parser.add_argument(
        "--types",
        metavar="CSV",
        help="类型表（CSV、Excel 或 DuIE 的 schema）：关系、主语类型、宾语类型三列，补上缺的类型",
    )
    parser.add_argument("--instruction", default=INSTRUCTION, help="提示词里的指令（默认“%(default)s”）")
    parser.add_argument("--negatives", metavar="文件", help="没有三元组的句子，每行一句，作为 [] 样本加入")
    parser.add_argument(
        "--negatives_count", type=positive_int, metavar="N", help="最多加入多少句（默认全部）"
    )
    parser.add_argument(
        "--agreement",
        type=probability,
        default=0.5,
        metavar="比例",
        help="一个任务有几位标注者时，至少多大比例的人标了才采用（默认 0.5）",
    )
    parser.add_argument(
        "--exclude", metavar="文件", nargs="+", default=[], help="不要这些文件里有的句子，例如已有的验证集"
    )
    parser.add_argument("--report", metavar="文件", help="把没有采用的内容全部写到这个文件（JSONL）")
    parser.add_argument("--overwrite", action="store_true", help="覆盖已有的输出文件")


def read_command_line(parser: ChineseArgumentParser, arguments: Sequence[str] | None) -> dict[str, Any]:
    """Read the command line of a conversion.

    Raises:
        UserError: all that is wrong with it, or missing, or doesn't go together.
    """
    options, complaints = parser.collect_complaints(arguments)
    values = vars(options)
    if values and values.get("template"):
        if values["inputs"] or values["output"]:
            complaints.append("--template 只写标注表，不能同时转换：请去掉输入文件和 -o。")
    elif values:
        complaints += _conflicts(values)
        missing = {"inputs": "输入文件", "output": "输出文件（-o train.jsonl）"}
        missing = {name: title for name, title in missing.items() if not values[name]}
        if missing and not complaints:  # which may be what wasn't understood
            complaints.append(f"缺少{'和'.join(missing.values())}（--help 查看用法）。")
    if complaints:
        raise UserError(summarise("命令行", complaints))
    return values


def _conflicts(values: dict[str, Any]) -> list[str]:
    problems = []
    if values["dev_ratio"] is not None and not values["dev"]:
        problems.append("--dev_ratio 要与 --dev 一起用：请写明验证集的文件名，例如 --dev dev.jsonl。")
    if values["dev_ratio"] in (0.0, 1.0):
        problems.append("--dev_ratio 应当在 0 和 1 之间，不含两端。")
    if values["negatives_count"] is not None and not values["negatives"]:
        problems.append("--negatives_count 要与 --negatives 一起用。")
    if not values["instruction"].strip() or "\n\n" in values["instruction"]:
        problems.append("指令不能是空的，也不能含有空行（空行之后是句子）。")
    return problems


def build_conversion(values: dict[str, Any]) -> Conversion:
    """Return the conversion that a command line asks for.

    Args:
        values: what `read_command_line` returned.
    """
    dev, types, negatives, report = (
        Path(values[name]) if values[name] else None for name in ("dev", "types", "negatives", "report")
    )
    columns = [name.strip() for name in (values.get("columns") or "").replace("，", ",").split(",")]
    return Conversion(
        [Path(name) for name in values["inputs"]],
        Path(values["output"]),
        dev=dev,
        dev_ratio=0.1 if values["dev_ratio"] is None else values["dev_ratio"],
        seed=values["seed"],
        types=types,
        instruction=values["instruction"],
        negatives=negatives,
        negatives_count=values["negatives_count"],
        exclude=[Path(name) for name in values["exclude"]],
        report=report,
        overwrite=values["overwrite"],
        settings=Settings(
            columns=[name for name in columns if name] and columns,
            keep_slots=values.get("slots") == "triplets",
            agreement=values["agreement"],
        ),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert the files named on the command line, or write an example table to fill in.

    Args:
        arguments: the command line without the program's name; `sys.argv` if None.
    """
    parser = ChineseArgumentParser(
        prog="python -m data_handle.convert",
        description="把标注数据转换成本项目的训练文件。格式按内容识别：CSV、TSV、Excel、JSON、DuIE、CMeIE、doccano、"
        "Label Studio、brat、Alpaca、ShareGPT、IEPile 等；认作什么、没有采用什么，都会说明。",
    )
    add_options(parser)
    parser.add_argument(
        "--columns",
        metavar="列名",
        help="表格的列：按次序 句子,主语,关系,宾语（不要的列写 -），或按首行 句子=评论,主语=产品",
    )
    parser.add_argument(
        "--slots",
        choices=("drop", "triplets"),
        default="drop",
        help="DuIE 复杂关系的附加项：drop 不要（默认），triplets 各成一个三元组，关系名如“上映时间_inArea”",
    )
    parser.add_argument("--template", metavar="XLSX", help="只写一份填好例子的标注表，不转换")
    values = read_command_line(parser, arguments)
    if template := values["template"]:
        write_template(Path(template), values["overwrite"])
        log(
            f"已写入 {template}：请在“标注”表里填写，再运行 "
            f"python -m data_handle.convert {template} -o train.jsonl --dev dev.jsonl"
        )
        return 0
    convert(build_conversion(values))
    return 0


if __name__ == "__main__":
    run_main(main)
