"""Environment check: can training run here with the present configuration? A script, and a pytest module."""

from __future__ import annotations

import contextlib
import math
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from glm_config import ProjectConfig
from training.environment import (
    CPU_PARAMETER_LIMIT,
    estimate_output_bytes,
    is_whole_weight_file,
    is_writable_directory,
    nearest_directory,
    read_requirements,
)
from training.memory_plan import GB, ModelShape, TrainingSettings, lora_parameters, plan_memory, shape_of
from utils.command_line import parse_overrides
from utils.common_utils import UserError, log, quiet_libraries, run_main
from utils.device import compute_dtype
from utils.table import pad

if TYPE_CHECKING:
    import torch

    from bases.chatglm import ChatGLMConfig

ROOT = Path(__file__).resolve().parent
EMBEDDED_BASE = ROOT / "models" / "chatglm-tiny"
OLDEST_PYTHON = (3, 11)  # of transformers 5.24
PASSED, NOTE, FAILED, SKIPPED = "通过", "提示", "失败", "跳过"
INSTALL = "pip install -r requirements.txt"
USE_EMBEDDED_BASE = "没有 GPU 或权重时先用内置小模型：--pre_model models/chatglm-tiny"


class Result(NamedTuple):
    """One row of the table; `remedy` says what to do if it is not a pass."""

    status: str
    item: str
    detail: str
    remedy: str = ""


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
    for package in read_requirements(ROOT / "requirements.txt"):
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


def check_gpu(config: ProjectConfig) -> Iterator[Result]:
    """There is a GPU where the model needs one, and it can do what the config asks for."""
    import torch

    device = training_device(config)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            yield Result(FAILED, "GPU", f"device 是 {config.device}，但 {_why_no_cuda()}", USE_EMBEDDED_BASE)
            return
        if (device.index or 0) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            yield Result(FAILED, "GPU", f"没有 {device}，只有 {count} 块 GPU", "把 device 改为 none")
            return
        name = f"{torch.cuda.get_device_name(device)}（CUDA {torch.version.cuda}）"
        if config.bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
            yield Result(FAILED, "GPU", f"{name} 不支持 BF16", "改用 --bf16 false --fp16 true")
        else:
            yield Result(PASSED, "GPU", name)
    elif config.device == "cpu":
        yield Result(NOTE, "GPU", "device 是 cpu，在 CPU 上训练", "有 GPU 时把 device 改为 none")
    elif model_shape(config).parameters > CPU_PARAMETER_LIMIT:
        size = f"{model_shape(config).parameters / 1e9:.1f}B 参数的模型需要 GPU"
        yield Result(FAILED, "GPU", f"{_why_no_cuda()}，而 {size}", f"换到有 GPU 的机器；{USE_EMBEDDED_BASE}")
    else:
        yield Result(PASSED, "GPU", f"{_why_no_cuda()}；模型很小，在 CPU 上训练")


def check_memory(config: ProjectConfig) -> Iterator[Result]:
    """The memory plan of the run fits the device."""
    import torch

    from bases.chatglm import CheckpointError, resolve_model_dir
    from bases.chatglm.files import largest_shard_bytes
    from utils.memory import memory_budget

    largest = 0  # weight file; another check tells of missing ones
    with contextlib.suppress(CheckpointError):
        largest = largest_shard_bytes(resolve_model_dir(config.pre_model))
    shape, device = model_shape(config), training_device(config)
    here = torch.cuda.is_available() if device.type == "cuda" else True
    needs_gpu = shape.parameters > CPU_PARAMETER_LIMIT and config.device is None
    unchecked = not here or (device.type == "cpu" and needs_gpu)
    on_cuda = device.type == "cuda" or needs_gpu
    budget = int(config.vram_budget_gb * GB) if unchecked else memory_budget(device, config.vram_budget_gb)
    settings = TrainingSettings.of(config.to_dict(), on_cuda, largest)
    plan = plan_memory(shape, settings, config.gradient_checkpointing, budget)
    item = "显存" if on_cuda else "内存"
    if unchecked:
        yield Result(SKIPPED, item, f"没有 GPU，未与实际显存比较；{plan.table()}")
    else:
        yield Result(PASSED, item, plan.table())


def check_4bit(config: ProjectConfig) -> Iterator[Result]:
    """A quantised layer computes nearly what the plain one does, and passes a gradient through."""
    if not config.load_in_4bit:
        yield Result(SKIPPED, "4-bit 量化", "load_in_4bit 已关闭")
        return
    import torch

    from bases.chatglm.linear4bit import replace_linear_4bit

    device = training_device(config)
    dtype = compute_dtype(device, fp16=config.fp16, bf16=config.bf16)
    name = "dense_h_to_4h"  # one of those that loading quantises
    block = torch.nn.ModuleDict({name: torch.nn.Linear(256, 256, bias=False)})
    replace_linear_4bit(block, compute_dtype=dtype)
    from bitsandbytes.nn import Params4bit  # not earlier: the line above keeps its import off the network

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 256, generator=generator) / 16
    inputs = torch.randn(8, 256, generator=generator).to(device, dtype).requires_grad_()
    layer = block[name]
    layer.weight = Params4bit(
        weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=layer
    ).to(device)
    outputs = layer(inputs)
    outputs.square().sum().backward()
    exact = inputs.detach().float().cpu() @ weight.T
    error = ((outputs.detach().float().cpu() - exact).norm() / exact.norm()).item()
    gradient = math.nan if inputs.grad is None else inputs.grad.float().norm().item()
    detail = f"{device} 上的 NF4 前向相对误差 {error:.3f}，梯度范数 {gradient:.3g}"
    if error < 0.2 and math.isfinite(gradient) and gradient > 0:
        yield Result(PASSED, "4-bit 量化", detail)
    else:
        yield Result(FAILED, "4-bit 量化", detail, f"重装 bitsandbytes：{INSTALL}；或关闭 load_in_4bit")


def check_data(config: ProjectConfig) -> Iterator[Result]:
    """Both data files can be read and hold examples."""
    from data_handle.reader import check_lines, iter_examples
    from utils.jsonl import BadLine

    for item, path in (("训练集", config.train_path), ("验证集", config.dev_path)):
        try:
            count, bad_lines = 0, []
            for line in iter_examples(path):  # without keeping them: the file may be large
                if isinstance(line, BadLine):
                    bad_lines.append(line)
                else:
                    count += 1
            check_lines(path, count, bad_lines, config.strict_data)
        except UserError as error:
            yield Result(FAILED, item, str(error), f"检查 {'train_path' if item == '训练集' else 'dev_path'}")
            continue
        detail = f"{path}，{count} 条"
        if bad_lines:
            remedy = f"python -m data_handle.data_preprocess {path} 可列出全部"
            detail = f"{detail}，跳过坏数据 {len(bad_lines)} 行，如 {bad_lines[0]}"
            yield Result(NOTE, item, detail, remedy)
        else:
            yield Result(PASSED, item, detail)


def check_model(config: ProjectConfig) -> Iterator[Result]:
    """The model directory has a usable config and every weight file, whole; its tokenizer goes with it."""
    from bases.chatglm import ChatGLMTokenizer, resolve_model_dir
    from bases.chatglm.files import checkpoint_shards, load_config

    model_dir = resolve_model_dir(config.pre_model)
    sizes = load_config(model_dir)
    shards = checkpoint_shards(model_dir)
    damaged = [shard.name for shard in shards if not is_whole_weight_file(shard)]
    size = sum(shard.stat().st_size for shard in shards)
    # Half precision, one copy of the embedding. (The published index states the size of an older release.)
    expected = 2 * sizes.parameter_count()
    if hasattr(sizes, "quantization_config"):  # a 4-bit copy: half a byte for each weight of a linear layer
        expected -= model_shape(config).linear_parameters * 3 // 2
    detail = f"{model_dir}，{sizes.num_layers} 层，{len(shards)} 个权重文件共 {size / 1e6:,.0f} MB"
    longest = config.max_source_seq_len + config.max_target_seq_len
    if damaged or size < expected:
        too_small = f"比 config.json 要求的 {expected / 1e6:,.0f} MB 小"
        problem = f"{'、'.join(damaged)} 不完整" if damaged else too_small
        yield Result(FAILED, "模型", f"{detail}，{problem}", "重新下载不完整的权重文件")
    elif longest > sizes.max_sequence_length:
        problem = f"只支持 {sizes.max_sequence_length} 个 token，而配置要 {longest} 个"
        yield Result(FAILED, "模型", f"{detail}，{problem}", "减小 max_source_seq_len 或 max_target_seq_len")
    else:
        yield Result(PASSED, "模型", detail)

    if not (model_dir / "ice_text.model").is_file():
        yield Result(FAILED, "分词器", f"{model_dir} 里没有 ice_text.model", "重新下载模型目录")
        return
    tokenizer = ChatGLMTokenizer.from_pretrained(model_dir)
    text = "林在培主演了电视剧。"
    ids = tokenizer.encode_plain(text)
    if tokenizer.decode(ids) == text and max(ids) < sizes.vocab_size:
        yield Result(PASSED, "分词器", f"{len(tokenizer)} 个词片，“{text}”编码为 {len(ids)} 个 token")
    else:
        yield Result(FAILED, "分词器", f"{model_dir} 的分词器与模型不配套", "重新下载模型目录")


def check_training_step(config: ProjectConfig) -> Iterator[Result]:
    """One real step on the embedded base: 4-bit (if configured) + LoRA, loss and gradient finite."""
    import torch
    from peft import LoraConfig, get_peft_model

    from bases.chatglm import load_base_model
    from data_handle.data_loader import collate
    from data_handle.data_preprocess import encode_example
    from task.prompt import build_prompt
    from task.triplets import Triplet, format_target

    device = training_device(config)
    dtype = compute_dtype(device, fp16=config.fp16, bf16=config.bf16)
    base, tokenizer = load_base_model(
        EMBEDDED_BASE, load_in_4bit=config.load_in_4bit, dtype=dtype, device=device
    )
    base.requires_grad_(False)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules=config.lora_target_modules,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, lora).train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    target = format_target([Triplet("导演", "人物", "影视作品", "张玲", "娘家的故事第二部")])
    context = build_prompt("《娘家的故事第二部》是张玲执导的电视剧。")
    example = encode_example(tokenizer, context, target, 512, 512)
    assert example.features is not None  # 512 tokens are plenty
    batch = {
        key: value.to(device) for key, value in collate([example.features], tokenizer.pad_token_id).items()
    }

    optimizer = torch.optim.AdamW(trainable, lr=1e-3)
    with torch.autocast(device.type, dtype, enabled=dtype.itemsize == 2):
        loss_before = model(**batch).loss
    loss_before.backward()
    gradient = torch.nn.utils.clip_grad_norm_(trainable, 1.0).item()
    optimizer.step()
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype.itemsize == 2):
        loss_after = model(**batch).loss
    detail = f"{device} 上 loss {loss_before:.3f} → {loss_after:.3f}，LoRA 梯度范数 {gradient:.3g}"
    if loss_before.isfinite() and loss_after.isfinite() and math.isfinite(gradient) and gradient > 0:
        yield Result(PASSED, "训练一步", detail)
    else:
        yield Result(FAILED, "训练一步", detail, f"先处理上面的失败项；再试 {INSTALL}")


def check_disk(config: ProjectConfig) -> Iterator[Result]:
    """There is room for the checkpoints and the adapter."""
    shape = model_shape(config)
    lora_weights = lora_parameters(shape, config.lora_rank, config.lora_target_modules)
    need = estimate_output_bytes(lora_weights, config.save_total_limit)
    free = shutil.disk_usage(nearest_directory(config.save_dir)).free
    detail = f"检查点与适配器约需 {need / GB:.2f} GB，可用 {free / GB:.1f} GB"
    if need <= free:
        yield Result(PASSED, "磁盘", detail)
    else:
        yield Result(FAILED, "磁盘", detail, "清理磁盘，减小 save_total_limit，或把 save_dir 换到别的盘")


def check_output(config: ProjectConfig) -> Iterator[Result]:
    """Files can be written where the run will save, and nothing there is in the way."""
    from training.run_directory import has_foreign_results

    save_dir, resume_from = Path(config.save_dir), config.resume_from_checkpoint
    directory = nearest_directory(save_dir)
    if not directory.is_dir():
        yield Result(FAILED, "输出目录", f"{directory} 是文件，不是目录", "改用别的 save_dir")
    elif not is_writable_directory(directory):
        yield Result(FAILED, "输出目录", f"{directory} 不可写", "修改权限，或改用别的 save_dir")
    else:
        try:
            blocked = has_foreign_results(save_dir, resume_from, config.overwrite_output_dir)
        except UserError as error:
            yield Result(FAILED, "输出目录", "不能继续训练", str(error))
            return
        if not blocked:
            detail = f"{save_dir} 可写" + ("，检查点可用" if resume_from is not None else "")
            yield Result(PASSED, "输出目录", detail)
        elif resume_from is not None:
            remedy = "换一个 save_dir，或从那里面的检查点继续"
            yield Result(FAILED, "输出目录", f"{save_dir} 里有另一次训练的结果", remedy)
        else:
            remedy = (
                "继续训练加 --resume_from_checkpoint auto，清掉重来加 --overwrite_output_dir，或换 save_dir"
            )
            yield Result(FAILED, "输出目录", f"{save_dir} 里已有训练结果", remedy)


Check = Callable[[ProjectConfig], Iterator[Result]]
CHECKS: dict[str, Check] = {
    "Python": check_python,
    "软件包": check_packages,
    "配置": check_config,
    "GPU": check_gpu,
    "内存": check_memory,
    "4-bit 量化": check_4bit,
    "数据": check_data,
    "模型": check_model,
    "训练一步": check_training_step,
    "磁盘": check_disk,
    "输出目录": check_output,
}
OF_THE_MACHINE = ("GPU", "内存", "模型")  # may fail for the default 6B model where it can't run


def run_check(name: str, config: ProjectConfig) -> list[Result]:
    """Run one check; whatever it raises becomes a failed row."""
    results: list[Result] = []
    try:
        results.extend(CHECKS[name](config))
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


def training_device(config: ProjectConfig) -> torch.device:
    """The device that train.py will use."""
    import torch

    return torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def model_shape(config: ProjectConfig) -> ModelShape:
    """Sizes of the configured model; those of the published one while it is not on this machine."""
    from bases.chatglm import ChatGLMConfig, CheckpointError, resolve_model_dir
    from bases.chatglm.files import load_config

    try:
        sizes: ChatGLMConfig = load_config(resolve_model_dir(config.pre_model))
    except CheckpointError:
        sizes = ChatGLMConfig()
    return shape_of(sizes)


def _why_no_cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return "安装的 PyTorch 是 CPU 版"
    return "有 NVIDIA 驱动但 CUDA 不可用（驱动过旧？）" if shutil.which("nvidia-smi") else "没有 NVIDIA GPU"


def print_row(status: str, item: str, detail: str, remedy: str = "") -> None:
    """Print one row of the table, the remedy below it."""
    indent = "\n" + " " * 30
    print(f"{pad(status, 6)}{pad(item, 24)}{detail.replace(chr(10), indent)}", flush=True)
    if remedy:
        print(f"{' ' * 30}→ {remedy}", flush=True)


def main() -> int:
    """Print the table of all checks; exit code 0 only if training can run."""
    config = ProjectConfig()
    parse_overrides(config, sys.argv[1:], "检查这台机器能否用当前配置训练；参数与 train.py 相同。")
    quiet_libraries()
    print_row("状态", "检查项", "结果与怎么办")
    failed = []
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
    ids = [f"{CHECKS[name].__name__}-{'embedded' if embedded else 'configured'}" for name, embedded in cases]
    metafunc.parametrize(("check", "on_embedded_base"), cases, ids=ids)


def test_environment(check: str, on_embedded_base: bool, monkeypatch: Any, tmp_path: Path) -> None:
    """The check finds no failure; on the configured model one is a reason to skip."""
    import pytest

    monkeypatch.chdir(ROOT)
    config = ProjectConfig()
    config.save_dir = str(tmp_path / "run")
    if on_embedded_base:
        config.pre_model = str(EMBEDDED_BASE)
    for result in run_check(check, config):
        if result.status == FAILED and not on_embedded_base:
            pytest.skip(f"{result.item}：{result.detail}")
        assert result.status != FAILED, f"{result.item}：{result.detail} → {result.remedy}"


if __name__ == "__main__":
    run_main(main)
