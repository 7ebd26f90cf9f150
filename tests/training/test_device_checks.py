"""The checks that need torch, row by row: what passes, what is refused and how."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bases.chatglm import ChatGLMTokenizer
from bases.linear8bit import Linear8bit
from data_handle.data_loader import load_data
from glm_config import ProjectConfig
from test_training import run_check
from training.checks import FAILED, NOTE, PASSED, SKIPPED, Result
from training.device_checks import (
    DEMO_OVERHEAD,
    DEMO_TOKENS,
    EMBEDDED_BASE,
    estimate_output_bytes,
)
from utils import requirements
from utils.directories import write_directory

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="shows what is said without a GPU")
FREE_GPU = SimpleNamespace(free=20e9, total=24e9, count=1, bf16=True)


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
def model_dir(tmp_path: Path, config: ProjectConfig) -> Path:
    """A copy of the embedded base to damage; the config points to it."""
    path = Path(shutil.copytree(EMBEDDED_BASE, tmp_path / "model"))
    config.pre_model = str(path)
    return path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Make torch report a 24 GB GPU; its answers can be changed by the test."""
    answers = SimpleNamespace(**vars(FREE_GPU))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: answers.count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "RTX 4090")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: answers.bf16)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (answers.free, answers.total))
    return answers


def only(results: list[Result]) -> Result:
    (result,) = results
    return result


# -- Python, packages


def test_an_old_python_fails(config: ProjectConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(run_check("Python", config)).status == PASSED
    monkeypatch.setattr(sys, "version_info", (3, 8, 10, "final", 0))
    assert only(run_check("Python", config)) == (FAILED, "Python", "3.8.10", "请安装 Python 3.11 或更高版本")


def test_another_version_of_a_package_is_a_note(
    config: ProjectConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"tqdm": "4.0.0", "torch": "2.13.0+cu130"}
    real = requirements.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: versions.get(name) or real(name))
    rows = {row.item: row for row in run_check("软件包", config)}
    assert rows["软件包 tqdm"].status == NOTE
    assert rows["软件包 tqdm"].detail.startswith("4.0.0，与测试过的 ==")
    assert rows["软件包 torch"] == (PASSED, "软件包 torch", "2.13.0+cu130", "")


def test_a_package_that_is_not_installed_fails(
    config: ProjectConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        raise requirements.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    rows = run_check("软件包", config)
    assert {row.status for row in rows} == {FAILED}
    assert rows[0] == (FAILED, "软件包 torch", "未安装（需要 ==2.13.0）", "pip install -r requirements.txt")


# -- GPU and memory


def test_gpu_rows(config: ProjectConfig, gpu: SimpleNamespace) -> None:
    config.pre_model = "THUDM/chatglm-6b"
    assert only(run_check("GPU", config)).status == PASSED
    assert only(run_check("GPU", config)).detail.startswith("RTX 4090（CUDA ")
    config.bf16, gpu.bf16 = True, False
    assert "不支持 BF16，请改用 --bf16 false" in only(run_check("GPU", config)).detail
    config.bf16, config.device = False, "cuda:1"
    row = only(run_check("GPU", config))
    assert row.status == FAILED and "指定了 --device cuda:1，但可用的 CUDA GPU 有 1 块" in row.detail


@WITHOUT_GPU
def test_gpu_rows_without_a_gpu(config: ProjectConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(run_check("GPU", config)).status == PASSED
    config.device = "cpu"
    config.pre_model = "THUDM/chatglm-6b"
    assert only(run_check("GPU", config)).status == NOTE
    config.device = "cuda"
    row = only(run_check("GPU", config))
    assert row.status == FAILED and "指定了 --device cuda，但可用的 CUDA GPU 有 0 块" in row.detail
    config.device = None
    for cuda, tool, reason in (
        (None, None, "安装的 PyTorch 是 CPU 版"),
        ("13.0", None, "没有 NVIDIA GPU"),
        ("13.0", "/usr/bin/nvidia-smi", "有 NVIDIA 驱动但 CUDA 不可用（驱动过旧？）"),
    ):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(shutil, "which", lambda name, tool=tool: tool)
        row = only(run_check("GPU", config))
        assert row.status == FAILED
        assert f"没有可用的 CUDA GPU（{reason}），而 THUDM/chatglm-6b 有 6.2B 参数。" in row.detail


@WITHOUT_GPU
@pytest.mark.parametrize(
    ("native", "expected"),
    [
        (True, r"CPU 有 BF16 乘法指令，\d+ 个线程；BF16 混合精度"),
        (False, r"CPU 没有 BF16 乘法指令.*；FP32（"),
    ],
)
def test_the_precision_row(
    config: ProjectConfig, monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    monkeypatch.setattr("utils.device.multiplies_bf16", lambda: native)
    monkeypatch.setattr("training.device_checks.multiplies_bf16", lambda: native)
    assert re.match(expected, only(run_check("计算类型", config)).detail)


def test_gpu_memory_rows(config: ProjectConfig, gpu: SimpleNamespace, tmp_path: Path) -> None:
    config.pre_model = str(tmp_path / "not-there")  # then the published sizes are assumed
    row = only(run_check("内存", config))
    assert (row.status, row.item) == (PASSED, "显存")
    assert "不用；每次前向至多 3072 个 token" in row.detail
    gpu.free = 6.8e9
    assert "梯度检查点：所有层" in only(run_check("内存", config)).detail
    gpu.free = 3e9
    row = only(run_check("内存", config))
    assert row.status == FAILED
    assert "nvidia-smi" in row.detail and "--max_source_seq_len 128 --max_target_seq_len 64" in row.detail


@WITHOUT_GPU
def test_memory_rows_on_the_cpu(config: ProjectConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(available=8e9, total=16e9)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    row = only(run_check("内存", config))
    assert (row.status, row.item) == (PASSED, "内存")
    memory.available = 1e8
    assert only(run_check("内存", config)).status == FAILED
    config.pre_model = "THUDM/chatglm-6b"
    assert only(run_check("内存", config)).status == SKIPPED


# -- 4-bit and the training step


def test_a_quantised_layer_that_computes_nonsense_fails(
    config: ProjectConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsandbytes.nn import Linear4bit

    assert only(run_check("4-bit 量化", config)).status == PASSED
    monkeypatch.setattr(Linear4bit, "forward", lambda self, x: x * 3)
    row = only(run_check("4-bit 量化", config))
    assert row.status == FAILED and "重装 bitsandbytes" in row.detail and "load_in_4bit" in row.detail
    monkeypatch.setattr(Linear4bit, "forward", lambda self, x: (x * 3).detach().requires_grad_())
    assert "梯度范数 nan" in only(run_check("4-bit 量化", config)).detail
    config.load_in_4bit = False
    assert only(run_check("4-bit 量化", config)).status == SKIPPED
    config.load_in_8bit = True
    row = only(run_check("4-bit 量化", config))
    assert row.status == PASSED and row.item == "8-bit 量化" and "8-bit 前向相对误差 0.0" in row.detail
    monkeypatch.setattr(Linear8bit, "forward", lambda self, x: x * 3)
    assert "8-bit 量化算得不对" in only(run_check("4-bit 量化", config)).detail


def test_a_training_step_on_the_embedded_base(config: ProjectConfig) -> None:
    row, speed = run_check("训练一步", config)
    assert row.status == PASSED, row
    tokens = float(speed.detail.split("个 token，")[1].split(" ")[0].replace(",", ""))
    minutes = float(speed.detail.split("约需 ")[1].split(" ")[0])
    assert tokens > 0 and minutes == pytest.approx(
        DEMO_TOKENS / tokens * DEMO_OVERHEAD / 60, abs=0.1, rel=0.05
    )
    before, after = (float(word) for word in row.detail.split("loss ")[1].split("，")[0].split(" → "))
    assert 0 < before < 20
    assert 0 < after < before + 0.1


def test_the_demo_is_as_long_as_the_estimate_takes_it_to_be(root: Path) -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(EMBEDDED_BASE)
    limits = {"max_source_seq_len": 256, "max_target_seq_len": 128}
    data = load_data(root / "data" / "mixed_train_dataset.jsonl", tokenizer, **limits)
    epochs = re.search(r"--epochs (\d+)", (root / "Makefile").read_text("utf-8"))
    assert epochs is not None and int(epochs[1]) * data.summary.tokens == DEMO_TOKENS


def test_a_training_step_without_gradient_fails(
    config: ProjectConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, limit: torch.tensor(0.0))
    assert only(run_check("训练一步", config)).status == FAILED


# -- data


def test_data_rows(config: ProjectConfig, tmp_path: Path) -> None:
    train, dev = run_check("数据", config)
    assert (train.status, train.item, dev.status, dev.item) == (PASSED, "训练集", PASSED, "验证集")
    path = tmp_path / "data.jsonl"
    lines = Path(config.dev_path).read_text("utf-8").splitlines()[:30]
    path.write_text("\n".join([*lines, "{broken"]) + "\n", encoding="utf-8")
    config.train_path, config.dev_path = str(path), ""
    train, dev, split = run_check("数据", config)
    assert (
        train.status == NOTE and "跳过坏数据 1 行，如" in train.detail and "data_preprocess" in train.remedy
    )
    assert split.status == NOTE and "从" in split.detail and "分出" in split.detail
    config.schema_prompt = True
    room = run_check("数据", config)[-1]
    assert (room.status, room.item) == (PASSED, "提示词里的关系") and "至多放得下" in room.detail
    config.schema_prompt = False
    config.strict_data = True
    assert only(run_check("数据", config)).status == FAILED
    config.strict_data, config.dev_path = False, str(tmp_path / "missing.jsonl")
    row = only(run_check("数据", config))
    assert row.status == FAILED and "missing.jsonl" in row.detail
    row = only(run_check("数据文件", config))
    assert row.status == FAILED and "请检查 dev_path" in row.detail


# -- the model directory


def test_model_rows(config: ProjectConfig) -> None:
    model, tokenizer = run_check("模型", config)
    assert (model.status, model.item, tokenizer.status, tokenizer.item) == (PASSED, "模型", PASSED, "分词器")
    assert "个权重文件共" in model.detail


def test_a_model_that_is_not_there_fails(config: ProjectConfig, tmp_path: Path) -> None:
    config.pre_model = str(tmp_path / "nowhere")
    row = only(run_check("模型", config))
    assert row.status == FAILED and "找不到模型" in row.detail


def test_a_model_in_the_hub_cache_is_found_under_its_name(
    config: ProjectConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--THUDM--chatglm-6b"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    shutil.copytree(EMBEDDED_BASE, repository / "snapshots" / ("a" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    config.pre_model = "THUDM/chatglm-6b"
    model, tokenizer = run_check("模型", config)
    assert (model.status, tokenizer.status) == (PASSED, PASSED)
    assert "models--THUDM--chatglm-6b" in model.detail


def weight_files(model_dir: Path) -> list[Path]:
    return sorted(path for path in model_dir.iterdir() if path.suffix in (".safetensors", ".bin"))


def test_a_missing_weight_file_fails(config: ProjectConfig, model_dir: Path) -> None:
    weight_files(model_dir)[-1].unlink()
    assert run_check("模型", config)[0].status == FAILED


def test_a_truncated_weight_file_fails(config: ProjectConfig, model_dir: Path) -> None:
    path = weight_files(model_dir)[0]
    path.write_bytes(path.read_bytes()[:-1000])
    row = run_check("模型", config)[0]
    assert row.status == FAILED and f"{path.name} 已损坏" in row.detail and "请重新下载" in row.detail


def test_weights_fewer_than_the_config_asks_for_fail(config: ProjectConfig, model_dir: Path) -> None:
    path = model_dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"num_layers": 99}), "utf-8")
    row = run_check("模型", config)[0]
    assert row.status == FAILED and "的权重缺少 1068 个参数" in row.detail


def test_a_config_that_does_not_allow_the_lengths_or_is_damaged_fails(
    config: ProjectConfig, model_dir: Path
) -> None:
    path = model_dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"max_sequence_length": 300}), "utf-8")
    row = run_check("模型", config)[0]
    assert row.status == FAILED and "只支持 300 个 token，而配置要 384 个，请减小" in row.detail
    path.write_text("{", "utf-8")
    assert run_check("模型", config)[0].status == FAILED


def test_a_model_without_its_tokenizer_fails(config: ProjectConfig, model_dir: Path) -> None:
    (model_dir / "ice_text.model").unlink()
    row = only(run_check("模型", config))
    assert row.status == FAILED and "缺少分词模型 ice_text.model" in row.detail


def test_a_tokenizer_that_does_not_give_the_text_back_fails(
    config: ProjectConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bases.chatglm.ChatGLMTokenizer.decode", lambda self, ids: "别的话")
    row = only(run_check("模型", config))
    assert row.status == FAILED and "不配套" in row.detail


# -- disk and output


def test_disk_rows(config: ProjectConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(run_check("磁盘", config)).status == PASSED
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    row = only(run_check("磁盘", config))
    assert row.status == FAILED and "--save_total_limit" in row.detail


def test_output_rows(config: ProjectConfig, tmp_path: Path) -> None:
    assert only(run_check("输出目录", config)).status == PASSED
    assert not Path(config.save_dir).exists()
    (Path(config.save_dir) / "model_best").mkdir(parents=True)
    assert "已有训练结果" in only(run_check("输出目录", config)).detail
    config.overwrite_output_dir = True
    assert only(run_check("输出目录", config)).status == PASSED
    config.overwrite_output_dir = False
    (Path(config.save_dir) / "checkpoint-1").mkdir()  # of no use
    config.resume_from_checkpoint = "auto"
    row = only(run_check("输出目录", config))
    assert row.status == FAILED and "没有可继续的完整检查点" in row.detail
    write_directory(tmp_path / "elsewhere" / "checkpoint-1", lambda new: (new / "training_state.pt").touch())
    config.resume_from_checkpoint = str(tmp_path / "elsewhere" / "checkpoint-1")
    assert "已有训练结果" in only(run_check("输出目录", config)).detail
    config.save_dir = str(tmp_path / "elsewhere")
    assert only(run_check("输出目录", config)).status == PASSED
    config.resume_from_checkpoint = None
    (tmp_path / "file").touch()
    config.save_dir = str(tmp_path / "file" / "run")
    assert "是文件，不是目录" in only(run_check("输出目录", config)).detail


def test_an_unwritable_folder_fails(config: ProjectConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> None:
        raise PermissionError

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    row = only(run_check("输出目录", config))
    assert row.status == FAILED and "不可写" in row.detail


def test_what_a_run_writes() -> None:
    # 3 checkpoints and the one being written (weights and two moments in fp32), the best adapter, logs
    assert estimate_output_bytes(1_000_000, 3) == 4 * 12_000_000 + 4_000_000 + 50_000_000
