"""Every command of the project speaks with one voice: version, spelling, unknown options."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from utils import __version__
from utils.common_utils import UserError

# Their `main` functions read sys.argv, or take its words.
COMMANDS = [
    "train",
    "inference_triplet",
    "serve",
    "extract_ray",
    "test_training",
    "bases.download",
    "benchmarks.bench_data",
    "benchmarks.bench_documents",
    "benchmarks.bench_graph",
    "benchmarks.bench_inference",
    "benchmarks.bench_serving",
    "benchmarks.bench_memory",
    "benchmarks.bench_schema",
    "benchmarks.bench_select",
    "benchmarks.bench_shares",
    "benchmarks.bench_training",
    "benchmarks.make_full_size_checkpoint",
    "data.build_mixed",
    "data_handle.convert",
    "data_handle.convert_duie",
    "data_handle.label_studio",
    "data_handle.lint_report",
    "export.graph",
    "export.hub",
    "export.merge",
    "export.quantized",
    "export.query",
    "export.request",
    "export.report",
    "tiny_base.corpus.__main__",
    "tiny_base.evaluate",
    "tiny_base.learning_curve",
    "tiny_base.pretrain",
    "tiny_base.train_tokenizer",
    "tools.architecture",
    "tools.first_triplet",
    "tools.pictures",
    "tools.sbom",
]


def test_no_command_is_forgotten(root: Path) -> None:
    found = {
        path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
        for folder in (
            "bases",
            "benchmarks",
            "data",
            "data_handle",
            "export",
            "extraction",
            "tiny_base",
            "tools",
            "training",
        )
        for path in (root / folder).rglob("*.py")
        if "run_main(" in path.read_text("utf-8")
    }
    assert {name for name in COMMANDS if "." in name} - {"data_handle.data_preprocess"} <= found


@pytest.mark.parametrize("name", COMMANDS)
def test_version_and_unknown_options(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", ["command", "--version"])
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 0
    assert capsys.readouterr().out.endswith(f" {__version__}\n")

    monkeypatch.setattr(sys, "argv", ["command", "--hepl"])
    with pytest.raises((UserError, SystemExit)) as caught:  # some mains leave the process themselves
        command.main()
    said = str(caught.value) if isinstance(caught.value, UserError) else capsys.readouterr().err
    assert "认不出命令行参数 --hepl，是不是想写 --help？" in said


@pytest.mark.parametrize("script", ["train.py", "test_training.py", "inference_triplet.py", "serve.py"])
def test_a_script_tells_all_mistakes_at_once_and_ends_with_2(root: Path, tmp_path: Path, script: str) -> None:
    words = ["--batch-size", "0", "--nosuch", "1", "--device=gpu"]
    words += [] if script in ("inference_triplet.py", "serve.py") else ["--fp16", "maybe"]
    done = subprocess.run(
        [sys.executable, root / script, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("错误：命令行") and lines[0].endswith(f"有 {len(lines) - 1} 处错误：")
    assert sum("--nosuch" in line for line in lines) == 1
    assert sum("batch_size 应" in line for line in lines) == 1
    assert list(tmp_path.iterdir()) == []
