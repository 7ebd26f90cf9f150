"""Where knobs come from: the command line, a checkpoint, an adapter, the rule about own data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glm_config import ProjectConfig
from training import options
from training.options import BUNDLED_DEV, BUNDLED_TRAIN
from training.run_directory import STATE_FILE, checkpoint_path, write_marker
from utils.common_utils import UserError
from utils.directories import write_directory


@pytest.mark.parametrize(
    ("train_path", "dev_path", "given", "expected"),
    [
        ("mine.jsonl", BUNDLED_DEV, {"train_path"}, ""),
        ("mine.jsonl", BUNDLED_DEV, set(), ""),  # edited in the file
        ("mine.jsonl", BUNDLED_DEV, {"train_path", "dev_path"}, BUNDLED_DEV),  # by name
        ("mine.jsonl", "my_dev.jsonl", {"train_path", "dev_path"}, "my_dev.jsonl"),
        ("mine.jsonl", "my_dev.jsonl", set(), "my_dev.jsonl"),
        ("mine.jsonl", "", {"dev_path"}, ""),
        (BUNDLED_TRAIN, BUNDLED_DEV, set(), BUNDLED_DEV),
    ],
)
def test_own_data_is_never_evaluated_on_the_bundled_dev_set(
    train_path: str,
    dev_path: str,
    given: set[str],
    expected: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(root)
    config = ProjectConfig()
    config.train_path, config.dev_path = train_path, dev_path
    options.settle_data_paths(config, given)
    assert config.dev_path == expected


def test_bundled_data_is_found_from_any_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = ProjectConfig()
    options.settle_data_paths(config, set())
    assert (config.train_path, config.dev_path) == (str(root / BUNDLED_TRAIN), str(root / BUNDLED_DEV))


def make_checkpoint(home: Path, step: int, **knobs: object) -> Path:
    def fill(directory: Path) -> None:
        (directory / STATE_FILE).write_bytes(b"state")
        content = ProjectConfig().to_dict() | knobs
        (directory / "project_config.json").write_text(json.dumps(content), encoding="utf-8")

    path = checkpoint_path(home, step)
    write_directory(path, fill)
    return path


def test_resuming_takes_what_is_not_given_from_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(
        tmp_path, 7, epochs=9, seed=5, train_path="mine.jsonl", dev_path="", save_dir="old", device="cpu",
        overwrite_output_dir=True, init_adapter="some",
    )  # fmt: skip
    config, said = ProjectConfig(), []
    config.save_dir, config.resume_from_checkpoint, config.seed = str(tmp_path), "auto", 6
    options.take_knobs_of_checkpoint(config, {"save_dir", "resume_from_checkpoint", "seed"}, said.append)
    assert (config.epochs, config.seed, config.train_path) == (9, 6, "mine.jsonl")
    assert (config.save_dir, config.resume_from_checkpoint) == (str(tmp_path), str(checkpoint))
    assert not config.overwrite_output_dir and config.init_adapter is None
    assert len(said) == 1 and "epochs 9" in said[0] and "seed" not in said[0]
    options.settle_data_paths(config, set())
    assert config.dev_path == ""


def test_a_checkpoint_is_gone_on_from_where_it_is(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "there", 7)
    config = ProjectConfig()
    config.resume_from_checkpoint = str(checkpoint)
    options.settle_save_dir(config, {"resume_from_checkpoint"})
    assert config.save_dir == str(tmp_path / "there")
    options.settle_save_dir(config, {"resume_from_checkpoint", "save_dir"})


def test_auto_without_a_checkpoint_begins(tmp_path: Path) -> None:
    def resume() -> tuple[ProjectConfig, list[str]]:
        config, said = ProjectConfig(), []
        config.save_dir, config.resume_from_checkpoint = str(tmp_path), "auto"
        options.take_knobs_of_checkpoint(config, {"save_dir", "resume_from_checkpoint"}, said.append)
        return config, said

    config, said = resume()
    assert config.resume_from_checkpoint is None and not config.overwrite_output_dir
    assert said == [f"{tmp_path} 里没有检查点，从头开始训练。"]
    write_marker(tmp_path, finished=False)  # killed before its first checkpoint: what it left is made again
    assert resume()[0].overwrite_output_dir
    write_marker(tmp_path, finished=True)  # what a finished run has left is not
    assert not resume()[0].overwrite_output_dir


def test_what_the_file_says_of_beginning_does_not_stand_against_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is edited in glm_config.py, and the command that training prints is used."""
    original = ProjectConfig.__init__

    def edited(self: ProjectConfig) -> None:
        original(self)
        self.overwrite_output_dir, self.init_adapter = True, "some/adapter"

    def resume(**knobs: object) -> ProjectConfig:
        config = ProjectConfig()
        vars(config).update({"save_dir": str(tmp_path), "resume_from_checkpoint": "auto", **knobs})
        given = {"save_dir", "resume_from_checkpoint", *knobs}
        options.prefer_resuming(config, given)
        config.validate()
        options.take_knobs_of_checkpoint(config, given, lambda line: None)
        return config

    monkeypatch.setattr(ProjectConfig, "__init__", edited)
    begun = resume()  # there is no checkpoint yet
    assert begun.init_adapter == "some/adapter" and not begun.overwrite_output_dir
    make_checkpoint(tmp_path, 3)
    resumed = resume()
    assert resumed.init_adapter is None and not resumed.overwrite_output_dir
    with pytest.raises(UserError, match="只能给一个"):
        resume(init_adapter="other")


def test_the_shape_of_an_adapter(tmp_path: Path) -> None:
    best = tmp_path / "model_best"
    best.mkdir()
    shape = {"peft_type": "LORA", "r": 4, "lora_alpha": 16.0, "target_modules": ["dense"]}
    (best / "adapter_config.json").write_text(json.dumps(shape), encoding="utf-8")
    config = ProjectConfig()
    config.init_adapter = str(tmp_path)
    options.take_shape_of_adapter(config, {"init_adapter"})
    assert config.init_adapter == str(best)
    assert (config.lora_rank, config.lora_alpha, config.lora_target_modules) == (4, 16, ["dense"])
    config.validate()
    two = shape | {"target_modules": ["query_key_value", "dense"]}  # peft writes them in any order
    (best / "adapter_config.json").write_text(json.dumps(two), encoding="utf-8")
    config.lora_target_modules = ["dense", "query_key_value"]
    options.take_shape_of_adapter(config, {"init_adapter", "lora_target_modules"})
    config.lora_target_modules = ["dense"]
    with pytest.raises(UserError, match=r"lora_target_modules 给的是 \['dense'\]，适配器是"):
        options.take_shape_of_adapter(config, {"init_adapter", "lora_target_modules"})
    (best / "adapter_config.json").write_text(json.dumps(shape), encoding="utf-8")
    config.lora_rank = 8
    with pytest.raises(UserError, match=r"lora_rank 给的是 8，适配器是 4"):
        options.take_shape_of_adapter(config, {"init_adapter", "lora_rank"})
    (best / "adapter_config.json").write_text(json.dumps(shape | {"lora_alpha": 0.5}), encoding="utf-8")
    with pytest.raises(UserError, match=r"lora_alpha 是 0.5，不是整数"):
        options.take_shape_of_adapter(config, set())
    config.init_adapter = str(tmp_path / "absent")
    with pytest.raises(UserError, match=r"找不到 --init_adapter 指定的适配器目录"):
        options.take_shape_of_adapter(config, set())
