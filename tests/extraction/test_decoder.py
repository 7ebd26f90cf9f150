"""Constrained decoding: the answers of one-token-at-a-time decoding, in fewer passes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bases.chatglm import ChatGLMForConditionalGeneration, ChatGLMTokenizer, load_base_model
from extraction.decoding.decoder import Answer, ConstrainedDecoder
from extraction.decoding.grammar import AnswerGrammar, Constraint
from task.prompt import build_prompt, encode_prompt, split_context
from task.schema import Combination, Schema
from task.triplets import format_target
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


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3, "with_scores": True}])
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


@pytest.mark.soak
@pytest.mark.parametrize("trained", [False, True])
def test_equal_over_many_sentences(
    random_model: tuple[Any, Any], data: tuple[list[str], Schema], root: Path, trained: bool
) -> None:
    sentences, schema = data
    model, tokenizer = random_model
    if trained:
        path = root / "models" / "chatglm-tiny"
        model, tokenizer = load_base_model(path, load_in_4bit=False, dtype=torch.float32, device="cpu")
    grammar = grammar_of(model, tokenizer, schema)
    assert len(sentences) >= 500
    check_against_reference(model, tokenizer, grammar, sentences[:600], batch_size=16)
