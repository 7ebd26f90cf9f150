"""TripletExtractor on a real (tiny) model: results, batching, flags, failures that cost only themselves."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from extraction.decoding.grammar import Constraint
from extraction.evaluation.evaluate import evaluate, score
from extraction.extractor import TripletExtractor
from extraction.parsing import AnswerStatus
from extraction.result import Extraction
from task.prompt import build_prompt
from task.schema import Schema
from task.triplets import Combination, Triplet, format_target
from tests.helpers.extraction_samples import (
    ANSWERS,
    BROKEN,
    FILM,
    FILM_TRIPLETS,
    NONSENSE,
    NOVEL,
    NOVEL_TRIPLETS,
    RAIN,
    TinyRun,
    memorise,
)
from utils.common_utils import UserError

CONSTRAINTS = [pytest.param(None, id="free"), pytest.param(Constraint(), id="constrained")]


@pytest.fixture(scope="module")
def loaded(tiny_run: TinyRun) -> tuple[Any, Any]:
    return tiny_run.load()


@pytest.fixture
def extractor(loaded: tuple[Any, Any]) -> TripletExtractor:
    return TripletExtractor(*loaded, max_source_seq_len=64, max_new_tokens=48, batch_size=2)


class Interceptor:
    """A model that fails for batches that `fails` picks: in `generate`, or in a pass under a constraint."""

    def __init__(self, model: Any, fails: Any) -> None:
        self._model = model
        self._fails = fails
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        self.batches.append(len(input_ids))
        self._fails(input_ids)
        return self._model.generate(input_ids=input_ids, **options)

    def __call__(self, input_ids: torch.Tensor, **options: Any) -> Any:
        rows = len(options.get("attention_mask", input_ids))  # a pass has all tokens in one line
        self.batches.append(rows)
        self._fails(input_ids.expand(rows, -1))
        return self._model(input_ids=input_ids, **options)


def test_answers_become_triplets(extractor: TripletExtractor) -> None:
    film, novel, rain, broken, nonsense = extractor.extract([FILM, NOVEL, RAIN, BROKEN, NONSENSE])
    assert film == Extraction(FILM_TRIPLETS, ANSWERS[FILM], AnswerStatus.OK)
    assert novel == Extraction(NOVEL_TRIPLETS, ANSWERS[NOVEL], AnswerStatus.OK)
    assert rain == Extraction([], ANSWERS[RAIN], AnswerStatus.OK)
    assert broken == Extraction(FILM_TRIPLETS[:2], ANSWERS[BROKEN], AnswerStatus.REPAIRED)
    assert nonsense == Extraction([], "没有。", AnswerStatus.INVALID)
    assert [item.problem is None for item in (film, novel, rain, broken, nonsense)] == [True] * 4 + [False]
    assert nonsense.problem == "模型的回答不是可用的三元组 JSON"


def test_a_sentence_gives_an_extraction_and_a_list_gives_a_list(extractor: TripletExtractor) -> None:
    assert extractor.extract(NOVEL).triplets == NOVEL_TRIPLETS
    assert extractor.extract([NOVEL]) == [extractor.extract(NOVEL)]


def test_order_and_batching_do_not_matter(loaded: tuple[Any, Any]) -> None:
    sentences = [FILM, RAIN, NOVEL, RAIN, FILM, NONSENSE, NOVEL]
    one_by_one = TripletExtractor(*loaded, max_source_seq_len=64, max_new_tokens=48, batch_size=1)
    together = TripletExtractor(*loaded, max_source_seq_len=64, max_new_tokens=48, batch_size=7)
    expected = [one_by_one.extract_one(sentence) for sentence in sentences]
    assert together.extract(sentences) == expected
    assert [item.raw for item in expected] == [ANSWERS[sentence] for sentence in sentences]
    assert together.extract([]) == []


def test_batches_hold_prompts_of_like_length(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    widths: list[list[int]] = []
    spy = Interceptor(model, lambda ids: widths.append((ids != tokenizer.pad_token_id).sum(-1).tolist()))
    extractor = TripletExtractor(spy, tokenizer, max_source_seq_len=64, max_new_tokens=2, batch_size=2)
    done = [index for index, _ in extractor.stream(["中" * count for count in (20, 1, 21, 2, 9)])]
    lengths = [length for batch in widths for length in batch]
    assert lengths == sorted(lengths)
    assert done == [1, 3, 4, 0, 2]


def test_answers_are_read_to_the_letter(extractor: TripletExtractor, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = format_target([NOVEL_TRIPLETS[0]._replace(object="red , cat")])
    ids = [*extractor.tokenizer.encode_plain(answer), extractor.tokenizer.eos_token_id, 5, 5]
    monkeypatch.setattr(extractor, "_generate", lambda prompts: [ids])
    extraction = extractor.extract_one(NOVEL)
    assert extraction.raw == answer
    assert extraction.triplets[0].object == "red , cat"


def test_own_prompts(extractor: TripletExtractor) -> None:
    prompts = [build_prompt(FILM), build_prompt(NOVEL)]
    assert [item.triplets for item in extractor.extract(["甲", "乙"], prompts)] == [
        FILM_TRIPLETS,
        NOVEL_TRIPLETS,
    ]
    with pytest.raises(ValueError, match="1 prompts for 2 sentences"):
        extractor.extract(["甲", "乙"], prompts[:1])


def test_long_sentences_and_cut_answers_are_flagged(loaded: tuple[Any, Any]) -> None:
    extractor = TripletExtractor(*loaded, max_source_seq_len=64, max_new_tokens=20)
    long, film, rain = extractor.extract([FILM[1:] * 30, FILM, RAIN])
    assert (long.source_truncated, film.source_truncated) == (True, False)
    assert (film.truncated, film.triplets, film.status) == (True, FILM_TRIPLETS[:1], AnswerStatus.REPAIRED)
    assert (rain.truncated, rain.status) == (False, AnswerStatus.OK)
    tight = TripletExtractor(*loaded, max_source_seq_len=64, max_new_tokens=5)
    assert tight.extract_one(FILM).problem == "模型的回答在长度上限内没有结束，不是可用的三元组 JSON"


def test_lengths_must_fit_the_model(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(UserError, match="输入长度 2000 加输出长度 100 超过了模型的上限 2048"):
        TripletExtractor(*loaded, max_source_seq_len=2000, max_new_tokens=100)


def test_a_prompt_that_cannot_be_encoded_costs_only_itself(extractor: TripletExtractor) -> None:
    prompts = [build_prompt(FILM), build_prompt(FILM, instruction="抽" * 300)]
    film, other = extractor.extract([FILM, FILM], prompts)
    assert film.triplets == FILM_TRIPLETS
    assert other.error is not None
    assert "max_source_seq_len=64" in other.error
    assert other.problem == f"生成失败：{other.error}"


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_a_failing_sentence_costs_only_itself(
    loaded: tuple[Any, Any], caplog: pytest.LogCaptureFixture, constraint: Constraint | None
) -> None:
    model, tokenizer = loaded
    film_ids, novel_ids, nonsense_ids = (
        set(tokenizer.encode_plain(build_prompt(sentence))) for sentence in (FILM, NOVEL, NONSENSE)
    )
    poison = nonsense_ids - film_ids - novel_ids

    def fail(input_ids: torch.Tensor) -> None:
        if poison & set(input_ids.flatten().tolist()):
            raise RuntimeError("坏了")

    spy = Interceptor(model, fail)
    extractor = TripletExtractor(
        spy, tokenizer, max_source_seq_len=64, max_new_tokens=48, batch_size=3, constraint=constraint
    )
    film, nonsense, novel = extractor.extract([FILM, NONSENSE, NOVEL])
    assert (film.triplets, novel.triplets) == (FILM_TRIPLETS, NOVEL_TRIPLETS)
    assert nonsense == Extraction(error="RuntimeError: 坏了")
    assert spy.batches[0] == 3
    assert set(spy.batches[1:]) == {1}
    assert len(spy.batches) == 4 or constraint
    batch = "一批句子" if constraint else "一批 3 句"
    assert f"{batch}生成失败（坏了），改为逐句生成。" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_logits_that_are_no_numbers_are_an_error(
    loaded: tuple[Any, Any], constraint: Constraint | None, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights may be finite and their products not: the constraint would make an answer of nothing."""
    model, tokenizer = loaded
    poison = set(tokenizer.encode_plain(build_prompt(NONSENSE))) - set(
        tokenizer.encode_plain(build_prompt(FILM))
    )

    base = model.get_base_model()
    forward = base.forward

    @functools.wraps(forward)
    def spoilt(input_ids: torch.Tensor, **options: Any) -> Any:
        output = forward(input_ids=input_ids, **options)
        if poison & set(input_ids.flatten().tolist()):
            output.logits[..., 7] = value
        return output

    extractor = TripletExtractor(
        model, tokenizer, max_source_seq_len=64, max_new_tokens=48, batch_size=2, constraint=constraint
    )
    monkeypatch.setattr(base, "forward", spoilt)
    film, nonsense = extractor.extract([FILM, NONSENSE])
    assert film.triplets == FILM_TRIPLETS
    assert nonsense.problem is not None and "不是有限的数（NaN 或无穷大）" in nonsense.problem


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_out_of_memory_splits_the_batch_then_propagates(
    loaded: tuple[Any, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    constraint: Constraint | None,
) -> None:
    model, tokenizer = loaded
    limit = 1
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))

    def fail(input_ids: torch.Tensor) -> None:
        if len(input_ids) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    spy = Interceptor(model, fail)
    extractor = TripletExtractor(
        spy, tokenizer, max_source_seq_len=64, max_new_tokens=48, batch_size=2, constraint=constraint
    )
    assert [item.triplets for item in extractor.extract([FILM, NOVEL])] == [FILM_TRIPLETS, NOVEL_TRIPLETS]
    assert "内存不足" in caplog.text
    assert emptied == [True]
    if constraint is not None:  # for good, so that it is not tried in vain again
        assert "一批 2 句的生成内存不足，改为一批 1 句，接着做。" in caplog.text
        assert extractor.batch_size == 1
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        extractor.extract([FILM, NOVEL])


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_keyboard_interrupt_propagates_and_the_mode_is_restored(
    loaded: tuple[Any, Any], constraint: Constraint | None
) -> None:
    model, tokenizer = loaded

    def interrupt(input_ids: torch.Tensor) -> None:
        raise KeyboardInterrupt

    extractor = TripletExtractor(
        Interceptor(model, interrupt),
        tokenizer,
        max_source_seq_len=64,
        max_new_tokens=4,
        constraint=constraint,
    )
    model.train()
    with pytest.raises(KeyboardInterrupt):
        extractor.extract([FILM, NOVEL])
    assert model.training
    model.eval()


@pytest.fixture
def training_model(tiny_run: TinyRun) -> tuple[Any, Any]:
    model, tokenizer = tiny_run.load()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return model, tokenizer


def test_training_goes_on_after_an_extraction(training_model: tuple[Any, Any]) -> None:
    model, tokenizer = training_model
    model.train()
    extractor = TripletExtractor(model, tokenizer, max_source_seq_len=64, max_new_tokens=48)
    assert extractor.extract_one(NOVEL).triplets == NOVEL_TRIPLETS
    assert model.training
    memorise(model, tokenizer, {NOVEL: format_target([])}, steps=30, lr=5e-3)
    gradients = [p.grad for name, p in model.named_parameters() if "lora_" in name]
    assert len(gradients) == 16
    assert extractor.extract_one(NOVEL) == Extraction([], format_target([]), AnswerStatus.OK)


def test_adapter_without_effect_is_found(training_model: tuple[Any, Any]) -> None:
    model, tokenizer = training_model
    extractor = TripletExtractor(model, tokenizer, max_source_seq_len=64, max_new_tokens=4)
    assert extractor.adapter_changes_logits()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    assert not extractor.adapter_changes_logits()


def test_evaluation_tells_the_kinds_of_lines_apart(extractor: TripletExtractor) -> None:
    lines = [
        (build_prompt(FILM), format_target(FILM_TRIPLETS[:2])),  # one triplet too many
        (build_prompt(NOVEL), format_target(NOVEL_TRIPLETS)),
        (build_prompt(RAIN), "[]"),
        (build_prompt(NONSENSE), "没有。"),  # a classification line, answered as wanted
        (build_prompt(RAIN), '["天气"]'),  # another, answered wrongly
        (build_prompt(NOVEL), '```json\n[{"predicate": '),
        (build_prompt(FILM, "抽" * 300), format_target(FILM_TRIPLETS)),
    ]
    progress: list[int] = []
    evaluation = evaluate(extractor, [c for c, _ in lines], [t for _, t in lines], progress.append)
    result = evaluation.to_dict()
    assert {key: result["triplets"]["strict"][key] for key in ("correct", "predicted", "expected")} == {
        "correct": 3,
        "predicted": 4,
        "expected": 6,
    }
    assert result["triplets"]["sentences"] == 4
    assert result["triplets"]["invalid_rate"] == 0.25  # the one whose generation failed
    assert result["classification"]["sentences"] == 2
    assert result["classification"]["accuracy"] == 0.5
    assert result["classification"]["errors"] == [
        {"sentence": RAIN, "expected": '["天气"]', "answer": format_target([])}
    ]
    assert [item["sentence"] for item in result["failures"]] == [FILM]
    assert [item["sentence"] for item in result["unusable"]] == [NOVEL]
    assert sum(progress) == 7
    text = evaluation.describe(max_errors=1)
    assert "分类 2 句，答案一致 1（50.0%）" in text
    assert "多出（娘家的故事第二部，主演，何赛飞）" in text
    assert text.count("失败：") == 2
    assert text.count("错例：") == 1


def test_answers_streamed_elsewhere_are_scored_the_same(extractor: TripletExtractor) -> None:
    contexts = [build_prompt(FILM), build_prompt(NOVEL), build_prompt(RAIN)]
    targets = [format_target(FILM_TRIPLETS[:2]), format_target(NOVEL_TRIPLETS), "[]"]
    answers = dict(extractor.stream([FILM, NOVEL, RAIN], contexts))
    alone = score(contexts, targets, answers, extractor.tokenizer)
    assert alone.to_dict() == evaluate(extractor, contexts, targets).to_dict()
    del answers[1]  # a stream that was broken off has no score
    with pytest.raises(KeyError):
        score(contexts, targets, answers, extractor.tokenizer)


def test_expected_triplets_that_the_schema_rules_out_are_counted(loaded: tuple[Any, Any]) -> None:
    schema = Schema(frozenset({Combination("导演", "影视作品", "人物")}))
    extractor = TripletExtractor(
        *loaded, max_source_seq_len=64, max_new_tokens=48, constraint=Constraint(schema)
    )
    other_types = FILM_TRIPLETS[0]._replace(subject_type="图书作品")
    targets = [format_target([*FILM_TRIPLETS, other_types]), format_target(NOVEL_TRIPLETS), "没有。"]
    evaluation = evaluate(extractor, [build_prompt(text) for text in (FILM, NOVEL, NONSENSE)], targets)
    outside = evaluation.to_dict()["outside_schema"]
    assert outside["triplets"] == 4
    assert outside["combinations"][0] == {
        "predicate": "主演",
        "subject_type": "影视作品",
        "object_type": "人物",
        "triplets": 2,
    }
    assert outside["unknown_predicates"] == ["主演", "作者"]
    assert (
        "标准答案里有 4 个三元组的关系不在允许的范围（schema.json）内，约束下抽不出来："
        "主演（2 个，谓语本身就没有）、" in evaluation.describe(3)
    )
    assert "导演（1 个）" in evaluation.describe(3)
    whole = evaluate(extractor, [build_prompt(FILM)], [format_target(FILM_TRIPLETS[:1])])
    assert whole.to_dict()["outside_schema"]["triplets"] == 0
    assert "允许的范围" not in whole.describe(3)


def test_pieces_of_long_sentences_are_told(loaded: tuple[Any, Any]) -> None:
    extractor = TripletExtractor(
        *loaded, max_source_seq_len=64, max_new_tokens=20, batch_size=4, constraint=Constraint()
    )
    told: list[tuple[int, int]] = []
    list(extractor.stream([NOVEL, RAIN], on_piece=lambda *counts: told.append(counts)))
    assert told == []  # none was split
    list(
        extractor.stream(
            [NOVEL, "《活着》是余华写的小说，" * 20], on_piece=lambda *counts: told.append(counts)
        )
    )
    pieces = told[-1][1]
    assert pieces > 3
    assert told[-1] == (pieces, pieces)
    assert [answered for answered, _ in told if answered] == list(range(1, pieces + 1))


def test_free_answers_are_compared_as_the_tokenizer_sees_them(
    extractor: TripletExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "《红楼梦（1987版）》由王扶林执导。"
    told = Triplet("导演", "人物", "影视作品", "王扶林", "红楼梦（1987版）")
    written = told._replace(subject="红楼梦(1987版)")  # the model has no full-width brackets
    answer = Extraction([written], format_target([written]), AnswerStatus.OK)
    monkeypatch.setattr(extractor, "stream", lambda sentences, contexts: iter([(0, answer)]))
    evaluation = evaluate(extractor, [build_prompt(sentence)], [format_target([told])])
    assert evaluation.report.overall.strict.f1 == 1.0
    assert evaluation.to_dict()["triplets"]["outside_rate"] == 0.0


def test_evaluation_without_classification(extractor: TripletExtractor) -> None:
    evaluation = evaluate(extractor, [build_prompt(RAIN)], ["[]"])
    assert evaluation.to_dict()["classification"]["accuracy"] == 0.0
    assert "分类" not in evaluation.describe(3)
