"""From options to an extractor, in a program of one's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from extract_ray import read_job
from extraction.calibration import Calibration
from extraction.decoding.grammar import Constraint
from extraction.loading import ExtractorOptions, load_extractor, read_settings, rows_of
from serving.arguments import read_command
from tests.helpers.extraction_samples import FILM, FILM_TRIPLETS, NOVEL, NOVEL_TRIPLETS, TinyRun
from utils.common_utils import UserError

FILM_RELATION = {"predicate": "导演", "subject_type": "影视作品", "object_type": "人物"}


def change_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def test_two_lines_are_enough(tiny_run: TinyRun) -> None:
    extractor = load_extractor(str(tiny_run.adapter))
    assert extractor.extract_one(FILM).triplets == FILM_TRIPLETS


def test_options(tiny_run: TinyRun) -> None:
    options = ExtractorOptions(
        tiny_run.adapter, device="cpu", batch_size=7, max_new_tokens=20, with_scores=True, min_score=0.25
    )
    extractor = load_extractor(options)
    assert (extractor.batch_size, extractor.generation_config.max_new_tokens) == (7, 20)
    assert (extractor.with_scores, extractor.min_score, extractor.max_source_seq_len) == (True, 0.25, 64)
    assert extractor.extract_one(NOVEL).triplets == NOVEL_TRIPLETS
    free = read_settings(ExtractorOptions(str(tiny_run.adapter), free_decoding=True, with_scores=True))
    assert (free.constraint, free.with_scores) == (None, False)
    bare = read_settings(ExtractorOptions(pre_model=str(tiny_run.base), free_values=True))
    assert (bare.adapter, bare.constraint) == (None, Constraint(None, True))


def test_how_many_sentences_at_a_time(tiny_run: TinyRun, tmp_path: Path) -> None:
    """What the command asks for, else what training was told, else what suits the device."""
    asked = read_settings(ExtractorOptions(tiny_run.adapter, device="cpu", batch_size=7))
    trained = read_settings(ExtractorOptions(tiny_run.adapter, device="cpu"))
    assert (rows_of(asked), rows_of(trained)) == (7, 2)
    trained.config.eval_batch_size = "auto"
    assert rows_of(trained) == 8
    assert load_extractor(trained).batch_size == 8
    words = ["--batch_size", "auto", "--adapter", str(tiny_run.adapter)]
    (served,) = read_command(words).models.values()
    assert served.batch_size is read_job([*words, "--input", "a", "--output", "b"]).options.batch_size is None


def test_the_level_of_doubt_comes_with_the_adapter(tiny_run: TinyRun, tmp_path: Path) -> None:
    assert read_settings(ExtractorOptions(tiny_run.adapter)).half_right_score is None  # it was never measured
    adapter = Path(shutil.copytree(tiny_run.adapter, tmp_path / "adapter"))
    path = adapter / "adapter_meta.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    for level, expected in (
        (0.4, 0.4),
        (1, 1),
        (None, None),
        ("0.4", None),
        (float("nan"), None),
        (True, None),
    ):
        path.write_text(json.dumps(meta | {"half_right_score": level}), encoding="utf-8")
        assert read_settings(ExtractorOptions(adapter)).half_right_score == expected
    path.write_text(json.dumps(meta | {"half_right_score": 0.4}), encoding="utf-8")
    assert load_extractor(adapter).half_right_score == 0.4


def test_what_was_learnt_of_scores_comes_with_the_adapter(tiny_run: TinyRun, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(tiny_run.adapter, tmp_path / "adapter"))
    plain = load_extractor(ExtractorOptions(adapter, with_scores=True)).extract_one(FILM)
    calibration = Calibration(0.5, 0.25, -1.0)
    calibrated = [calibration.apply(value) for value in plain.scores]
    level = (sorted(calibrated)[0] + sorted(calibrated)[1]) / 2
    kept = [triplet for triplet, score in zip(plain.triplets, calibrated, strict=True) if score >= level]
    change_json(adapter / "adapter_meta.json", calibration=calibration._asdict(), min_score=level)
    for batch_size in (1, 8):
        for with_scores in (False, True):
            options = ExtractorOptions(adapter, with_scores=with_scores, batch_size=batch_size)
            found = load_extractor(options).extract_one(FILM)
            assert found.triplets == [
                t for t, s in zip(plain.triplets, calibrated, strict=True) if s >= level
            ]
    assert len(kept) == len(plain.triplets) - 1
    everything = load_extractor(ExtractorOptions(adapter, with_scores=True, min_score=0.0)).extract_one(FILM)
    assert (everything.triplets, everything.scores) == (plain.triplets, pytest.approx(calibrated))
    assert read_settings(ExtractorOptions(adapter, min_score=0.125)).min_score == 0.125
    subset = tmp_path / "subset.json"
    subset.write_text(json.dumps({"combinations": [FILM_RELATION]}), encoding="utf-8")
    assert read_settings(ExtractorOptions(adapter, schema=subset)).min_score == level
    subset.write_text(json.dumps({"combinations": [FILM_RELATION | {"predicate": "别的"}]}), encoding="utf-8")
    others: list[dict[str, Any]] = [{"schema": subset}, {"open_schema": True}, {"free_values": True}]
    for other in [*others, {"free_decoding": True}]:  # the level was not found for these
        assert read_settings(ExtractorOptions(adapter, **other)).min_score == 0.0
    change_json(adapter / "adapter_meta.json", calibration={"right": "x"})
    damaged = read_settings(ExtractorOptions(adapter))
    assert (damaged.calibration, damaged.min_score) == (None, 0.0)


def test_an_adapter_without_relations_says_so(tiny_run: TinyRun, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(tiny_run.adapter, tmp_path / "adapter"))
    (adapter / "schema.json").write_text('{"combinations": []}', encoding="utf-8")
    with pytest.raises(UserError, match=r"schema.json 里一个关系也没有（训练数据里没有可用的三元组）"):
        load_extractor(adapter)
    for options in (
        ExtractorOptions(adapter, open_schema=True),
        ExtractorOptions(adapter, free_decoding=True),
        ExtractorOptions(adapter, schema=tiny_run.adapter / "schema.json"),
    ):
        read_settings(options)


@pytest.mark.parametrize(
    ("fp16", "bf16", "native", "expected"),
    [
        (True, False, True, torch.bfloat16),
        (True, False, False, torch.float32),
        (False, True, True, torch.bfloat16),
        (False, False, True, torch.float32),
    ],
)
def test_precision_is_that_of_the_training_where_the_cpu_has_it(
    tiny_run: TinyRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fp16: bool,
    bf16: bool,
    native: bool,
    expected: torch.dtype,
) -> None:
    adapter = Path(shutil.copytree(tiny_run.adapter, tmp_path / "adapter"))
    path = adapter / "project_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"fp16": fp16, "bf16": bf16}
    path.write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setattr("utils.device.multiplies_bf16", lambda: native)
    extractor = load_extractor(ExtractorOptions(adapter, device="cpu"))
    weights = extractor.model.get_input_embeddings().weight
    assert weights.dtype == expected
    assert extractor.autocast_dtype == (None if expected == torch.float32 else expected)


def test_the_base_is_found_from_any_folder(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    adapter = Path(shutil.copytree(tiny_run.adapter, tmp_path / "adapter"))
    change_json(adapter / "project_config.json", pre_model="gone")
    settings = read_settings(ExtractorOptions(adapter=adapter))
    assert Path(settings.config.pre_model).samefile(tiny_run.base)
    change_json(adapter / "adapter_meta.json", pre_model="gone", base_path="", base_from_adapter="")
    with pytest.raises(UserError, match=r"的基座模型（gone.*请用 --pre_model 指定"):
        read_settings(ExtractorOptions(adapter=adapter))
    settings = read_settings(ExtractorOptions(adapter=adapter, pre_model=str(tiny_run.base)))
    assert settings.config.pre_model == str(tiny_run.base)


def test_an_adapter_of_plain_peft_extracts(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tiny_run.adapter / name, adapter)
    change_json(adapter / "adapter_config.json", base_model_name_or_path=str(tiny_run.base))
    extractor = load_extractor(ExtractorOptions(adapter=adapter, device="cpu"))
    assert extractor.extract_one(FILM).triplets == FILM_TRIPLETS
    assert "没有 adapter_meta.json" in capsys.readouterr().err
