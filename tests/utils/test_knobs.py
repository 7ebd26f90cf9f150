"""ProjectConfig: defaults of the README, validation that names the knob, the command line made from it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from glm_config import ProjectConfig
from utils.command_line import closest_name
from utils.common_utils import UserError
from utils.knobs import Rule, parse_overrides, read_knobs

README_DEFAULTS = {
    "pre_model": "THUDM/chatglm-6b",
    "train_path": "data/mixed_train_dataset.jsonl",
    "dev_path": "data/mixed_dev_dataset.jsonl",
    "save_dir": "output/chatglm-6b-triplet-qlora",
    "batch_size": 1,
    "gradient_accumulation_steps": 8,
    "epochs": 3,
    "learning_rate": 2e-4,
    "max_source_seq_len": 256,
    "max_target_seq_len": 128,
    "lora_rank": 8,
    "lora_alpha": 32,
    "lora_target_modules": ["auto"],
    "fp16": True,
    "bf16": False,
    "load_in_4bit": True,
    "vram_budget_gb": 20.0,
}


def error_of(**changes: Any) -> str:
    """The message of a config with these knobs set by hand."""
    config = ProjectConfig()
    vars(config).update(changes)
    with pytest.raises(UserError) as caught:
        config.validate()
    return str(caught.value)


def apply_overrides(config: Any, argv: Sequence[str], description: str) -> Any:
    """Set knobs as a command does, and check the whole."""
    parse_overrides(config, argv, description)
    config.validate()
    return config


def from_command_line(*argv: str) -> ProjectConfig:
    return apply_overrides(ProjectConfig(), argv, "test")


def test_defaults_are_those_of_the_readme_and_are_sound() -> None:
    config = ProjectConfig()
    config.validate()
    assert {name: config.to_dict()[name] for name in README_DEFAULTS} == README_DEFAULTS


def test_every_knob_has_a_rule_a_section_and_a_chinese_comment() -> None:
    knobs = read_knobs(ProjectConfig)
    assert [knob.name for knob in knobs] == list(vars(ProjectConfig())) == list(ProjectConfig().to_dict())
    assert {knob.name for knob in knobs} == set(ProjectConfig.rules())
    for knob in knobs:
        assert knob.section, knob.name
        assert any("\u4e00" <= character <= "\u9fff" for character in knob.comment), knob


def test_the_first_knob_is_read_as_it_stands_in_the_source() -> None:
    first = read_knobs(ProjectConfig)[0]
    assert first == ("pre_model", "预训练模型：本地目录，或本机缓存中的模型名", "模型配置")


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("batch_size", "2"),
        ("batch_size", 0),
        ("batch_size", -1),
        ("batch_size", True),
        ("batch_size", 1.0),
        ("batch_size", None),
        ("epochs", 0),
        ("gradient_accumulation_steps", 0),
        ("learning_rate", 0),
        ("learning_rate", "2e-4"),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", 2),
        ("vram_budget_gb", 1e300),
        ("learning_rate", True),
        ("warmup_ratio", 1.0),
        ("warmup_ratio", -0.1),
        ("weight_decay", -1e-9),
        ("label_smoothing", 1),
        ("label_smoothing", -0.1),
        ("max_grad_norm", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("max_steps", -2),
        ("max_source_seq_len", -256),
        ("max_target_seq_len", 1),
        ("lora_rank", 0),
        ("lora_alpha", 0),
        ("lora_dropout", 1.0),
        ("lora_dropout", -0.1),
        ("lora_target_modules", []),
        ("lora_target_modules", "query_key_value"),
        ("lora_target_modules", ["dense", "dense"]),
        ("lora_target_modules", [""]),
        ("lora_target_modules", [1]),
        ("fp16", 1),
        ("fp16", "true"),
        ("load_in_4bit", None),
        ("best_metric", "accuracy"),
        ("early_stopping_patience", -1),
        ("save_total_limit", 0),
        ("logging_steps", 0),
        ("pre_model", ""),
        ("pre_model", "  "),
        ("train_path", None),
        ("save_dir", Path("output")),
        ("device", "gpu"),
        ("device", "cuda:x"),
        ("resume_from_checkpoint", ""),
        ("dataloader_num_workers", -1),
        ("token_cache_dir", "  "),
        ("token_cache_dir", None),
    ],
)
def test_a_wrong_value_is_named_in_one_line(knob: str, value: Any) -> None:
    message = error_of(**{knob: value})
    assert message.startswith(f"配置有误：{knob} 应当是")
    assert repr(value) in message
    assert "\n" not in message


@pytest.mark.parametrize("knob", ["lora_dropout", "learning_rate", "batch_size", "epochs", "seed"])
def test_ints_of_hundreds_of_digits(knob: str) -> None:
    message = error_of(**{knob: 10**400})
    assert message.startswith(f"配置有误：{knob} 应当是") and "000…（整数）" in message


def test_messages_say_what_is_wanted() -> None:
    assert error_of(batch_size="2") == "配置有误：batch_size 应当是不小于 1 的整数，现在是 '2'（字符串）。"
    assert (
        error_of(lora_dropout=1.5)
        == "配置有误：lora_dropout 应当是不小于 0、小于 1 的数，现在是 1.5（小数）。"
    )
    assert (
        error_of(device="gpu")
        == "配置有误：device 应当是cuda、cuda:0 或 cpu 或 none，现在是 'gpu'（字符串）。"
    )
    assert "triplet_f1 或 dev_loss" in error_of(best_metric="f1")


@pytest.mark.parametrize(
    ("changes", "knobs"),
    [
        ({"fp16": True, "bf16": True}, ("fp16", "bf16")),
        ({"load_in_8bit": True}, ("load_in_4bit", "load_in_8bit")),
        (
            {"max_source_seq_len": 2000, "max_target_seq_len": 49},
            ("max_source_seq_len", "max_target_seq_len"),
        ),
        ({"best_metric": "triplet_f1", "eval_samples": 0}, ("best_metric", "eval_samples")),
        (
            {"resume_from_checkpoint": "auto", "overwrite_output_dir": True},
            ("resume_from_checkpoint", "overwrite_output_dir"),
        ),
    ],
)
def test_impossible_combinations_name_both_knobs(changes: dict[str, Any], knobs: tuple[str, str]) -> None:
    message = error_of(**changes)
    assert all(knob in message for knob in knobs)
    assert "\n" not in message


def test_sound_values_at_the_bounds_pass() -> None:
    config = ProjectConfig()
    vars(config).update(
        max_source_seq_len=1920, max_target_seq_len=128, learning_rate=1, max_grad_norm=0, max_steps=-1,
        warmup_ratio=0, lora_dropout=0, seed=2**32 - 1, device="cuda:1", eval_samples=0,
        best_metric="dev_loss", token_cache_dir="",
    )  # fmt: skip
    config.validate()


def test_all_problems_are_reported_at_once_one_line_each() -> None:
    message = error_of(batch_size=0, lora_rank="8", fp16=True, bf16=True)
    lines = message.splitlines()
    assert lines[0] == "配置有 3 处错误："
    assert [line.split()[1] for line in lines[1:]] == ["batch_size", "lora_rank", "fp16"]


def test_a_broken_value_does_not_hide_behind_a_combination() -> None:
    assert error_of(fp16="yes", bf16=True).count("\n") == 0
    assert "max_source_seq_len" in error_of(max_source_seq_len="2000", max_target_seq_len=2000)


def test_a_misspelt_attribute_and_a_deleted_line_are_named() -> None:
    assert error_of(batchsize=4) == "配置有误：没有名为 batchsize 的参数，是不是想写 batch_size？"
    assert error_of(zzz=4) == "配置有误：没有名为 zzz 的参数，请删去它。"
    config = ProjectConfig()
    del config.epochs
    with pytest.raises(UserError, match=r"缺少参数 epochs，请在 glm_config\.py 中补上 self\.epochs"):
        config.validate()


def test_dictionary_round_trip_through_json() -> None:
    config = from_command_line("--batch_size", "3", "--lora_target_modules", "dense", "--device", "cpu")
    again = ProjectConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()
    assert (again.batch_size, again.lora_target_modules, again.device) == (3, ["dense"], "cpu")


def test_a_dictionary_keeps_defaults_and_refuses_unknown_names() -> None:
    assert ProjectConfig.from_dict({"epochs": 5}).to_dict() == {**ProjectConfig().to_dict(), "epochs": 5}
    with pytest.raises(UserError, match="没有名为 learning_rat 的参数，是不是想写 learning_rate"):
        ProjectConfig.from_dict({"learning_rat": 1e-4})


def test_to_dict_is_a_copy() -> None:
    config = ProjectConfig()
    config.to_dict()["lora_target_modules"].append("dense")
    assert config.lora_target_modules == ["auto"]


@pytest.mark.parametrize(
    ("argv", "knob", "value"),
    [
        (["--batch_size", "8"], "batch_size", 8),
        (["--batch_size=8"], "batch_size", 8),
        (["--learning_rate", "2e-4"], "learning_rate", 2e-4),
        (["--max_steps", "-1"], "max_steps", -1),
        (["--bf16", "--fp16", "false"], "bf16", True),
        (["--fp16", "0"], "fp16", False),
        (["--fp16", "否"], "fp16", False),
        (["--fp16=False"], "fp16", False),
        (["--fp16", "是"], "fp16", True),
        (["--fp16", "1"], "fp16", True),
        (["--strict_data"], "strict_data", True),
        (
            ["--lora_target_modules", "dense", "query_key_value"],
            "lora_target_modules",
            ["dense", "query_key_value"],
        ),
        (
            ["--lora_target_modules", "dense,query_key_value"],
            "lora_target_modules",
            ["dense", "query_key_value"],
        ),
        (["--device", "cpu"], "device", "cpu"),
        (["--device", "none"], "device", None),
        (["--resume_from_checkpoint", "auto"], "resume_from_checkpoint", "auto"),
        (["--train_path", "数据/训练 集.jsonl"], "train_path", "数据/训练 集.jsonl"),
        (["--token_cache_dir", ""], "token_cache_dir", ""),
        (["--epochs", "2", "--epochs", "4"], "epochs", 4),
        (["--debug"], "epochs", 3),
        (["--batch-size", "8"], "batch_size", 8),
        (["--batch-size=8"], "batch_size", 8),
        (["--lora-target_modules", "dense"], "lora_target_modules", ["dense"]),
    ],
)
def test_command_line_values(argv: list[str], knob: str, value: Any) -> None:
    found = getattr(from_command_line(*argv), knob)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch_size", "two"], "命令行参数 --batch_size 应当是不小于 1 的整数，现在是 two。"),
        (["--batch_size", "2.5"], "命令行参数 --batch_size 应当是不小于 1 的整数，现在是 2.5。"),
        (["--batch_size", "1", "2"], "命令行参数 --batch_size 应当是不小于 1 的整数，现在是 1 2。"),
        (["--batch_size"], "命令行参数 --batch_size 后面缺少取值，应当是不小于 1 的整数。"),
        (["--batch_size", "none"], "命令行参数 --batch_size 应当是不小于 1 的整数，现在是 none。"),
        (
            ["--learning_rate", "-2e-4"],
            "配置有误：learning_rate 应当是大于 0、不大于 1 的数，现在是 -0.0002（小数）。",
        ),
        (["--fp16", "maybe"], "命令行参数 --fp16 应当是开关 true/false，现在是 maybe。"),
        (["--lora_target_modules"], "命令行参数 --lora_target_modules 后面缺少取值，应当是非空的名称列表。"),
        (
            ["--lora_target_modules", ","],
            "配置有误：lora_target_modules 应当是非空的名称列表，现在是 []（列表）。",
        ),
        (["--batchsize", "2"], "认不出命令行参数 --batchsize，是不是想写 --batch_size？"),
        (["--batch-siz=2"], "认不出命令行参数 --batch-siz=2，是不是想写 --batch_size？"),
        (["-epochs", "2"], "认不出命令行参数 -epochs，是不是想写 --epochs？"),
        (["--debug=1"], "命令行参数 --debug 不带取值，却写了 '1'。"),
        (["--batch", "2"], "认不出命令行参数 --batch，是不是想写 --batch_size？"),
        (["epochs", "2"], "认不出命令行参数 epochs，是不是想写 --epochs？"),
        (["--zzz"], "认不出命令行参数 --zzz，--help 列出全部参数。"),
        (["--batch_size", "0"], "配置有误：batch_size 应当是不小于 1 的整数，现在是 0（整数）。"),
        (
            ["--learning_rate", "nan"],
            "配置有误：learning_rate 应当是大于 0、不大于 1 的数，现在是 nan（小数）。",
        ),
        (["--train_path", ""], "配置有误：train_path 应当是字符串，现在是 ''（字符串）。"),
    ],
)
def test_command_line_mistakes(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_command_line(*argv)
    assert str(caught.value) == message


def test_several_mistakes_are_told_together_one_line_each() -> None:
    with pytest.raises(UserError) as caught:
        from_command_line("--fp16", "maybe", "--batch_size", "0", "--nosuch", "1", "--epochs", "--seed", "x")
    assert str(caught.value).splitlines() == [
        "命令行与配置有 5 处错误：",
        "  - 认不出命令行参数 --nosuch，--help 列出全部参数。",
        "  - 命令行参数 --epochs 后面缺少取值，应当是不小于 1 的整数。",
        "  - 命令行参数 --seed 应当是不小于 0、小于 4294967296 的整数，现在是 x。",
        "  - 命令行参数 --fp16 应当是开关 true/false，现在是 maybe。",
        "  - batch_size 应当是不小于 1 的整数，现在是 0（整数）。",
    ]


def test_parsing_alone_does_not_validate_and_tells_what_was_given() -> None:
    config = ProjectConfig()
    given = parse_overrides(config, ["--batch-size", "0", "--fp16", "--seed=42", "--debug"], "test")
    assert config.batch_size == 0
    assert given == {"batch_size", "fp16", "seed"}
    assert parse_overrides(config, [], "test") == set()


def test_a_config_edited_wrongly_by_hand_is_found_whatever_the_command_line_says() -> None:
    config = ProjectConfig()
    config.lora_rank = "8"  # type: ignore[assignment]
    with pytest.raises(UserError, match="lora_rank 应当是不小于 1 的整数，现在是 '8'（字符串）"):
        apply_overrides(config, ["--batch_size", "2"], "test")
    assert apply_overrides(config, ["--lora_rank", "4"], "test").lora_rank == 4


def test_help_lists_every_knob_with_its_comment_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        from_command_line("--help")
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith("用法：")
    for name in ProjectConfig.rules():
        assert f"  --{name} 取值" in output
    assert "批次大小（默认 1）" in output
    assert "FP16 混合精度训练（在 CPU 上自动改用 BF16 或 FP32）（默认 true）" in output
    assert (
        "加 LoRA 的模块名；auto：ChatGLM-6B 是 query_key_value，其他模型是全部线性层（默认 auto）" in output
    )
    assert (
        output.index("模型配置:")
        < output.index("--pre_model")
        < output.index("LoRA配置:")
        < output.index("--lora_rank")
    )


class Small:
    """A config of another shape, to show that nothing is tied to ProjectConfig."""

    def __init__(self) -> None:
        self.share = 50  # 占比 50% 左右
        # 分组
        self.name: str | None = None  # 名称
        self.bare = 1.5

    def problems(self) -> list[str]:
        return []

    @staticmethod
    def rules() -> dict[str, Rule]:
        return {
            "share": Rule(int, above=0, at_most=100),
            "name": Rule(str, optional=True),
            "bare": Rule(float),
        }

    def validate(self) -> None:
        pass


def test_any_class_of_this_form_gets_a_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    config = apply_overrides(Small(), ["--share", "7", "--name", "甲", "--bare", "2"], "test")
    assert vars(config) == {"share": 7, "name": "甲", "bare": 2.0}
    assert read_knobs(Small) == [
        ("share", "占比 50% 左右", ""),
        ("name", "名称", "分组"),
        ("bare", "", "分组"),
    ]
    with pytest.raises(SystemExit):
        apply_overrides(Small(), ["-h"], "test")
    assert "占比 50% 左右（默认 50）" in capsys.readouterr().out


def test_rules_describe_themselves() -> None:
    assert Rule(int, at_least=1, below=9).describe() == "不小于 1、小于 9 的整数"
    assert Rule(float, above=0, at_most=1, optional=True).describe() == "大于 0、不大于 1 的数 或 none"
    assert Rule(str, optional=True).accepts(None) and not Rule(str).accepts(None)
    assert closest_name("batchsize", ["batch_size", "epochs"]) == "batch_size"
    assert closest_name("zzz", ["batch_size", "epochs"]) is None


def run_with_edited_config(
    root: Path, folder: Path, old: str, new: str, *argv: str
) -> subprocess.CompletedProcess[str]:
    """Run a command that parses its knobs in a folder whose glm_config.py was edited by hand."""
    source = (root / "glm_config.py").read_text("utf-8")
    assert old in source
    (folder / "glm_config.py").write_text(source.replace(old, new), "utf-8")
    command = (
        "import sys; from glm_config import ProjectConfig; from utils.knobs import parse_overrides\n"
        "from utils.common_utils import run_main\n"
        "config = ProjectConfig()\n"
        "run_main(lambda: (parse_overrides(config, sys.argv[1:], 'x'), config.validate(), "
        "print(config.batch_size))[2])\n"
    )
    (folder / "command.py").write_text(command, "utf-8")
    return subprocess.run(
        [sys.executable, "command.py", *argv],
        cwd=folder,
        env={"PYTHONPATH": str(root), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_an_edited_file_ends_in_one_line_and_exit_code_2(root: Path, tmp_path: Path) -> None:
    edit = ("self.batch_size = 1 ", 'self.batch_size = "2" ')
    result = run_with_edited_config(root, tmp_path, *edit)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "错误：配置有误：batch_size 应当是不小于 1 的整数，现在是 '2'（字符串）。\n"
    result = run_with_edited_config(root, tmp_path, *edit, "--batch_size", "3")
    assert (result.returncode, result.stdout, result.stderr) == (0, "3\n", "")


def test_debug_shows_where_a_mistake_was_found(root: Path, tmp_path: Path) -> None:
    result = run_with_edited_config(root, tmp_path, "self.epochs = 3 ", "self.epochs = 0 ", "--debug")
    assert result.returncode == 2
    assert "Traceback" in result.stderr and result.stderr.endswith("现在是 0（整数）。\n")


def test_the_class_stays_in_the_form_of_the_readme(root: Path) -> None:
    tree = ast.parse((root / "glm_config.py").read_text("utf-8"))
    (config_class,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    assert ast.unparse(config_class.bases[0]) == "object"
    (constructor,) = (node for node in config_class.body if getattr(node, "name", "") == "__init__")
    assert isinstance(constructor, ast.FunctionDef)
    assert all(isinstance(line, ast.Assign | ast.AnnAssign) for line in constructor.body)


def test_what_comes_with_the_project_is_found_from_any_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = from_command_line("--pre_model", "models/chatglm-tiny", "--dev_path", "data/mine.jsonl")
    config.find_bundled_files()
    assert config.pre_model == str(root / "models" / "chatglm-tiny")
    assert config.train_path == str(root / "data" / "mixed_train_dataset.jsonl")
    assert config.dev_path == "data/mine.jsonl"  # the user's own, whether it is there or not
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mixed_train_dataset.jsonl").touch()
    config = ProjectConfig()
    vars(config).update(dev_path=None, pre_model="x" * 5000)  # nothing that could be found
    config.find_bundled_files()
    assert config.train_path == "data/mixed_train_dataset.jsonl"  # what is here goes first
    assert (config.dev_path, config.pre_model) == (None, "x" * 5000)
