"""Checks before training that need no torch; those that do are in `device_checks`.

Each is here once: `train.py` refuses to start where one fails, `test_training.py` prints all of them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from glm_config import ProjectConfig
from training.run_directory import foreign_files, has_foreign_results, list_checkpoints
from utils.command_line import summarise
from utils.common_utils import PROJECT, UserError
from utils.requirements import read_requirements

OLDEST_PYTHON = (3, 11)  # of transformers 5.24
PASSED, NOTE, FAILED, SKIPPED = "通过", "提示", "失败", "跳过"
INSTALL = "pip install -r requirements.txt"


class Result(NamedTuple):
    """One row of the table; `remedy` says what to do if it is not a pass."""

    status: str
    item: str
    detail: str
    remedy: str = ""


# A check yields rows. A failure that ends `train.py` too is raised, as the sentence that it ends with.
Check = Callable[[ProjectConfig], Iterator[Result]]


def refuse_failures(config: ProjectConfig, checks: Iterable[Check]) -> None:
    """Run checks for `train.py`.

    Raises:
        UserError: what failed, all of it.
    """
    problems = []
    for check in checks:
        try:
            problems += [
                f"{row.item}：{row.detail}；{row.remedy}。" for row in check(config) if row.status == FAILED
            ]
        except ValueError as error:  # the project's own errors: a Chinese sentence with its remedy
            problems.append(str(error))
        except Exception:  # what comes of an earlier failure, a missing device for example
            if not problems:
                raise
    if problems:
        raise UserError(summarise("现在还不能训练，", problems))


def check_python(config: ProjectConfig) -> Iterator[Result]:
    """The interpreter is new enough."""
    current = tuple(sys.version_info[:3])
    version = ".".join(map(str, current))
    if current >= OLDEST_PYTHON:
        yield Result(PASSED, "Python", version)
    else:
        yield Result(FAILED, "Python", version, "请安装 Python {}.{} 或更高版本".format(*OLDEST_PYTHON))


def check_packages(config: ProjectConfig) -> Iterator[Result]:
    """Every package of requirements.txt is installed, in the version that it names."""
    for package in read_requirements(PROJECT / "requirements.txt"):
        item = f"软件包 {package.name}"
        if package.installed is None:
            yield Result(FAILED, item, f"未安装（需要 {package.wanted}）", INSTALL)
        elif package.satisfied:
            yield Result(PASSED, item, package.installed)
        else:
            detail = f"{package.installed}，与测试过的 {package.wanted} 不同"
            yield Result(NOTE, item, detail, f"若后面有失败的项目，先运行 {INSTALL}")


def check_config(config: ProjectConfig) -> Iterator[Result]:
    """Every knob is sound."""
    try:
        config.validate()
    except UserError as error:
        yield Result(FAILED, "配置", str(error), "修改 glm_config.py 或命令行参数")
    else:
        yield Result(PASSED, "配置", f"{len(config.to_dict())} 个参数")


def check_data_files(config: ProjectConfig) -> Iterator[Result]:
    """The data files are there.

    Raises:
        UserError: one isn't.
    """
    for name in ("train_path", "dev_path"):
        path = getattr(config, name)
        if path and not Path(path).is_file():
            raise UserError(f"找不到数据文件 {path}，请检查 {name}（格式见 README 的“数据格式”）。")
    yield Result(PASSED, "数据文件", "、".join(path for path in (config.train_path, config.dev_path) if path))


def check_output(config: ProjectConfig) -> Iterator[Result]:
    """Files can be written where the run will save, and nothing there is in the way.

    Raises:
        UserError: they can't, or something is; or there is no checkpoint to resume from.
    """
    save_dir = Path(config.save_dir)
    directory = nearest_directory(save_dir)
    if not directory.is_dir():
        raise UserError(f"{directory} 是文件，不是目录，请用 --save_dir 换一个输出目录。")
    if not is_writable_directory(directory):
        raise UserError(f"输出目录 {directory} 不可写，请检查权限或换一个 --save_dir。")
    if has_foreign_results(save_dir, config.resume_from_checkpoint, config.overwrite_output_dir):
        resume = "继续训练请加 --resume_from_checkpoint auto；" if list_checkpoints(save_dir) else ""
        raise UserError(
            f"{save_dir} 里已有训练结果。{resume}"
            "清掉重来请加 --overwrite_output_dir；或用 --save_dir 换一个目录。"
        )
    if foreign := foreign_files(save_dir):
        raise UserError(
            f"{save_dir} 里的 {'、'.join(foreign)} 不是本项目的训练留下的，不会覆盖；"
            "请移走，或用 --save_dir 换一个目录。"
        )
    resumable = "" if config.resume_from_checkpoint is None else "，检查点可用"
    yield Result(PASSED, "输出目录", f"{save_dir} 可写{resumable}")


QUICK_CHECKS: tuple[Check, ...] = (check_data_files, check_output)


def nearest_directory(path: str | Path) -> Path:
    """The path itself or its nearest ancestor that exists (which may be no directory)."""
    path = Path(path).absolute()
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def is_writable_directory(path: str | Path) -> bool:
    """Tell whether files can be made in a directory, by making one that vanishes at once."""
    try:
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False
