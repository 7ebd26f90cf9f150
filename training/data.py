"""The data of a run: read and checked before the model's weights are loaded, with only the tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from data_handle.data_loader import load_data
from data_handle.dev_split import split_off
from data_handle.encoded_file import EncodedFile
from glm_config import ProjectConfig
from task.schema import Schema
from task.triplets import combination_of, is_triplet_target, parse_target
from utils.common_utils import UserError

_NAMED = 5  # relations that a warning names


class RunData(NamedTuple):
    """Training data, evaluation data, and the relations of the training answers."""

    train: EncodedFile
    dev: EncodedFile
    schema: Schema


def read_data(config: ProjectConfig, tokenizer: Any, say: Callable[[str], None]) -> RunData:
    """Read the training data, and dev's or a share split off.

    Args:
        config: the knobs; an empty `dev_path` means a share of `dev_ratio`.
        tokenizer: the base model's.
        say: tells the user what was found.

    Raises:
        UserError: a file has nothing usable, or the training answers hold no triplet.
    """

    def read(path: str) -> EncodedFile:
        return load_data(
            path,
            tokenizer,
            max_source_seq_len=config.max_source_seq_len,
            max_target_seq_len=config.max_target_seq_len,
            strict=config.strict_data,
            cache_dir=config.token_cache_dir or None,
        )

    train = read(config.train_path)
    dev = read(config.dev_path) if config.dev_path else None
    for line in [*train.report(), *(dev.report() if dev is not None else [])]:
        say(line)
    if not train.combinations:
        raise UserError(_no_triplets(train))
    if dev is None:
        whole = len(train.examples)
        train, dev = split_off(train, config.dev_ratio, config.seed)
        say(
            f"没有另给验证集：从 {config.train_path} 的 {whole} 行中分出 {len(dev.examples)} 行作验证集"
            f"（dev_ratio {config.dev_ratio:g}，seed {config.seed}，两边没有相同的句子），"
            f"其余 {len(train.examples)} 行训练；自备验证集请用 --dev_path。"
        )
    schema = Schema(train.combinations)
    if warning := _dev_only(dev, schema):
        say(warning)
    return RunData(train, dev, schema)


def _no_triplets(train: EncodedFile) -> str:
    answers = [example.target for example in train.examples]
    lists = sum(map(is_triplet_target, answers))
    return (
        f"{train.path} 的 {len(answers)} 条回答里没有一个可用的三元组（{lists} 条像三元组列表，"
        f"{len(answers) - lists} 条是别的文字），训练出来也抽取不了；三元组应当是 JSON 列表，每一项恰好有 "
        "predicate、object_type、subject_type、object、subject 五个非空字符串字段。逐行检查请运行：\n"
        f"  python -m data_handle.data_preprocess {train.path}"
    )


def _dev_only(dev: EncodedFile, schema: Schema) -> str | None:
    """Say which relations dev asks for that training never showed: the constraint can't produce them."""
    lost: Counter[str] = Counter()
    types: set[tuple[str, ...]] = set()
    for example in dev.examples:
        try:
            triplets = parse_target(example.target) if is_triplet_target(example.target) else []
        except ValueError:
            continue
        for triplet in triplets:
            if triplet not in schema:
                lost[triplet.predicate] += 1
                types.add(combination_of(triplet))
    if not lost:
        return None
    known = {combination.predicate for combination in schema.combinations}
    new = sorted(name for name in lost if name not in known)
    named = "、".join(f"{name}（{count} 个）" for name, count in lost.most_common(_NAMED))
    more = f"等 {len(lost)} 种关系" if len(lost) > _NAMED else ""
    return (
        f"警告：验证集里有 {sum(lost.values())} 个三元组的关系与类型（{len(types)} 种组合）训练集里没有，"
        f"永远抽取不出来，会拉低分数：{named}{more}；其中 {len(new)} 种关系训练集里完全没有。"
        "请把它们补进训练集，或从验证集里去掉。"
    )
