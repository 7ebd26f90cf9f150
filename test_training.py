"""Environment check: can training run here with the present configuration? A script, and a pytest module."""

from __future__ import annotations

import importlib
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from glm_config import ProjectConfig
from training import options
from training.checks import FAILED, INSTALL, SKIPPED, Check, Result
from utils.common_utils import PROJECT, UserError, log, quiet_libraries, run_main, visible
from utils.knobs import parse_overrides
from utils.table import pad

# The rows, in the order in which they are printed; those of `device_checks` need torch.
CHECKS = {
    "Python": "checks.check_python",
    "软件包": "checks.check_packages",
    "配置": "checks.check_config",
    "GPU": "device_checks.check_gpu",
    "计算类型": "device_checks.check_precision",
    "内存": "device_checks.check_memory",
    "4-bit 量化": "device_checks.check_quantisation",
    "数据文件": "checks.check_data_files",
    "数据": "device_checks.check_data",
    "模型": "device_checks.check_model",
    "训练一步": "device_checks.check_training_step",
    "磁盘": "device_checks.check_disk",
    "输出目录": "checks.check_output",
}
OF_THE_MACHINE = ("GPU", "内存", "模型")  # may fail for the default 6B model where it can't run


def run_check(name: str, config: ProjectConfig) -> list[Result]:
    """Run one check; whatever it raises becomes a failed row."""
    results: list[Result] = []
    module, _, function = CHECKS[name].partition(".")
    try:
        check: Check = getattr(importlib.import_module(f"training.{module}"), function)
        results.extend(check(config))
    except ImportError as error:
        results.append(Result(FAILED, name, f"缺少软件包 {error.name or error}", INSTALL))
    except ValueError as error:  # the project's own errors among them: a Chinese sentence with its remedy
        results.append(Result(FAILED, name, str(error)))
    except Exception as error:  # the point of this script is to show what does not work
        detail = f"{type(error).__name__}: {error}"
        results.append(Result(FAILED, name, detail, "加 --debug 可看完整的调用栈"))
        if "--debug" in sys.argv:
            log(traceback.format_exc())
    return results


def print_row(status: str, item: str, detail: str, remedy: str = "") -> None:
    """Print one row of the table, the remedy below it."""
    indent = "\n" + " " * 30
    print(f"{pad(status, 6)}{pad(item, 24)}{visible(detail).replace(chr(10), indent)}", flush=True)
    if remedy:
        print(f"{' ' * 30}→ {visible(remedy)}", flush=True)


def main() -> int:
    """Print the table of all checks; exit code 0 only if training can run."""
    config = ProjectConfig()
    given = parse_overrides(config, sys.argv[1:], "检查这台机器能否用当前配置训练；参数与 train.py 相同。")
    quiet_libraries()
    print_row("状态", "检查项", "结果与怎么办")
    failed = []
    options.prefer_resuming(config, given)
    if not config.problems():
        try:
            options.settle_save_dir(config, given)
            options.settle(config, given, log)
        except UserError as error:
            print_row(FAILED, "继续训练", str(error))
            failed.append("继续训练")
    for name in CHECKS:
        skip = "配置" in failed  # the checks after it rely on sound knobs
        results = [Result(SKIPPED, name, "先改正配置")] if skip else run_check(name, config)
        for result in results:
            print_row(*result)
        failed += [result.item for result in results if result.status == FAILED]
    if failed:
        print(f"\n{len(failed)} 项失败，现在还不能训练：{'、'.join(failed)}")
        return 1
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    print("\n可以训练：" + shlex.join(["python", "train.py", *arguments]))
    return 0


# Under pytest: every check on the embedded base; those of the machine also on the configuration as it stands.


def pytest_generate_tests(metafunc: Any) -> None:
    """One test per check (a hook, so that the script needs no pytest)."""
    cases = [(name, True) for name in CHECKS] + [(name, False) for name in OF_THE_MACHINE]
    ids = [
        f"{CHECKS[name].rpartition('.')[2]}-{'embedded' if embedded else 'configured'}"
        for name, embedded in cases
    ]
    metafunc.parametrize(("check", "on_embedded_base"), cases, ids=ids)


def test_environment(check: str, on_embedded_base: bool, monkeypatch: Any, tmp_path: Path) -> None:
    """The check finds no failure; on the configured model one is a reason to skip."""
    import pytest

    config = ProjectConfig()
    options.settle_data_paths(config, ())
    config.save_dir, config.token_cache_dir = str(tmp_path / "run"), str(tmp_path / "cache")
    if on_embedded_base:
        config.pre_model = str(PROJECT / "models" / "chatglm-tiny")
    for result in run_check(check, config):
        if result.status == FAILED and not on_embedded_base:
            pytest.skip(f"{result.item}：{result.detail}")
        assert result.status != FAILED, f"{result.item}：{result.detail} → {result.remedy}"


def command() -> NoReturn:
    """Run the script as an installed command."""
    run_main(main)


if __name__ == "__main__":
    command()
