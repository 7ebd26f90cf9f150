"""What every command needs: exit codes, talk, seeding."""

from __future__ import annotations

import errno
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from utils import common_utils
from utils.common_utils import UserError, run_main, with_short_lines


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("缺少文件，请补上。"), 2, "错误：缺少文件，请补上。"),
        (KeyError("x"), 2, "错误：'x'"),
        (KeyboardInterrupt(), 130, "已中断"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 2, "错误：路径 xxx"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/a"), 2, "路径 /root/a 不能用（Permission"),
    ],
)
def test_run_main_turns_errors_into_exit_codes(error: BaseException, code: int, said: str, capsys) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as exit_info:
        run_main(main, user_errors=(KeyError,))
    assert exit_info.value.code == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_run_main_passes_codes_on() -> None:
    for result, code in ((None, 0), (0, 0), (3, 3)):
        with pytest.raises(SystemExit) as exit_info:
            run_main(lambda result=result: result)
        assert exit_info.value.code == code


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--debug"])

    def main() -> None:
        raise UserError("坏了。")

    with pytest.raises(SystemExit):
        run_main(main)
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away(root: Path) -> None:
    """`command | head -1` ends without a traceback."""
    loop = "[print('x' * 100) for _ in range(100000)]"
    code = f"from utils.common_utils import run_main\nrun_main(lambda: {loop} and 0)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_a_stdout_that_is_full(root: Path) -> None:
    code = "from utils.common_utils import run_main\nrun_main(lambda: print('x') or 0)"
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, "-c", code], cwd=root, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert process.returncode == 1 and process.stderr.startswith("错误：结果写不出去（No space left")


def test_seeding_repeats_every_generator() -> None:
    import random

    import numpy as np

    draws = []
    for _ in range(2):
        common_utils.set_seed(5)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    assert draws[0] == draws[1]


def test_libraries_are_quiet(capsys) -> None:
    with warnings.catch_warnings():
        common_utils.quiet_libraries()
        warnings.warn_explicit("old", FutureWarning, "peft/x.py", 1, module="peft.x")
        with pytest.warns(UserWarning, match="mine"):
            warnings.warn("mine", UserWarning, stacklevel=1)
    assert "old" not in capsys.readouterr().err


def test_a_stderr_that_is_gone_ends_nothing(root: Path) -> None:
    code = "import os; os.close(2); from utils.common_utils import log; log('x'); print('alive')"
    result = subprocess.run([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, check=True)
    assert result.stdout == b"alive\n"


def test_errors_that_quote_something_endless_are_cut() -> None:
    text = with_short_lines("开头" + "x" * 10**6 + "结尾\n第二行")
    assert len(text) < 2000 and text.startswith("开头") and text.endswith("结尾\n第二行")
    assert with_short_lines("短") == "短"
