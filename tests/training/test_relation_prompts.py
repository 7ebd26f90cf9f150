"""Training with the wanted relations in the prompt: what a run says, records, resumes and hands on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import train
from bases.adapter_files import load_adapter_meta
from extraction.options import ExtractorOptions
from extraction.settings import read_settings
from glm_config import ProjectConfig
from training import options
from utils.common_utils import UserError

Command = Callable[..., list[str]]
QUICK = {"eval_samples": 0, "best_metric": "dev_loss", "epochs": 1, "save_freq": 1, "learning_rate": 5e-2}
ASKED = {"schema_prompt": True, "relations_per_prompt": 4, "negative_ratio": 2, "max_source_seq_len": 256}


def test_a_run_and_its_rest(arguments: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tmp_path / "run"
    assert train.main(arguments(**QUICK, **ASKED)) == 0
    said = capsys.readouterr().err
    assert "提示词写明关系：" in said and "每条至多 4 种，训练集的 16 行展开成" in said
    assert "全部写进一条要准得多（--relations_per_prompt" in said
    assert "至多放得下" in said and "抽取时每句要问" in said
    assert load_adapter_meta(whole / "model_best").relations_per_prompt == 4
    assert read_settings(ExtractorOptions(whole)).relations_per_prompt == 4
    steps = sorted(int(path.name.split("-")[1]) for path in whole.glob("checkpoint-*"))
    assert len(steps) == 3

    rest = {
        **QUICK,
        "resume_from_checkpoint": whole / f"checkpoint-{steps[0]}",
        "save_dir": tmp_path / "rest",
    }
    assert train.main(arguments(**rest, **ASKED)) == 0
    last = f"checkpoint-{steps[-1]}/adapter_model.safetensors"
    assert (tmp_path / "rest" / last).read_bytes() == (whole / last).read_bytes()

    for knobs, difference in (
        ({"negative_ratio": 3}, "negative_ratio：检查点 2.0，现在 3.0"),
        ({"schema_prompt": False}, "schema_prompt：检查点 True，现在 False"),
    ):
        with pytest.raises(UserError, match=difference):
            train.main(arguments(**rest | ASKED | knobs | {"save_dir": tmp_path / "third"}))

    config = ProjectConfig()  # a training that starts from the adapter asks as it was asked
    config.init_adapter = str(whole)
    options.take_shape_of_adapter(config, set())
    assert (config.schema_prompt, config.relations_per_prompt) == (True, 4)
    config.schema_prompt, config.init_adapter = False, str(whole)
    options.take_shape_of_adapter(config, {"schema_prompt"})
    assert not config.schema_prompt


def test_relations_that_leave_no_room(arguments: Command, tmp_path: Path) -> None:
    words = arguments(**QUICK, **ASKED | {"max_source_seq_len": 110})
    with pytest.raises(UserError, match=r"max_source_seq_len=110 放不下写明关系的提示词.*请把 .*调到"):
        train.main(words)


def test_a_schema_for_training(arguments: Command, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="schema_path 只有开了 schema_prompt 才用得上"):
        train.main(arguments(schema_path=tmp_path / "schema.json"))
    path = tmp_path / "schema.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="字段 predicate"):
        train.main(arguments(**ASKED, schema_path=path))
    item = {
        "predicate": "票房",
        "subject_type": "影视作品",
        "object_type": "Number",
        "description": "卖了多少",
    }
    path.write_text(json.dumps({"combinations": [item]}), encoding="utf-8")
    assert train.main(arguments(**QUICK | {"save_freq": 0}, **ASKED, schema_path=path)) == 0
    schema = json.loads((tmp_path / "run" / "model_best" / "schema.json").read_text(encoding="utf-8"))
    assert item in schema["combinations"] and len(schema["combinations"]) > 1
