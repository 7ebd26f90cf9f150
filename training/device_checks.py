"""Checks before training that need torch: device, memory, quantisation, model, data, disk, and one real step.

See `checks` for those that don't, and for what a check is.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.state import AcceleratorState

from bases import CheckpointError, find_family, published_shape
from bases.adapter import attach_lora, refuse_prefix
from bases.four_bit import why_no_4bit
from bases.hub_cache import resolve_model_dir
from bases.interface import ModelShape
from bases.layers import assign, replace_linears
from data_handle.data_preprocess import Features, encode_examples
from data_handle.reader import read_jsonl
from glm_config import ProjectConfig
from training.checks import FAILED, INSTALL, NOTE, PASSED, SKIPPED, Check, Result, nearest_directory
from training.data import RELATIONS_SAID, read_data
from training.gradients import Gradients, take_step
from training.lanes import Lanes, lane_count
from training.memory_plan import LORA_BYTES, TrainingSettings, lora_parameters, plan_memory, shape_of
from utils.common_utils import PROJECT, UserError, log
from utils.device import (
    check_device,
    choose_precision,
    compute_dtype,
    default_device,
    make_accelerator,
    multiplies_bf16,
    weight_dtype,
)
from utils.memory import GB, memory_budget

EMBEDDED_BASE = PROJECT / "models" / "chatglm-tiny"
# Above this many parameters a run on the CPU is more likely a missing driver than a wish.
CPU_PARAMETER_LIMIT = 1_000_000_000
STEP_SAMPLES = 8  # of the step that is measured, as in the demo
# What `make demo` trains on in all, five epochs; and how much longer the whole of it takes than so many
# tokens at the speed of the step measured here (LoRA in four places, answering dev, starting).
DEMO_TOKENS, DEMO_OVERHEAD = 5 * 115_915, 1.3


def check_gpu(config: ProjectConfig) -> Iterator[Result]:
    """There is a GPU where the model needs one, and it can do what the config asks for.

    Raises:
        UserError: there isn't.
    """
    check_device(config.device)
    device = training_device(config)
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}（CUDA {torch.version.cuda}）"
        if config.bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError(f"{name} 不支持 BF16，请改用 --bf16 false --fp16 true。")
        yield Result(PASSED, "GPU", name)
    elif config.device == "cpu":
        yield Result(NOTE, "GPU", "device 是 cpu，在 CPU 上训练", "有 GPU 时把 device 改为 none")
    else:
        parameters = model_shape(config).parameters
        if parameters > CPU_PARAMETER_LIMIT:
            raise UserError(
                f"没有可用的 CUDA GPU（{_why_no_cuda()}），"
                f"而 {config.pre_model} 有 {parameters / 1e9:.1f}B 参数。请检查驱动（nvidia-smi）；"
                "没有 GPU 时可用内置小模型体验：make demo，或 --pre_model models/chatglm-tiny；"
                "确实要在 CPU 上训练请加 --device cpu。"
            )
        yield Result(PASSED, "GPU", f"{_why_no_cuda()}；模型很小，在 CPU 上训练")


def check_precision(config: ProjectConfig) -> Iterator[Result]:
    """What products are computed in, and why."""
    device = training_device(config)
    precision = choose_precision(device, fp16=config.fp16, bf16=config.bf16)
    if device.type == "cuda":
        offers = ""
    else:
        native = "有" if multiplies_bf16() else "没有"
        offers = f"CPU {native} BF16 乘法指令，{torch.get_num_threads()} 个线程；"
    yield Result(PASSED, "计算类型", f"{offers}{precision.describe()}")


def check_memory(config: ProjectConfig) -> Iterator[Result]:
    """The memory plan of the run fits the device.

    Raises:
        UserError: it doesn't.
    """
    try:
        model_dir = resolve_model_dir(config.pre_model)
        largest = max(file.stat().st_size for file in find_family(model_dir).weight_files(model_dir))
    except CheckpointError:  # of which another check tells
        largest = 0
    shape, device = model_shape(config), training_device(config)
    needs_gpu = shape.parameters > CPU_PARAMETER_LIMIT and config.device is None
    here = torch.cuda.is_available() if device.type == "cuda" else not needs_gpu
    on_cuda = device.type == "cuda" or needs_gpu
    budget = memory_budget(device, config.vram_budget_gb) if here else int(config.vram_budget_gb * GB)
    settings = TrainingSettings.of(config.to_dict(), on_cuda, largest)
    plan = plan_memory(shape, settings, config.gradient_checkpointing, budget)
    item = "显存" if on_cuda else "内存"
    if here:
        yield Result(PASSED, item, plan.table())
    else:
        yield Result(SKIPPED, item, f"没有 GPU，未与实际显存比较；{plan.table()}")


def check_quantisation(config: ProjectConfig) -> Iterator[Result]:
    """A quantised layer computes nearly what the plain one does, and passes a gradient through.

    Raises:
        UserError: it doesn't.
    """
    item = "8-bit 量化" if config.load_in_8bit else "4-bit 量化"
    if not (config.load_in_4bit or config.load_in_8bit):
        yield Result(SKIPPED, item, "load_in_4bit 已关闭")
        return
    device = training_device(config)
    if config.load_in_4bit and (reason := why_no_4bit(device.type)) is not None:
        yield Result(NOTE, item, f"这台机器做不了（{reason}），改为不量化加载", INSTALL)
        return
    dtype = compute_dtype(device, fp16=config.fp16, bf16=config.bf16)
    block = torch.nn.ModuleDict({"layer": torch.nn.Linear(256, 256, bias=False)})
    replace_linears(
        block,
        ["layer"],
        load_in_4bit=config.load_in_4bit,
        load_in_8bit=config.load_in_8bit,
        compute_dtype=dtype,
        quant_storage=None,
    )
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 256, generator=generator) / 16
    inputs = torch.randn(8, 256, generator=generator).to(device, dtype).requires_grad_()
    assign(block, "layer.weight", weight, Path(), dtype, device)
    outputs = block["layer"](inputs)
    outputs.square().sum().backward()
    exact = inputs.detach().float().cpu() @ weight.T
    error = ((outputs.detach().float().cpu() - exact).norm() / exact.norm()).item()
    gradient = math.nan if inputs.grad is None else inputs.grad.float().norm().item()
    kind = "8-bit" if config.load_in_8bit else "NF4"
    detail = f"{device} 上的 {kind} 前向相对误差 {error:.3f}，梯度范数 {gradient:.3g}"
    if not (error < 0.2 and math.isfinite(gradient) and gradient > 0):
        remedy = "" if config.load_in_8bit else f"请重装 bitsandbytes：{INSTALL}；或"
        raise UserError(f"{item}算得不对：{detail}；{remedy}关闭 load_in_{item[0]}bit。")
    yield Result(PASSED, item, detail)


def check_model(config: ProjectConfig) -> Iterator[Result]:
    """The model directory has a usable config, its tokenizer, and every weight file, whole.

    Raises:
        CheckpointError: it hasn't, or the model can't take sequences so long.
    """
    model_dir = resolve_model_dir(config.pre_model)
    family = find_family(model_dir)
    family.check_directory(model_dir)
    sizes, tokenizer = family.load_config(model_dir), cast(Any, family.load_tokenizer(model_dir))
    refuse_prefix(sizes)
    longest, limit = config.max_source_seq_len + config.max_target_seq_len, sizes.max_position_embeddings
    if longest > limit:
        raise CheckpointError(
            f"模型 {model_dir} 只支持 {limit} 个 token，而配置要 {longest} 个，"
            "请减小 max_source_seq_len 或 max_target_seq_len。"
        )
    text = "林在培主演了电视剧。"
    ids = tokenizer.encode_plain(text)
    if tokenizer.decode(ids) != text or max(ids) >= sizes.vocab_size:
        raise CheckpointError(f"{model_dir} 的分词器与模型不配套，请重新下载模型目录。")
    shards = family.weight_files(model_dir)
    megabytes = sum(shard.stat().st_size for shard in shards) / 1e6
    layers = family.shape(sizes).num_layers
    yield Result(PASSED, "模型", f"{model_dir}，{layers} 层，{len(shards)} 个权重文件共 {megabytes:,.0f} MB")
    yield Result(PASSED, "分词器", f"{len(tokenizer)} 个词片，“{text}”编码为 {len(ids)} 个 token")


def check_data(config: ProjectConfig) -> Iterator[Result]:
    """The data is read as `train.py` reads it, and holds samples to train and to evaluate on.

    Raises:
        UserError: it can't be, or doesn't.
    """
    tokenizer: Any
    try:
        tokenizer = find_family(model_dir := resolve_model_dir(config.pre_model)).load_tokenizer(model_dir)
    except CheckpointError:  # of which another check tells
        tokenizer = find_family(EMBEDDED_BASE).load_tokenizer(EMBEDDED_BASE)
    said: list[str] = []
    data = read_data(config, tokenizer, said.append)
    for item, file in (("训练集", data.train), ("验证集", data.dev)):
        detail = f"{file.path}，{len(file.examples)} 条"
        if file.bad_lines:
            detail = f"{detail}，跳过坏数据 {len(file.bad_lines)} 行，如 {file.bad_lines[0]}"
            remedy = f"python -m data_handle.data_preprocess {file.path} 可列出全部"
            yield Result(NOTE, item, detail, remedy)
        else:
            yield Result(PASSED, item, detail)
    for line in said:
        if line.startswith(RELATIONS_SAID):
            yield Result(PASSED, "提示词里的关系", line.removeprefix(RELATIONS_SAID).rstrip("。"))
        if line.startswith("警告：") or (not config.dev_path and "dev_ratio" in line):
            yield Result(NOTE, "数据", line.removeprefix("警告："))


def check_training_step(config: ProjectConfig) -> Iterator[Result]:
    """Real steps on the embedded base, by the parts that `train.py` steps with: loss, gradient and speed."""
    try:
        steps, tokens = _take_steps(config)
    finally:  # what follows in this process may choose another precision
        AcceleratorState._reset_state(reset_partial_state=True)
    (before, _, _), (after, gradient, seconds) = steps[0], steps[-1]
    detail = f"{training_device(config)} 上 loss {before:.3f} → {after:.3f}，LoRA 梯度范数 {gradient:.3g}"
    if not (math.isfinite(before) and math.isfinite(after) and math.isfinite(gradient) and gradient > 0):
        yield Result(FAILED, "训练一步", detail, f"先处理上面的失败项；再试 {INSTALL}")
        return
    yield Result(PASSED, "训练一步", detail)
    minutes = DEMO_TOKENS / (tokens / seconds) * DEMO_OVERHEAD / 60
    speed = f"内置小模型一步 {tokens} 个 token，{tokens / seconds:,.0f} token/秒"
    yield Result(PASSED, "速度", f"{speed}；make demo 约需 {minutes:.1f} 分钟")


def _take_steps(config: ProjectConfig) -> tuple[list[tuple[float, float, float]], int]:
    """Train the embedded base, 4-bit (if configured) + LoRA, for two steps or until the loss scaler settles.

    Returns:
        Of each step: loss, norm of the gradient, seconds; and the tokens of a step.
    """
    accelerator = make_accelerator(config.device, fp16=config.fp16, bf16=config.bf16)
    base, tokenizer = find_family(EMBEDDED_BASE).load(
        EMBEDDED_BASE,
        load_in_4bit=config.load_in_4bit and why_no_4bit(accelerator.device.type) is None,
        load_in_8bit=config.load_in_8bit,
        dtype=weight_dtype(accelerator),
        device=accelerator.device,
    )
    lora = attach_lora(
        base,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=0.0,
        target_modules=config.lora_target_modules,
    )
    trainable = [parameter for parameter in lora.parameters() if parameter.requires_grad]
    model, optimizer = accelerator.prepare(lora.train(), torch.optim.AdamW(trainable, lr=1e-3))
    samples = _bundled_samples(tokenizer)
    lanes = Lanes(lane_count(accelerator, model, base.config.hidden_size, checkpointing=False))
    gradients = Gradients(accelerator, model, 2 * 8 * 512, log, lanes)
    steps: list[tuple[float, float, float]] = []
    while len(steps) < 2 or (accelerator.scaler and len(steps) < 8 and not math.isfinite(steps[-1][1])):
        started = time.perf_counter()
        loss, tokens = gradients.accumulate(samples)
        norm = float(accelerator.clip_grad_norm_(model.parameters(), 1.0))  # waits for the device
        take_step(accelerator, optimizer, loss, norm)
        steps.append((loss, norm, time.perf_counter() - started))
    return steps, tokens


def _bundled_samples(tokenizer: Any) -> list[Features]:
    """Return samples of the bundled data, about as long as they are on average."""
    examples, _ = read_jsonl(PROJECT / "data" / "mixed_train_dataset.jsonl")
    features, _ = encode_examples(tokenizer, examples[: 8 * STEP_SAMPLES], 512, 512)
    by_length = sorted(features, key=lambda sample: len(sample.input_ids))
    start = (len(by_length) - STEP_SAMPLES) // 2
    return by_length[start : start + STEP_SAMPLES]


def check_disk(config: ProjectConfig) -> Iterator[Result]:
    """There is room for the checkpoints and the adapter.

    Raises:
        UserError: there isn't.
    """
    lora_weights = lora_parameters(model_shape(config), config.lora_rank, config.lora_target_modules)
    need = estimate_output_bytes(lora_weights, config.save_total_limit)
    free = shutil.disk_usage(nearest_directory(config.save_dir)).free
    if free < need:
        raise UserError(
            f"{config.save_dir} 所在的磁盘只剩 {free / GB:.2f} GB，检查点与适配器约需 {need / GB:.2f} GB，"
            "请清理磁盘、减小 --save_total_limit 或换一个 --save_dir。"
        )
    yield Result(PASSED, "磁盘", f"检查点与适配器约需 {need / GB:.2f} GB，可用 {free / GB:.1f} GB")


# What `train.py` makes sure of before it loads a model; the plan and the data it makes and loads itself.
BEFORE_LOADING: tuple[Check, ...] = (check_gpu, check_model, check_quantisation, check_disk)


def training_device(config: ProjectConfig) -> torch.device:
    """The device that train.py will use."""
    return torch.device(config.device or default_device())


def model_shape(config: ProjectConfig) -> ModelShape:
    """Sizes of the configured model; those of the published one while it is not on this machine."""
    try:
        model_dir = resolve_model_dir(config.pre_model)
        family = find_family(model_dir)
        return shape_of(family.load_config(model_dir))
    except CheckpointError:
        return published_shape()


def estimate_output_bytes(lora_weights: int, save_total_limit: int) -> int:
    """Estimate what a run writes: checkpoints with optimiser state, one more while rotating, best, logs."""
    checkpoint = (LORA_BYTES - 4) * lora_weights  # all but the gradients
    return checkpoint * (save_total_limit + 1) + 4 * lora_weights + 50_000_000


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return "安装的 PyTorch 是 CPU 版"
    return "有 NVIDIA 驱动但 CUDA 不可用（驱动过旧？）" if shutil.which("nvidia-smi") else "没有 NVIDIA GPU"
