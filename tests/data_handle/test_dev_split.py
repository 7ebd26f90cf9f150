"""Splitting off a dev set: shares, no sentence on both sides, no relation that train lacks, figures right."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from data_handle.data_loader import build_dataloader, load_data
from data_handle.dev_split import sentence_key, split_off
from data_handle.encoded_file import EncodedFile
from task.prompt import build_prompt, split_context
from task.triplets import Triplet, combinations_in
from tests.helpers.data_samples import CharacterTokenizer, director, make_line, write_jsonl
from utils.common_utils import UserError

NAMES = [a + b for a in "赵钱孙李周吴郑王冯陈" for b in "安宁平康乐"]
Load = Callable[..., EncodedFile]


@pytest.fixture(params=["memory", "disk"])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    """Write lines and load them, encoded in memory or mapped from the cache."""

    def write_and_load(*lines: dict[str, str], bad: str = "") -> EncodedFile:
        path = write_jsonl(tmp_path / "data.jsonl", list(lines))
        path.write_text(path.read_text("utf-8") + bad, encoding="utf-8")
        cache = tmp_path / "cache" if request.param == "disk" else None
        limits = {"max_source_seq_len": 150, "max_target_seq_len": 128}
        return load_data(path, CharacterTokenizer(), **limits, cache_dir=cache)

    return write_and_load


def lines_of(data: EncodedFile) -> list[int]:
    return [example.line_number for example in data.examples]


def keys_of(data: EncodedFile) -> set[str]:
    return {sentence_key(split_context(example.context)[1]) for example in data.examples}


def film(name: str) -> dict[str, str]:
    return make_line(f"《{name}传》由{name}执导。", director(f"{name}传", name))


def many() -> list[dict[str, str]]:
    """50 lines with a triplet and 30 without."""
    weather = [make_line(f"{name}今天没有出门。") for name in NAMES[:20]]
    labels = [{"context": build_prompt(f"{name}很高兴。"), "target": "正面"} for name in NAMES[:10]]
    return [film(name) for name in NAMES] + weather + labels


def test_shares_are_kept_and_everything_is_on_one_side(load: Load) -> None:
    data = load(*many(), bad="坏\n")
    train, dev = split_off(data, 0.1, 7)
    assert len(dev.examples) == 8
    assert sum(bool(combinations_in([example.target])) for example in dev.examples) == 5
    assert sorted(lines_of(train) + lines_of(dev)) == lines_of(data)
    assert lines_of(train) == sorted(lines_of(train)) and lines_of(dev) == sorted(lines_of(dev))
    assert not keys_of(train) & keys_of(dev)
    assert (len(train.bad_lines), dev.bad_lines) == (1, [])
    assert dev.combinations == train.combinations == data.combinations


def test_samples_go_with_their_examples(load: Load) -> None:
    train, dev = split_off(load(*many()), 0.2, 1)
    for side in (train, dev):
        assert len(side.dataset) == len(side.examples) == side.summary.examples
        assert side.dataset.lengths.tolist() == [len(item.input_ids) for item in side.dataset.features]
        assert side.summary.tokens == side.dataset.lengths.sum()
        for sample, example in zip(side.dataset.features, side.examples, strict=True):
            text = "".join(map(chr, sample.input_ids))
            assert text.startswith(example.context) and example.target in text
    loader, _ = build_dataloader(train.dataset, 4, num_workers=1)
    assert sum(map(len, loader)) == len(train.dataset)
    share = dev.dataset.features[1::2]
    assert list(share) == list(dev.dataset.features)[1::2]
    assert share.lengths.tolist() == dev.dataset.lengths[1::2].tolist()
    assert list(pickle.loads(pickle.dumps(dev.examples))) == list(dev.examples)


def test_losses_are_counted_on_the_side_of_their_line(load: Load) -> None:
    long = make_line("长" * 200)
    huge = make_line("《甲传》由甲执导。", director("甲传" * 60, "甲"))  # not even one triplet fits
    broken = {"context": build_prompt("《甲传》由甲执导吗。"), "target": '[{"predicate": '}
    data = load(long, huge, broken, *many())
    assert [line for line, _ in data.summary.left_out] == [2, 3] and lines_of(data)[:3] == [1, 2, 4]
    for seed in range(3):
        train, dev = split_off(data, 0.3, seed)
        assert train.summary.left_out == data.summary.left_out  # what can't be learnt from is no dev line
        assert dev.summary.left_out == []
        assert 2 in lines_of(train)
        assert (len(train.examples), len(dev.examples)) == (len(train.dataset) + 1, len(dev.dataset))
        for side in (train, dev):
            assert side.summary.sources_truncated == (1 in lines_of(side))


def test_the_choice_depends_on_the_seed_alone(load: Load) -> None:
    data = load(*many())
    assert lines_of(split_off(data, 0.1, 5)[1]) == lines_of(split_off(data, 0.1, 5)[1])
    assert lines_of(split_off(data, 0.1, 5)[1]) != lines_of(split_off(data, 0.1, 6)[1])


def test_forms_of_one_sentence_stay_together(load: Load) -> None:
    repeated = [make_line(text, director("甲传", "甲")) for text in ("《甲传》由甲执导。", "甲传 由甲执导１")]
    for seed in range(10):
        train, dev = split_off(load(*(film(name) for name in NAMES[:9]), *repeated), 0.4, seed)
        assert not keys_of(train) & keys_of(dev)
    assert sentence_key("《Ａ b》１２，c！") == "Abc"
    assert sentence_key(" 1 + 1 ") == "1+1"


def test_a_relation_that_one_sentence_has_stays_in_train(load: Load) -> None:
    rare = [
        make_line(f"{name}写了《{name}记》。", Triplet(f"关系{name}", "人物", "图书作品", name, f"{name}记"))
        for name in NAMES[:20]
    ]
    data = load(*rare, film(NAMES[0]), film(NAMES[1]))
    for seed in range(5):
        train, dev = split_off(data, 0.3, seed)
        assert train.combinations == data.combinations
        assert len(dev.examples) == 1


def test_where_every_line_has_a_relation_of_its_own_one_goes(load: Load) -> None:
    lines = [
        make_line(f"{name}写了《{name}记》。", Triplet(f"关系{name}", "人物", "图书作品", name, f"{name}记"))
        for name in NAMES[:4]
    ]
    train, dev = split_off(load(*lines), 0.5, 0)
    assert (len(train.examples), len(dev.examples)) == (3, 1)
    assert train.combinations | dev.combinations and not train.combinations & dev.combinations


@pytest.mark.parametrize("count", [2, 3])
def test_the_smallest_files_can_be_split(load: Load, count: int) -> None:
    train, dev = split_off(load(*(film(name) for name in NAMES[:count])), 0.9, 0)
    assert len(train.dataset) >= 1 and len(dev.dataset) >= 1


def test_one_sentence_is_refused(load: Load) -> None:
    lines = [
        make_line(text, director("甲传", "甲")) for text in ("《甲传》由甲执导。", "《甲传》，由甲执导！")
    ]
    with pytest.raises(UserError, match=r"data\.jsonl 里可用的句子不到两个.*--dev_path"):
        split_off(load(*lines), 0.1, 0)
    with pytest.raises(UserError, match="0 和 1 之间"):
        split_off(load(*many()), 1.0, 0)
