"""inference_triplet.py as users run it: real processes, pipes, a terminal, signals."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inference_triplet import main
from tests.helpers.extraction_samples import (
    FILM,
    FILM_TRIPLETS,
    NOVEL,
    NOVEL_TRIPLETS,
    RAIN,
    TinyRun,
    make_base,
)
from utils.common_utils import UserError

SCRIPT = Path(__file__).resolve().parents[2] / "inference_triplet.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "TERM": "xterm"}
TIMEOUT = 300


def command(*argv: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, argv)]


def run(*argv: object, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*argv),
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env=ENVIRONMENT,
        cwd=cwd,
        timeout=TIMEOUT,
        check=False,
    )


def test_help_is_quick() -> None:
    before = os.times()
    done = run("--help")
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.0
    assert done.returncode == 0
    assert "--interactive" in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--text"], "--text 后面缺少取值"),
        (["--text", ""], "--text 不能抽取"),
        (["--nope"], "认不出命令行参数 --nope"),
        (["--text", "甲", "--evaluate", "a"], "--evaluate 不能与 --text 同时使用"),
        (["--input", "a.txt"], "--input 与 --output 要一起使用"),
    ],
)
def test_mistakes_end_with_one_sentence(tmp_path: Path, argv: list[str], message: str) -> None:
    done = run(*argv, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("错误：")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adapter", "nowhere"], "^找不到适配器 nowhere"),
        (["--no-adapter", "--pre_model", "nowhere"], "^找不到模型“nowhere”"),
    ],
)
def test_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main(["--text", FILM, *words])


def test_a_missing_adapter_is_said_before_torch_is_loaded(root: Path, tmp_path: Path) -> None:
    code = (
        "import contextlib, sys, inference_triplet\n"
        "with contextlib.suppress(inference_triplet.UserError):\n"
        f"    inference_triplet.main(['--text', 'x', '--adapter', {str(tmp_path / 'nowhere')!r}])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=root, timeout=TIMEOUT, check=False).returncode == 0
    )


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("--text", FILM, "--evaluate", "a", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_text_into_json_tool(tiny_run: TinyRun) -> None:
    words = shlex.join(command("--adapter", tiny_run.adapter, "--text", FILM))
    pipeline = f"set -o pipefail; {words} | {shlex.quote(sys.executable)} -m json.tool --no-ensure-ascii"
    done = subprocess.run(
        ["bash", "-c", pipeline],
        capture_output=True,
        encoding="utf-8",
        env=ENVIRONMENT,
        timeout=TIMEOUT,
        check=True,
    )
    assert json.loads(done.stdout) == [triplet._asdict() for triplet in FILM_TRIPLETS]
    unchecked = f"注意：适配器 {tiny_run.adapter} 没有 manifest.json，它的文件有没有损坏或被改过，无法核对。"
    assert done.stderr.splitlines() == [f"加载模型 {tiny_run.base} …", unchecked]


def test_demo(tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--adapter", str(tiny_run.adapter)])
    captured = capsys.readouterr()
    decoder, lists, rest = json.JSONDecoder(), [], captured.out
    while rest:
        value, end = decoder.raw_decode(rest)
        lists.append(value)
        rest = rest[end:].lstrip()
    assert lists[0] == [triplet._asdict() for triplet in FILM_TRIPLETS]
    sentences = [line for line in captured.err.splitlines() if line.startswith("句子：")]
    assert len(sentences) == 5
    # The tiny model knows five sentences of its own; each of the demo's gives a list or a reason.
    reasons = captured.err.count("没有结果：")
    assert len(lists) == 5 - reasons
    assert code == (1 if reasons else 0)


def test_interactive_piped(tiny_run: TinyRun) -> None:
    done = run("--adapter", tiny_run.adapter, "--interactive", stdin=f"{NOVEL}\nexit\n{FILM}\n")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {
        "text": NOVEL,
        "triplets": [triplet._asdict() for triplet in NOVEL_TRIPLETS],
    }


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + TIMEOUT
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, "ended before it could be interrupted"
        assert time.monotonic() < end
        time.sleep(0.002)


def test_killed_and_interrupted_runs_resume_to_the_same_file(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentences = [FILM, NOVEL, RAIN] * 60
    source, output, whole = tmp_path / "in.txt", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    source.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    argv = ["--adapter", str(tiny_run.adapter), "--input", str(source), "--batch_size", "4", "--output"]
    assert main([*argv, str(whole)]) == 0
    expected = [FILM_TRIPLETS, NOVEL_TRIPLETS, []] * 60
    assert [json.loads(line) for line in whole.open(encoding="utf-8")] == [
        {"text": sentence, "triplets": [triplet._asdict() for triplet in triplets]}
        for sentence, triplets in zip(sentences, expected, strict=True)
    ]

    with subprocess.Popen(command(*argv, output), env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        wait_for_lines(output, 5, process)
        process.kill()
    first = output.read_bytes()
    assert 5 <= first.count(b"\n") < len(sentences)
    assert whole.read_bytes().startswith(first)
    output.write_bytes(first[:-20])  # as if the machine had gone down in the middle of a line

    with subprocess.Popen(command(*argv, output), env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
        wait_for_lines(output, first.count(b"\n") + 5, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT)
    second = output.read_bytes()
    done = second.count(b"\n")
    assert process.returncode == 130
    assert f"已有 {done} 行结果，重新运行同一命令即可继续" in err.decode()
    assert done < len(sentences)

    capsys.readouterr()
    assert main([*argv, str(output)]) == 0
    assert output.read_bytes() == whole.read_bytes()
    assert f"其中 {done} 行是上次完成的" in capsys.readouterr().err


class Terminal:
    """A process on a pseudo-terminal, its stdout in a pipe."""

    def __init__(self, argv: list[str], cwd: Path) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            argv,
            stdin=slave,
            stderr=slave,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=self._take_terminal,
        )
        os.close(slave)
        self._screen = ""

    @staticmethod
    def _take_terminal() -> None:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def expect(self, text: str) -> None:
        """Wait until `text` has appeared since the last call."""
        end = time.monotonic() + TIMEOUT
        while text not in self._screen:
            assert time.monotonic() < end, self._screen
            if select.select([self._master], [], [], 0.1)[0]:
                data = os.read(self._master, 65536)
                if b"\x1b[6n" in data:  # where is the cursor?
                    os.write(self._master, b"\x1b[1;1R")
                self._screen += data.decode("utf-8", "replace")
        self._screen = self._screen.split(text, 1)[1]

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def finish(self) -> tuple[int, str]:
        """Wait for the end; return exit code and stdout."""
        out, _ = self.process.communicate(timeout=TIMEOUT)
        os.close(self._master)
        return self.process.returncode, out.decode()


def test_interactive_on_a_terminal(tmp_path: Path) -> None:
    make_base(tmp_path / "base")  # random weights: its answers are long
    # Free decoding: under the constraint an answer may be complete before the Ctrl-C comes.
    options = ("--free-decoding", "--max_new_tokens", 1700, "--interactive")
    argv = command("--no-adapter", "--pre_model", "base", *options)
    terminal = Terminal(argv, tmp_path)
    terminal.expect("句子>")
    terminal.type("今天下雨。\r")
    time.sleep(1.0)
    terminal.type("\x03")  # during the generation
    terminal.expect("已停止这一句的生成")
    terminal.expect("句子>")
    terminal.type("半句\x03")  # at the prompt
    terminal.expect("再按一次 Ctrl-C 退出")
    terminal.expect("句子>")
    terminal.type("\x04")
    assert terminal.finish() == (0, "")
