"""The options of the service's command, read into a typed value; all mistakes are told at once."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extraction.adapters import BEST, find_default_adapter, resolve_adapter
from extraction.arguments import positive_int_or_auto
from extraction.options import ExtractorOptions
from glm_config import ProjectConfig
from serving.limits import Limits
from serving.loopback import LOOPBACK_NAMES, is_loopback
from utils.command_line import ChineseArgumentParser, positive_int, summarise
from utils.common_utils import UserError
from utils.startup import check_device_name

PROJECT = Path(__file__).resolve().parent.parent
KEY_VARIABLE = "TRIPLET_API_KEY"
MIN_KEY = 8  # characters; shorter ones are guessed
BARE_BASE = "base"


@dataclass(frozen=True)
class Command:
    """What the command line asks for.

    Args:
        models: what is loaded, by the names that requests have; all on one base.
        host, port: where to listen.
        api_key: that requests must have; None for none.
        hosts: names that the Host header may have; None for any.
        limits: of requests.
        runs: the folder whose runs of training the page shows.
        allow_training: they may be started and stopped from the page.
        data: the folder of what may be trained on.
        debug: libraries may speak.
    """

    models: dict[str, ExtractorOptions]
    host: str
    port: int
    api_key: str | None
    hosts: frozenset[str] | None
    limits: Limits
    runs: Path
    allow_training: bool
    data: Path
    debug: bool


def read_command(argv: Sequence[str]) -> Command:
    """Read the command line and the environment.

    Raises:
        UserError: all that is wrong with them.
    """
    parsed, complaints = build_parser().collect_complaints(list(argv))
    values: dict[str, Any] = vars(parsed)
    models: dict[str, ExtractorOptions] = {}
    if values:  # else it could not be read at all
        values["api_key"] = values["api_key"] or os.environ.get(KEY_VARIABLE) or None
        complaints += _wrong_values(values)
        models, wrong = _models(values) if not complaints else ({}, [])
        complaints += wrong
    if complaints:
        raise UserError(summarise("命令行", complaints))
    loopback = is_loopback(values["host"])
    hosts = frozenset(name.lower() for name in (*LOOPBACK_NAMES, *values["allowed_host"]))
    return Command(
        models,
        values["host"],
        values["port"],
        values["api_key"],
        hosts if loopback or values["allowed_host"] else None,
        Limits(
            body_bytes=values["max_body"],
            sentences=values["max_sentences"],
            characters=values["max_characters"],
            queue=values["max_queue"],
            seconds=float(values["timeout"]),
        ),
        values["runs"],
        values["allow_training"],
        values["data"],
        values["debug"],
    )


def build_parser() -> ChineseArgumentParser:
    """Return the parser of the command line."""
    parser = ChineseArgumentParser(
        description="抽取服务：一个 HTTP 接口和一个网页，模型只加载一次。",
        usage="%(prog)s [--adapter 目录 …] [--host 地址 --port 端口] [选项]",
    )
    switch: dict[str, Any] = {"action": "store_true"}
    number: dict[str, Any] = {"type": positive_int, "metavar": "N"}
    default = Limits()
    add = parser.add_argument_group("模型").add_argument
    add(
        "--adapter",
        action="append",
        default=[],
        metavar="[名字=]目录",
        help="适配器，或含 model_best 的训练输出目录；可以写几次，都在同一个基座上；默认与抽取命令相同",
    )
    add("--no_adapter", **switch, help="不加载适配器，直接用基座模型")
    add("--pre_model", metavar="模型", help="基座模型；默认是训练时的那个")
    add("--device", metavar="设备", help="cpu、cuda 或 cuda:1；默认自动选择")
    rows = "一起生成的行数；默认 auto：GPU 上按显存，CPU 上是训练时的 eval_batch_size"
    add("--batch_size", type=positive_int_or_auto, metavar="N", help=rows)
    add("--max_new_tokens", **number, help="答案最多的 token 数；默认是训练时的 max_target_seq_len")
    add = parser.add_argument_group("答案的约束").add_argument
    add("--schema", type=Path, metavar="文件", help="允许的关系；默认是适配器训练时见过的")
    add("--open_schema", **switch, help="谓语与类型不受限制")
    add("--free_values", **switch, help="主语、宾语不必是原文")
    add = parser.add_argument_group("谁可以用").add_argument
    add("--host", default="127.0.0.1", metavar="地址", help="在哪个地址上等请求；默认只有本机能访问")
    add("--port", type=_port, default=8000, metavar="端口", help="默认 8000；0 由系统选一个空闲的")
    add("--api_key", metavar="密钥", help=f"请求要带的密钥；更好的办法是环境变量 {KEY_VARIABLE}，别人看不到")
    add("--no_auth", **switch, help="在别的地址上也不要密钥：谁连得上谁就能用")
    add(
        "--allowed_host",
        action="append",
        default=[],
        metavar="名字",
        help="Host 头里允许的名字，可以写几次；只在本机等请求时，默认只有 localhost 和 127.0.0.1",
    )
    add = parser.add_argument_group("训练").add_argument
    add("--runs", type=Path, default=Path("output"), metavar="目录", help="网页显示其中的训练；默认 output")
    add("--allow_training", **switch, help="可以从网页开始、停止和继续训练；默认只能看")
    add(
        "--data",
        type=Path,
        default=PROJECT / "data",
        metavar="目录",
        help="可以选来训练的 JSONL 文件所在的目录",
    )
    add = parser.add_argument_group("上限").add_argument
    add("--max_body", **number, default=default.body_bytes, help="请求体的字节数；默认 1 MiB")
    add("--max_sentences", **number, default=default.sentences, help="一个请求的句数；默认 256")
    add("--max_characters", **number, default=default.characters, help="一个请求的字符数；默认 100000")
    add("--max_queue", **number, default=default.queue, help="等待的句数，超过就回答 429；默认 1024")
    add("--timeout", **number, default=int(default.seconds), help="一个请求最多的秒数；默认 300")
    return parser


def _port(word: str) -> int:
    if not re.fullmatch(r"\d{1,5}", word) or int(word) > 65535:
        raise argparse.ArgumentTypeError(f"应为 0 到 65535 之间的整数，现在是 {word!r}")
    return int(word)


def _wrong_values(values: dict[str, Any]) -> Iterable[str]:
    """Yield what is wrong with single values and between them, a sentence each."""
    key, loopback = values["api_key"], is_loopback(values["host"])
    if not values["host"].strip():
        yield "--host 是空的，请写地址，例如 127.0.0.1。"
    if key is not None and (len(key) < MIN_KEY or not key.isascii() or re.search(r"\s", key)):
        yield f"密钥至少要有 {MIN_KEY} 个字符，且只能是没有空白的 ASCII 字符。"
    if not loopback and key is None and not values["no_auth"]:
        yield (
            f"--host {values['host']} 让别的机器也能访问，要有密钥：设环境变量 {KEY_VARIABLE}"
            "（或 --api_key）；确实不要密钥时写 --no_auth。"
        )
    if key is not None and values["no_auth"]:
        yield "给了密钥，就不能再写 --no_auth。"
    if values["open_schema"] and values["schema"]:
        yield "--schema 与 --open_schema 不能同时使用。"
    if values["no_adapter"] and values["adapter"]:
        yield "--adapter 与 --no_adapter 不能同时使用。"
    if values["pre_model"] is not None and not values["pre_model"].strip():
        yield "--pre_model 是空的，请写模型目录；不写这个参数就用训练时的那个。"
    if values["max_sentences"] and values["max_queue"] and values["max_sentences"] > values["max_queue"]:
        yield "--max_sentences 不能大于 --max_queue：这样的请求永远排不进队。"
    try:
        check_device_name(values["device"])
    except UserError as error:
        yield str(error)


def _models(values: dict[str, Any]) -> tuple[dict[str, ExtractorOptions], list[str]]:
    """Return the options of each model by its name, and what is wrong with the names."""
    names = ("pre_model", "device", "batch_size", "max_new_tokens", "schema", "open_schema", "free_values")
    common = {name: values[name] for name in names}
    if values["no_adapter"]:
        return {BARE_BASE: ExtractorOptions(**common)}, []
    given = values["adapter"] or [str(find_default_adapter(Path(ProjectConfig().save_dir)))]
    models: dict[str, ExtractorOptions] = {}
    complaints = []
    for word in given:
        name, path = _name_of(word)
        if not re.fullmatch(r"[\w.-]{1,64}", name):
            complaints.append(
                f"模型的名字 {name[:80]!r} 只能有字母、数字、汉字和 . _ -：请写 --adapter 名字={path}。"
            )
        elif name in models:
            complaints.append(f"两个适配器都叫 {name}，请写 --adapter 另一个名字={path}。")
        models[name] = ExtractorOptions(adapter=resolve_adapter(path), **common)
    return models, complaints


def _name_of(word: str) -> tuple[str, Path]:
    """Split `name=directory`; without a name, it is that of the directory, or of the run that it is in."""
    name, equals, directory = word.partition("=")
    if equals and "/" not in name and not Path(word).exists():
        return name, Path(directory)
    path = Path(word)
    whole = path.absolute()
    return (whole.parent.name if whole.name == BEST else whole.name), path
