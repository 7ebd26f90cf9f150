"""Adapters whose prompts name the wanted relations: asked part by part, and for new ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from extraction.documents import DocumentExtractor
from extraction.extractor import TripletExtractor
from extraction.loading import ExtractorOptions, load_extractor, read_settings
from extraction.splitting import questions
from task.prompt import WANTED, build_prompt
from tests.helpers.extraction_samples import (
    FILM,
    FILM_TRIPLETS,
    NOVEL,
    NOVEL_TRIPLETS,
    RAIN,
    TinyRun,
)
from utils.common_utils import UserError

NEW = {
    "predicate": "配音",
    "subject_type": "影视作品",
    "object_type": "人物",
    "description": "给角色说话的人",
}


@pytest.fixture(scope="module")
def extractor(relations_run: TinyRun) -> TripletExtractor:
    return load_extractor(ExtractorOptions(relations_run.adapter, with_scores=True))


@pytest.fixture
def new_schema(tmp_path: Path) -> Path:
    path = tmp_path / "new.json"
    path.write_text(json.dumps({"combinations": [NEW]}, ensure_ascii=False), encoding="utf-8")
    return path


def test_a_sentence_is_asked_for_each_part_of_the_schema(extractor: TripletExtractor) -> None:
    assert extractor.relations_per_prompt == 2
    before = extractor.statistics.answers
    film, novel, rain = extractor.extract([FILM, NOVEL, RAIN])
    assert extractor.statistics.answers - before == 6  # three relations, two at a time
    assert film.triplets == FILM_TRIPLETS and novel.triplets == NOVEL_TRIPLETS and rain.triplets == []
    assert len(film.scores) == 3 and min(film.scores) > 0.5
    for triplet, (object_span, subject_span) in zip(film.triplets, film.spans, strict=True):
        assert object_span is not None and FILM[slice(*object_span)] == triplet.object
        assert subject_span is not None and FILM[slice(*subject_span)] == triplet.subject
    assert extractor.extract(FILM).triplets == film.triplets  # alone as in company


def test_a_part_has_its_names_and_its_grammar(extractor: TripletExtractor) -> None:
    assert extractor.constraint is not None and extractor.schema is not None
    asked = questions(build_prompt(FILM), extractor.constraint, 2)
    assert [prompt.split(WANTED)[1].split("\n")[0] for prompt, _ in asked] == [
        "图书作品-作者-人物",
        "影视作品-主演-人物、影视作品-导演-人物",
    ]
    allowed = [part.schema.combinations for _, part in asked if part.schema is not None]
    assert frozenset().union(*allowed) == extractor.schema.combinations
    # Prompts in another notation, and adapters that name nothing, are asked once.
    assert questions("三元组？" + FILM, extractor.constraint, 2) == [
        ("三元组？" + FILM, extractor.constraint)
    ]
    assert questions(build_prompt(FILM), extractor.constraint, 0) == [
        (build_prompt(FILM), extractor.constraint)
    ]


def test_relations_that_were_never_trained_can_be_asked_for(
    relations_run: TinyRun, tiny_run: TinyRun, new_schema: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = read_settings(ExtractorOptions(relations_run.adapter, schema=new_schema))
    assert settings.relations_per_prompt == 2 and settings.constraint is not None
    ((prompt, _),) = questions(build_prompt(FILM), settings.constraint, settings.relations_per_prompt)
    assert f"{WANTED}影视作品-配音-人物（给角色说话的人）\n\n" in prompt
    found = load_extractor(settings).extract(FILM)
    assert found.problem is None and {triplet.predicate for triplet in found.triplets} <= {"配音"}
    capsys.readouterr()
    read_settings(ExtractorOptions(relations_run.adapter, schema=new_schema))
    assert capsys.readouterr().err == ""
    read_settings(ExtractorOptions(tiny_run.adapter, schema=new_schema))
    assert "没有训练过关系 配音，结果没有保证" in capsys.readouterr().err
    read_settings(ExtractorOptions(tiny_run.adapter, schema=tiny_run.adapter / "schema.json"))
    assert capsys.readouterr().err == ""


def test_what_such_an_adapter_can_not_do(relations_run: TinyRun, tmp_path: Path) -> None:
    for name in ("open_schema", "free_decoding"):
        with pytest.raises(UserError, match=f"提示词要写明抽哪些关系，不能用 --{name}；要抽别的关系请用"):
            read_settings(ExtractorOptions(relations_run.adapter, **{name: True}))
    long = [NEW | {"predicate": f"{number}{FILM[::-1]}"} for number in range(2)]
    path = tmp_path / "long.json"
    path.write_text(json.dumps({"combinations": long}, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(UserError, match="max_source_seq_len=100 放不下写明关系的提示词"):
        load_extractor(ExtractorOptions(relations_run.adapter, schema=path))


def test_a_long_sentence_is_split_for_each_part(extractor: TripletExtractor) -> None:
    text = "".join([FILM, "今天下雨。" * 30, NOVEL])
    told: list[tuple[int, int]] = []
    found = extractor.extract_one(text, lambda answered, total: told.append((answered, total)))
    assert found.problem is None
    assert told and told[-1][0] == told[-1][1] >= 4
    assert not extractor.fits(text) and extractor.fits(FILM)
    told.clear()
    extractor.extract_one(FILM, lambda *numbers: told.append(numbers))
    assert told == []  # it was not split


def test_documents(extractor: TripletExtractor) -> None:
    found = DocumentExtractor(extractor, 1).extract_one(f"{FILM}\n{NOVEL}")
    assert found.problem is None and len(found.spans) == len(found.triplets) == len(found.scores)


def test_what_was_found_is_asked_for_again(relations_run: TinyRun, tiny_run: TinyRun) -> None:
    extractor = load_extractor(ExtractorOptions(relations_run.adapter, passes=2))
    found = extractor.extract([FILM, NOVEL, RAIN])
    assert extractor.statistics.answers == 6 + 2 + 1  # the film's two relations, the novel's one
    assert [set(each.triplets) for each in found] == [set(FILM_TRIPLETS), set(NOVEL_TRIPLETS), set()]
    assert len(found[0].triplets) == len(found[0].spans) == 3  # each once
    with pytest.raises(UserError, match="--passes 2 要用提示词写明关系的适配器"):
        read_settings(ExtractorOptions(tiny_run.adapter, passes=2))
