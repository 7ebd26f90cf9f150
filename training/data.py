"""The data of a run: read and checked before the model's weights are loaded, with only the tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from data_handle.agreement import check_triplets, describe_unknown
from data_handle.data_loader import load_data
from data_handle.dev_split import split_off
from data_handle.encoded_file import EncodedFile
from data_handle.relation_prompts import RelationPrompts
from glm_config import ProjectConfig
from task.relations import relations_room
from task.schema import Schema

RELATIONS_SAID = "提示词写明关系："  # how the line begins that says what they take of a prompt


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
    prompts = _relation_prompts(config)

    def read(path: str) -> EncodedFile:
        return load_data(
            path,
            tokenizer,
            max_source_seq_len=config.max_source_seq_len,
            max_target_seq_len=config.max_target_seq_len,
            strict=config.strict_data,
            cache_dir=config.token_cache_dir or None,
            prompts=prompts,
        )

    train = read(config.train_path)
    dev = read(config.dev_path) if config.dev_path else None
    for line in [*train.report(), *(dev.report() if dev is not None else [])]:
        say(line)
    check_triplets(train)
    if dev is None:
        whole = len(train.examples)
        train, dev = split_off(train, config.dev_ratio, config.seed)
        say(
            f"没有另给验证集：从 {config.train_path} 的 {whole} 行中分出 {len(dev.examples)} 行作验证集"
            f"（dev_ratio {config.dev_ratio:g}，seed {config.seed}，两边没有相同的句子），"
            f"其余 {len(train.examples)} 行训练；自备验证集请用 --dev_path。"
        )
    schema = Schema(train.combinations)
    if prompts is not None:
        schema = prompts.given.joined(schema)
        say(_describe_prompts(config, tokenizer, train, schema))
    if warning := describe_unknown(dev, schema):
        say(warning)
    return RunData(train, dev, schema)


def _relation_prompts(config: ProjectConfig) -> RelationPrompts | None:
    """Return what draws the relations of prompts; None where prompts name none."""
    if not config.schema_prompt:
        return None
    return RelationPrompts(
        Path(config.train_path),
        Path(config.schema_path) if config.schema_path else None,
        config.relations_per_prompt,
        config.negative_ratio,
        config.seed,
    )


def _describe_prompts(config: ProjectConfig, tokenizer: Any, train: EncodedFile, schema: Schema) -> str:
    """Say how the relations get into prompts, and what of a prompt they take.

    Raises:
        UserError: they leave no room for a sentence.
    """
    size, limit, count = config.relations_per_prompt, config.max_source_seq_len, len(schema.combinations)
    room = relations_room(tokenizer, schema, size, limit)
    times = len(schema.split(size))
    advice = ""
    if times > 1:  # see docs/extraction.md
        longest = limit + relations_room(tokenizer, schema, count, 2**30).tokens
        advice = (
            f"问几次容易硬答，小模型上全部写进一条要准得多（--relations_per_prompt {count} "
            f"--negative_ratio {min(count, 100)} --max_source_seq_len {longest}），训练约慢一倍。"
        )
    return (
        f"{RELATIONS_SAID}{count} 种，每条至多 {size} 种，"
        f"训练集的 {len(train.examples)} 行展开成 {len(train.features)} 条；"
        f"关系至多占 {room.tokens} 个 token，给句子至少留下 {room.left} 个"
        f"（max_source_seq_len {limit} 至多放得下 {room.fitting} 种）；抽取时每句要问 {times} 次。{advice}"
    )
