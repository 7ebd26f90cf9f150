"""What training and dev data must have between them, before hours are spent on them."""

from __future__ import annotations

from collections.abc import Sequence

from data_handle.encoded_file import EncodedFile
from data_handle.reader import Example
from task.schema import MAX_COMBINATIONS, Schema, describe_counts
from task.triplets import Triplet, is_triplet_target, parse_target
from utils.common_utils import UserError


def check_triplets(train: EncodedFile) -> None:
    """Refuse training data that can't make an adapter that extracts.

    Raises:
        UserError: no answer holds a triplet, or there are more relations than a schema may have.
    """
    if not train.combinations:
        raise UserError(
            f"{train.path} 的答案里没有一个可用的三元组，这样训练出的适配器什么也抽不出来："
            f"{train.summary.report()}请检查 target 的写法："
            f"python -m data_handle.data_preprocess {train.path} 会逐行指出。"
            f"{train.summary.hint(train.path) or ''}"
        )
    if len(train.combinations) > MAX_COMBINATIONS:
        raise UserError(
            f"{train.path} 里有 {len(train.combinations):,} 种关系与类型的组合，"
            f"超过上限 {MAX_COMBINATIONS:,}：请检查是不是把值写进了 predicate 或类型里。"
        )


def describe_unknown(dev: EncodedFile, schema: Schema) -> str | None:
    """Say which triplets dev asks for that the schema lacks; None if it asks for none.

    Args:
        dev: the dev data.
        schema: of the training data.
    """
    unknown = schema.unknown(triplets_of(dev.examples))
    if not unknown:
        return None
    return (
        f"警告：{dev.path} 里有 {unknown.total()} 个三元组的关系与类型是训练集没有的，"
        f"约束解码写不出它们，验证时都算漏掉：{describe_counts(unknown)}。请在训练集里补上，或从验证集里去掉。"
    )


def triplets_of(examples: Sequence[Example]) -> list[Triplet]:
    """Return the triplets of all answers that are in the product's notation."""
    return [
        triplet
        for example in examples
        if is_triplet_target(example.target)
        for triplet in _parse(example.target)
    ]


def _parse(target: str) -> list[Triplet]:
    try:
        return parse_target(target)
    except ValueError:  # JSON of another kind
        return []
