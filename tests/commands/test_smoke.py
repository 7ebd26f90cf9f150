"""The environment check test_training.py, as its user sees it, and each of its rows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import test_training
from glm_config import ProjectConfig
from test_training import run_check
from training import checks
from training.checks import FAILED, NOTE, PASSED, SKIPPED, Result
from training.device_checks import EMBEDDED_BASE

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="shows what is said without a GPU")


@pytest.fixture
def config(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProjectConfig:
    """The default config on the embedded base, saving into a temporary folder."""
    monkeypatch.chdir(root)
    config = ProjectConfig()
    config.pre_model = str(EMBEDDED_BASE)
    config.save_dir = str(tmp_path / "output" / "run")
    config.token_cache_dir = str(tmp_path / "cache")
    return config


@pytest.fixture
def here(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run the script's main function in this process; gives its exit code and what it printed."""

    def run(*argv: str) -> tuple[int, str]:
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, "argv", ["test_training.py", *argv])
        monkeypatch.setattr(test_training, "quiet_libraries", lambda: None)  # it lasts
        code = test_training.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out

    return run


def run_script(root: Path, *argv: str, blocked: tuple[str, ...] = (), **environment: str) -> Any:
    """Run test_training.py in a process of its own, in which the `blocked` packages can't be imported."""
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({blocked!r})); sys.argv[:] = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "test_training.py", *argv],
        cwd=root,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


# -- the script as a whole


def test_training_can_run_on_the_embedded_base(
    config: ProjectConfig, here: Callable[..., tuple[int, str]]
) -> None:
    code, output = here("--pre_model", "models/chatglm-tiny", "--save_dir", config.save_dir)
    assert code == 0, output
    lines = output.splitlines()
    assert lines[0].split() == ["状态", "检查项", "结果与怎么办"]
    assert lines[1] == "通过  Python                  " + sys.version.split()[0]
    command = f"python train.py --pre_model models/chatglm-tiny --save_dir {config.save_dir}"
    assert output.endswith(f"\n\n可以训练：{command}\n")
    assert not [line for line in lines if line.startswith((FAILED, SKIPPED))]
    for item in (
        "软件包 torch",
        "软件包 cpm_kernels",
        "配置",
        "GPU",
        "4-bit 量化",
        "训练集",
        "验证集",
    ):
        assert any(line.startswith((PASSED, NOTE)) and f"  {item}  " in line for line in lines), item
    for item in ("模型", "分词器", "训练一步", "计算类型", "速度", "磁盘", "输出目录"):
        assert any(line.startswith(PASSED) and f"  {item}  " in line for line in lines), item
    assert not Path(config.save_dir).exists()


@WITHOUT_GPU
def test_a_large_model_without_gpu_and_weights_says_what_to_do(config: ProjectConfig, here: Any) -> None:
    code, output = here("--pre_model", "nobody/no-such-model", "--save_dir", config.save_dir)
    assert code == 1
    assert "而 nobody/no-such-model 有 6.2B 参数" in output
    assert "没有 GPU 时可用内置小模型体验：make demo，或 --pre_model models/chatglm-tiny" in output
    assert "找不到模型“nobody/no-such-model”" in output
    assert "跳过  显存                    没有 GPU" in output
    assert "预计峰值" in output
    assert output.endswith("2 项失败，现在还不能训练：GPU、模型\n")


def test_a_wrong_config_is_a_row_and_the_rest_is_skipped(config: ProjectConfig, here: Any) -> None:
    code, output = here("--batch_size", "0", "--lora_rank", "0")
    assert code == 1
    assert "失败  配置                    配置有 2 处错误：\n" in output
    assert "- batch_size 应当是不小于 1 的整数" in output
    assert "跳过  GPU                     先改正配置" in output
    assert output.endswith("1 项失败，现在还不能训练：配置\n")


def test_an_unreadable_command_line_ends_with_exit_code_2(root: Path) -> None:
    result = run_script(root, "--batchsize", "2")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "错误：认不出命令行参数 --batchsize，是不是想写 --batch_size？\n"


@pytest.mark.parametrize("package", ["torch", "packaging"])
def test_a_missing_package_is_a_row_and_no_traceback(root: Path, tmp_path: Path, package: str) -> None:
    argv = ("--pre_model", "models/chatglm-tiny", "--save_dir", str(tmp_path / "run"))
    result = run_script(root, *argv, blocked=(package,))
    assert result.returncode == 1
    assert f"缺少软件包 {package}" in result.stdout
    assert "→ pip install -r requirements.txt" in result.stdout
    assert "Traceback" not in result.stderr + result.stdout


def test_without_bitsandbytes_there_is_no_4bit_but_a_row_about_it(root: Path, tmp_path: Path) -> None:
    argv = ("--pre_model", "models/chatglm-tiny", "--save_dir", str(tmp_path / "run"), "--device", "cpu")
    result = run_script(root, *argv, blocked=("bitsandbytes",))
    assert result.returncode == 0, result.stderr
    assert "改为不量化加载" in result.stdout and "可以训练" in result.stdout


def test_help_needs_nothing_but_python(root: Path) -> None:
    result = run_script(root, "--help", blocked=("torch", "transformers", "packaging", "pytest", "numpy"))
    assert result.returncode == 0
    assert "--pre_model" in result.stdout


def test_what_a_check_raises_becomes_a_row(
    config: ProjectConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(config: ProjectConfig) -> Any:
        yield Result(PASSED, "一半", "好")
        raise RuntimeError("没有料到")

    monkeypatch.setattr(checks, "check_output", broken)
    results = run_check("输出目录", config)
    assert results[0] == (PASSED, "一半", "好", "")
    assert results[1] == (FAILED, "输出目录", "RuntimeError: 没有料到", "加 --debug 可看完整的调用栈")
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["test_training.py", "--debug"])
    run_check("输出目录", config)
    assert "Traceback" in capsys.readouterr().err
