"""Constrained decoding: the answers of one-token-at-a-time decoding, in fewer passes."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bases.chatglm import ChatGLMForConditionalGeneration, ChatGLMTokenizer, load_base_model
from extraction.decoding.decoder import Answer, ConstrainedDecoder
from extraction.decoding.grammar import AnswerGrammar, Constraint
from extraction.decoding.row import Row
from extraction.decoding.source_text import SourceText
from task.prompt import build_prompt, encode_prompt, split_context
from task.schema import Combination, Schema
from task.triplets import Triplet, format_target
from tests.helpers.decoding_reference import greedy_one_by_one
from tests.helpers.extraction_samples import ANSWERS, FILM, FILM_TRIPLETS, NOVEL, RAIN, TinyRun

BUDGET = 120


@pytest.fixture(scope="module")
def data(root: Path) -> tuple[list[str], Schema]:
    """Sentences of the bundled data, and their schema."""
    lines = (root / "data" / "mixed_train_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    records = [record for record in records if record["target"].startswith("```")]
    sentences = [split_context(record["context"])[1] for record in records]
    return sentences, Schema.from_targets(record["target"] for record in records)


@pytest.fixture(scope="module")
def random_model(random_base: Path) -> tuple[Any, Any]:
    return load_base_model(random_base, load_in_4bit=False, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def memorised(tiny_run: TinyRun) -> tuple[Any, Any]:
    model, tokenizer = tiny_run.load()
    model.eval()
    return model, tokenizer


def grammar_of(model: Any, tokenizer: Any, schema: Schema | None, free_values: bool = False) -> AnswerGrammar:
    return AnswerGrammar(tokenizer, model.config.vocab_size, Constraint(schema, free_values))


def encode(tokenizer: ChatGLMTokenizer, sentences: list[str]) -> list[list[int]]:
    return [encode_prompt(tokenizer, build_prompt(sentence), 256).input_ids for sentence in sentences]


def check_against_reference(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    grammar: AnswerGrammar,
    sentences: list[str],
    **options: Any,
) -> ConstrainedDecoder:
    decoder = ConstrainedDecoder(model, grammar, max_new_tokens=BUDGET, **options)
    prompts = encode(tokenizer, sentences)
    answers = dict(decoder.decode(prompts, sentences))
    assert sorted(answers) == list(range(len(sentences)))
    for index, (prompt, sentence) in enumerate(zip(prompts, sentences, strict=True)):
        expected = greedy_one_by_one(model, grammar, prompt, sentence, BUDGET)
        assert answers[index].token_ids == expected, sentence
    return decoder


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 1},
        {"batch_size": 3, "with_scores": True},
        {"batch_size": 5, "groups": 2},
        {"batch_size": 2, "groups": 2, "with_scores": True},
    ],
)
def test_equal_to_one_token_at_a_time(
    random_model: tuple[Any, Any], data: tuple[list[str], Schema], options: dict[str, Any]
) -> None:
    sentences, schema = data
    decoder = check_against_reference(
        *random_model, grammar_of(*random_model, schema), sentences[:8], **options
    )
    statistics = decoder.statistics
    assert statistics.row_passes < 0.3 * statistics.tokens
    assert statistics.answers == 8


@pytest.mark.parametrize(("open_schema", "free_values"), [(True, False), (False, True)])
def test_equal_without_parts_of_the_constraint(
    random_model: tuple[Any, Any], data: tuple[list[str], Schema], open_schema: bool, free_values: bool
) -> None:
    sentences, schema = data
    grammar = grammar_of(*random_model, None if open_schema else schema, free_values)
    check_against_reference(*random_model, grammar, sentences[:3], batch_size=2)


def test_names_longer_than_the_budget(memorised: tuple[Any, Any]) -> None:
    schema = Schema(frozenset({Combination("导演" * 300, "人物", "影视作品")}))
    grammar = grammar_of(*memorised, schema)
    decoder = check_against_reference(*memorised, grammar, [FILM, NOVEL, FILM], batch_size=2)
    assert decoder.statistics.tokens == 3 * BUDGET  # what is forced is bounded, too
    assert decoder.statistics.passes <= 3


def test_trained_model_takes_few_passes(memorised: tuple[Any, Any]) -> None:
    schema = Schema.from_targets(ANSWERS.values())
    sentences = [FILM, NOVEL, RAIN]
    grammar = grammar_of(*memorised, schema)
    decoder = check_against_reference(*memorised, grammar, sentences, batch_size=2, with_scores=True)
    prompts = encode(memorised[1], sentences)
    for index, answer in decoder.decode(prompts, sentences):
        written = b"".join(grammar.vocabulary.token_bytes[token] for token in answer.token_ids).decode()
        assert written.strip() == ANSWERS[sentences[index]]
        assert written == grammar.start + ANSWERS[sentences[index]][len(grammar.start.lstrip()) :]
        assert format_target(answer.triplets) == ANSWERS[sentences[index]]
        assert len(answer.scores) == len(answer.triplets)
        assert all(0.5 < score <= 1.0 for score in answer.scores), answer.scores
    slow = ConstrainedDecoder(memorised[0], grammar, max_new_tokens=BUDGET, batch_size=2, drafts=False)
    list(slow.decode(prompts, sentences))
    assert decoder.statistics.tokens == 2 * slow.statistics.tokens
    assert decoder.statistics.row_passes < 2 * slow.statistics.row_passes


def test_budget_ends_the_list(memorised: tuple[Any, Any]) -> None:
    grammar = grammar_of(*memorised, Schema.from_targets(ANSWERS.values()))
    tokenizer = memorised[1]
    whole = len(tokenizer.encode_plain(ANSWERS[FILM]))
    seen = set()
    for budget in range(whole + 1):
        decoder = ConstrainedDecoder(memorised[0], grammar, max_new_tokens=budget, batch_size=1)
        ((_, answer),) = decoder.decode(encode(tokenizer, [FILM]), [FILM])
        assert answer.triplets == FILM_TRIPLETS[: len(answer.triplets)]
        assert answer.truncated or answer.triplets == FILM_TRIPLETS
        assert len(answer.token_ids) <= budget
        assert answer.truncated == (budget < whole)
        seen.add(len(answer.triplets))
    assert not answer.truncated
    assert seen == {0, 1, 2, 3}


def test_nothing_to_extract_from_needs_no_model(data: tuple[list[str], Schema], root: Path) -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny")
    for schema, sentence in ((data[1], " \u200b"), (Schema(frozenset()), "甲")):
        grammar = AnswerGrammar(tokenizer, len(tokenizer), Constraint(schema))
        decoder = ConstrainedDecoder(None, grammar, max_new_tokens=8, batch_size=1)
        assert list(decoder.decode([[1]], [sentence])) == [
            (0, Answer(tokenizer.encode_plain("```json\n[]\n```"), [], [], False))
        ]


def test_a_repeated_triplet_is_left_out_and_a_second_one_ends_the_answer(
    random_model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = random_model
    schema = Schema.from_targets([format_target(FILM_TRIPLETS)])
    grammar = grammar_of(model, tokenizer, schema)
    first, second = FILM_TRIPLETS[:2]
    script = tokenizer.encode_plain(format_target([first, second, first, second, *FILM_TRIPLETS]))
    decoder = ConstrainedDecoder(model, grammar, max_new_tokens=500, batch_size=1)
    (prompt,) = encode(tokenizer, [FILM])

    class Follower:
        """Answers with the script: what follows token k of an answer is its token k."""

        device = "cpu"
        config = model.config

        def __call__(self, position_ids: torch.Tensor, logits_to_keep: torch.Tensor, **_: Any) -> Any:
            done = position_ids[0, 1][logits_to_keep[0]] - 1
            ids = torch.tensor([script[place] for place in done])
            logits = torch.nn.functional.one_hot(ids, grammar.vocabulary.size).float()
            return SimpleNamespace(logits=logits)

    monkeypatch.setattr(decoder, "model", Follower())
    ((_, answer),) = decoder.decode([prompt], [FILM])
    assert answer.triplets == [first, second]
    assert not answer.truncated
    assert len(answer.token_ids) < len(script) / 1.5


def finish(decoder: ConstrainedDecoder) -> dict[Any, Answer | Exception]:
    """Take steps until nothing is left."""
    results: dict[Any, Answer | Exception] = {}
    while len(decoder):
        results |= dict(decoder.step())
    return results


def tokens_of(result: Answer | Exception) -> list[int]:
    assert isinstance(result, Answer)
    return result.token_ids


@pytest.mark.parametrize("groups", [1, 2])
def test_sentences_join_and_leave_while_others_are_in_work(
    random_model: tuple[Any, Any], data: tuple[list[str], Schema], groups: int
) -> None:
    """Each has its own grammar and budget, and is answered as if it were alone."""
    model, tokenizer = random_model
    sentences, schema = data[0][:6], data[1]
    small = Schema(frozenset(sorted(schema.combinations)[:3]))
    grammars = [grammar_of(*random_model, each) for each in (schema, small, None)]
    prompts = encode(tokenizer, sentences)
    decoder = ConstrainedDecoder(
        model, grammars[0], max_new_tokens=BUDGET, batch_size=3, at_once=True, groups=groups
    )
    results: dict[Any, Answer | Exception] = {}
    for index, (prompt, sentence) in enumerate(zip(prompts, sentences, strict=True)):
        budget = BUDGET - index
        decoder.add(index, prompt, sentence, grammar=grammars[index % 3], max_new_tokens=budget)
        results |= dict(decoder.step())
    assert decoder.cancel(4)
    assert not decoder.cancel(4)
    running = next(row.key for row in decoder._rows)
    assert decoder.cancel(running)
    results |= finish(decoder)
    assert set(results) == {*range(6)} - {4, running}
    for index, result in results.items():
        reference = greedy_one_by_one(
            model, grammars[index % 3], prompts[index], sentences[index], BUDGET - index
        )
        assert tokens_of(result) == reference
    decoder.close()


def test_what_concerns_one_sentence_ends_only_that(
    random_model: tuple[Any, Any], data: tuple[list[str], Schema], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = random_model
    sentences, schema = data[0][:3], data[1]
    grammar = grammar_of(*random_model, schema)
    prompts = encode(tokenizer, sentences)
    lark = grammar.lark
    monkeypatch.setattr(
        grammar, "lark", lambda source: "start: (" if source.sentence == sentences[1] else lark(source)
    )
    decoder = ConstrainedDecoder(model, grammar, max_new_tokens=BUDGET, batch_size=3)
    for index in range(3):
        decoder.add(index, prompts[index], sentences[index])
    results = finish(decoder)
    assert isinstance(results[1], RuntimeError)
    monkeypatch.undo()
    for index in (0, 2):
        reference = greedy_one_by_one(model, grammar, prompts[index], sentences[index], BUDGET)
        assert tokens_of(results[index]) == reference


def test_two_groups_take_turns_with_their_passes_under_way(
    random_model: tuple[Any, Any], data: tuple[list[str], Schema]
) -> None:
    sentences, schema = data[0][:6], data[1]
    grammar = grammar_of(*random_model, schema)
    decoder = ConstrainedDecoder(random_model[0], grammar, max_new_tokens=BUDGET, batch_size=4, groups=2)
    for index, (prompt, sentence) in enumerate(
        zip(encode(random_model[1], sentences), sentences, strict=True)
    ):
        decoder.add(index, prompt, sentence)
    assert not decoder.step() and not decoder.step()
    first, second = decoder._groups
    assert first.flight is not None and second.flight is not None
    assert len(first.rows) == len(second.rows) == 2
    cancelled = first.rows[0].key
    assert decoder.cancel(cancelled) and len(first.flight.rows) == 2
    results = finish(decoder)
    assert set(results) == {*range(6)} - {cancelled}
    assert first.flight is None and second.flight is None
    assert decoder.statistics.cache_tokens >= 2 * first.cache.tokens > 0


def test_few_rows_and_service_have_one_group(random_model: tuple[Any, Any]) -> None:
    """A pass over a few rows costs as much as over twice as many."""
    grammar = grammar_of(*random_model, None)
    card = SimpleNamespace(device=torch.device("cuda"), config=random_model[0].config)

    def groups(rows: int, **options: Any) -> list[int]:
        decoder = ConstrainedDecoder(card, grammar, max_new_tokens=8, batch_size=rows, **options)
        return sorted(group.size for group in decoder._groups)

    assert groups(31) == [31] and groups(33) == [16, 17]
    assert groups(64, at_once=True) == [64]


@pytest.mark.parametrize("groups", [1, 2])
def test_a_pass_that_fails_is_begun_anew(
    random_model: tuple[Any, Any],
    data: tuple[list[str], Schema],
    monkeypatch: pytest.MonkeyPatch,
    groups: int,
) -> None:
    model, tokenizer = random_model
    sentences, schema = data[0][:3], data[1]
    grammar = grammar_of(*random_model, schema)
    prompts = encode(tokenizer, sentences)
    decoder = ConstrainedDecoder(
        model, grammar, max_new_tokens=BUDGET, batch_size=2, with_scores=True, groups=groups
    )
    for index in range(3):
        decoder.add(index, prompts[index], sentences[index])
    results = dict(decoder.step()) | dict(decoder.step())

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(decoder.chooser, "choose", fail)  # in the midst of the answers
        with pytest.raises(torch.OutOfMemoryError):
            decoder.step()
    assert len(decoder) == 3 - len(results)
    results |= finish(decoder)
    for index in range(3):
        reference = greedy_one_by_one(model, grammar, prompts[index], sentences[index], BUDGET)
        assert tokens_of(results[index]) == reference


def test_an_answer_outlives_the_failure_of_the_pass_behind_it(
    memorised: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken in the same step that asked for the next pass."""
    grammar = grammar_of(*memorised, Schema.from_targets(ANSWERS.values()))
    sentences = [RAIN, *[FILM] * 3]
    decoder = ConstrainedDecoder(memorised[0], grammar, max_new_tokens=BUDGET, batch_size=4, groups=2)
    for index, (prompt, sentence) in enumerate(zip(encode(memorised[1], sentences), sentences, strict=True)):
        decoder.add(index, prompt, sentence)
    ask = decoder._pass
    failures = 0

    def failing(rows: Any, group: Any) -> None:
        nonlocal failures
        if decoder._finished and not failures:
            group.passing = list(rows)
            failures += 1
            raise torch.OutOfMemoryError
        ask(rows, group)

    monkeypatch.setattr(decoder, "_pass", failing)
    results: dict[Any, Answer | Exception] = {}
    while len(decoder):
        try:
            results |= dict(decoder.step())
        except torch.OutOfMemoryError:
            continue
    assert failures == 1
    triplets = [results[index].triplets for index in range(4)]  # type: ignore[union-attr]
    assert triplets == [[], *[FILM_TRIPLETS] * 3]


@pytest.mark.parametrize("free_values", [False, True])
def test_nothing_is_forced_where_a_value_can_end_or_go_on(
    random_model: tuple[Any, Any], root: Path, free_values: bool
) -> None:
    """What is found by looking at the sentence is what llguidance finds."""
    model, tokenizer = random_model
    lines = (root / "data" / "mixed_dev_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [(split_context(line["context"])[1], line["target"]) for line in map(json.loads, lines)]
    pairs = [pair for pair in pairs if pair[1].startswith("```")][:25]
    for sentence in (
        '《“a”\\n》\t是甲\\乙的"歌"。',
        "１２ ３\u3000甲甲甲和３\u3000甲",
        "☃é☃é和e\u0301甲\x07乙",
    ):
        source = SourceText(sentence, tokenizer)
        values = [
            source.text[start:end].strip() for start in range(4) for end in (start + 2, len(source.text))
        ]
        pairs.append((sentence, format_target([Triplet("甲", "乙", "丙", value, "甲") for value in values])))
    grammar = grammar_of(model, tokenizer, None, free_values)
    found = {True: 0, False: 0}
    with ThreadPoolExecutor(1) as pool:
        for sentence, target in pairs:
            row = Row(0, [], sentence, grammar, max_new_tokens=900, with_scores=False)
            row.start(pool)
            for token in tokenizer.encode_plain(target)[len(grammar.opening) :]:
                if row.done or row.matcher.validate_tokens([token]) != 1:
                    break
                row._commit([token])
                is_open, forced = row._is_open(), row.matcher.compute_ff_tokens()
                assert not (is_open and forced), row.text
                found[is_open] += 1
    assert found[False] > 300 and (found[True] > 300) != free_values, found


@pytest.mark.soak
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("trained", [False, True])
def test_equal_over_many_sentences(
    random_model: tuple[Any, Any], data: tuple[list[str], Schema], root: Path, trained: bool, groups: int
) -> None:
    sentences, schema = data
    model, tokenizer = random_model
    if trained:
        path = root / "models" / "chatglm-tiny"
        model, tokenizer = load_base_model(path, load_in_4bit=False, dtype=torch.float32, device="cpu")
    grammar = grammar_of(model, tokenizer, schema)
    assert len(sentences) >= 500
    check_against_reference(model, tokenizer, grammar, sentences[:600], batch_size=16, groups=groups)
