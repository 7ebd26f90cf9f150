"""What a training run will take in memory, before anything is loaded, and how to make it fit.

The parts follow what the code keeps, tensor by tensor; `tests/training/test_memory_plan.py` compares the
activations with what autograd really saves, `benchmarks/bench_memory.py` the whole with the measured peak.
All sizes in bytes; GB are 2^30.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bases import family_of
from bases.interface import AUTO, ModelShape, softmax_rows
from bases.layers import linear_bytes
from extraction.memory_plan import MAX_ROWS
from glm_config import EVAL_ROWS
from utils.common_utils import UserError
from utils.device import compute_dtype, multiplies_bf16
from utils.memory import CUDA_CONTEXT, GB
from utils.table import pad

LORA_BYTES = 16  # per adapter weight in fp32: itself, its gradient, Adam's two moments
CPU_RUNTIME = 150 * 2**20  # what the libraries take once they compute, and the C library keeps (measured)
# A pass of so many tokens keeps the device busy: one with more is hardly faster per token, one with fewer
# pays too often for turning 4-bit weights back into half precision.
SATURATED_TOKENS = 1024
# Every n-th layer is checkpointed: none, then ever more. The first that fits is taken.
CHECKPOINT_CHOICES = (0, 4, 3, 2, 1)


def shape_of(config: Any) -> ModelShape:
    """Return the sizes that a base model's config stands for."""
    return family_of(config).shape(config)


class TrainingSettings(NamedTuple):
    """What decides the memory of training beside the model's shape.

    Attributes:
        lora_rank, lora_target_modules, lora_dropout: of the adapter.
        load_in_4bit, load_in_8bit: NF4, or whole numbers of 8 bits, for the blocks' linear layers.
        half: weights and activations in half precision, else fp32.
        on_cuda: on the CPU some kernels keep other things.
        samples_per_step: of one process in one optimiser step.
        max_sample_tokens, max_target_tokens: length limits of a sample and of its answer.
        eval_batch_size: sentences that are answered together; None: what fits.
        shard_bytes: the largest weight file; on the CPU it is part of the process while it is read.
    """

    lora_rank: int
    lora_target_modules: tuple[str, ...]
    lora_dropout: float
    load_in_4bit: bool
    half: bool
    on_cuda: bool
    samples_per_step: int
    max_sample_tokens: int
    max_target_tokens: int
    eval_batch_size: int | None
    shard_bytes: int = 0
    load_in_8bit: bool = False

    @classmethod
    def of(cls, knobs: Mapping[str, Any], on_cuda: bool, shard_bytes: int = 0) -> TrainingSettings:
        """Read them from the knobs of a config (`ProjectConfig.to_dict`)."""
        device = "cuda" if on_cuda else "cpu"
        return cls(
            lora_rank=knobs["lora_rank"],
            lora_target_modules=tuple(knobs["lora_target_modules"]),
            lora_dropout=knobs["lora_dropout"],
            load_in_4bit=knobs["load_in_4bit"],
            half=compute_dtype(device, fp16=knobs["fp16"], bf16=knobs["bf16"]).itemsize == 2,
            on_cuda=on_cuda,
            samples_per_step=knobs["batch_size"] * knobs["gradient_accumulation_steps"],
            max_sample_tokens=knobs["max_source_seq_len"] + knobs["max_target_seq_len"],
            max_target_tokens=knobs["max_target_seq_len"],
            eval_batch_size=None if knobs["eval_batch_size"] == AUTO else knobs["eval_batch_size"],
            shard_bytes=0 if on_cuda else shard_bytes,
            load_in_8bit=knobs["load_in_8bit"],
        )

    @property
    def value_bytes(self) -> int:
        """Bytes of a weight that is not quantised, and of an activation."""
        return 2 if self.half else 4

    @property
    def linear_bytes(self) -> float:
        """Bytes of a weight in the blocks' linear layers."""
        return linear_bytes(self.load_in_4bit, self.load_in_8bit, self.value_bytes)

    def lora_names(self, shape: ModelShape) -> set[str]:
        """Return the last parts of the names of the linear layers that LoRA stands beside."""
        names = {module.rpartition(".")[2] for module in shape.targets(self.lora_target_modules)}
        return names & shape.linear_shapes.keys()


def lora_parameters(shape: ModelShape, rank: int, target_modules: Iterable[str]) -> int:
    """Count the weights that LoRA adds to a model."""
    names = {module.rpartition(".")[2] for module in shape.targets(list(target_modules))}
    sizes = (sum(size) for name, size in shape.linear_shapes.items() if name in names)
    return shape.num_layers * rank * sum(sizes)


def layer_bytes_per_token(shape: ModelShape, settings: TrainingSettings) -> int:
    """Return what the backward pass of one layer, not checkpointed, keeps of a token."""
    value = settings.value_bytes
    kept = value * shape.kept_activations + shape.kept_fp32
    if settings.half:
        kept += value * shape.cast_activations
    groups: set[int] = {0}  # inputs that are kept already
    for name in sorted(settings.lora_names(shape)):
        width = shape.linear_shapes[name][0]
        kept += value * settings.lora_rank  # the input of B
        if settings.lora_dropout:  # the input of A, and the mask: bool on CUDA
            kept += value * width + (width if settings.on_cuda else value * width)
        elif (group := shape.input_groups.get(name)) is None or group not in groups:
            kept += value * width
            groups |= set() if group is None else {group}
    return kept


class MemoryPlan(NamedTuple):
    """How a run uses its memory.

    Attributes:
        parts: bytes by Chinese name, to be added up: the predicted peak.
        budget: bytes that may be used.
        checkpoint_every: every n-th layer is checkpointed; 0 for none, 1 for all.
        tokens_per_pass: the most tokens, padding included, of a training pass.
        sample_tokens, step_tokens: the most that a sample and an optimiser step can have.
        eval_rows: sentences that are answered together, in evaluation.
    """

    parts: dict[str, int]
    budget: int
    checkpoint_every: int
    tokens_per_pass: int
    sample_tokens: int
    step_tokens: int
    eval_rows: int

    @property
    def peak(self) -> int:
        """The predicted peak."""
        return sum(self.parts.values())

    def table(self) -> str:
        """Return the plan as a table in Chinese."""
        checkpointing = {0: "不用", 1: "所有层"}.get(
            self.checkpoint_every, f"每 {self.checkpoint_every} 层中的一层"
        )
        rows = [(name, f"{size / GB:8.2f} GB") for name, size in self.parts.items()]
        rows += [("预计峰值", f"{self.peak / GB:8.2f} GB"), ("预算", f"{self.budget / GB:8.2f} GB")]
        lines = [f"  {pad(name, 20)}{size}" for name, size in rows]
        samples_per_pass = self.tokens_per_pass // self.sample_tokens  # if all are as long
        passes = math.ceil(self.step_tokens / self.sample_tokens / samples_per_pass)
        lines.append(
            f"  梯度检查点：{checkpointing}；每次前向至多 {self.tokens_per_pass} 个 token，"
            f"一步（至多 {self.step_tokens} 个 token）至多分 {passes} 次；评估每批 {self.eval_rows} 句"
        )
        return "显存（内存）计划：\n" + "\n".join(lines)


def answer_bytes(shape: ModelShape, settings: TrainingSettings) -> int:
    """Return what a sentence takes that is being answered: its keys and values in all layers, its logits."""
    cache = settings.value_bytes * shape.key_value_size * shape.num_layers * settings.max_sample_tokens
    return cache + 8 * shape.vocab_size


def memory_parts(
    shape: ModelShape, settings: TrainingSettings, checkpoint_every: int, tokens: int, target_tokens: int
) -> dict[str, int]:
    """Predict the peak of training with passes of a number of tokens.

    Args:
        shape, settings: of the run.
        checkpoint_every: every n-th layer is checkpointed; 0 for none.
        tokens: of a pass, padding included.
        target_tokens: those of them with a label.

    Returns:
        Bytes by Chinese name of the part.
    """
    value = settings.value_bytes
    hidden, inner, layers = shape.hidden_size, shape.inner_hidden_size, shape.num_layers
    lora_weights = lora_parameters(shape, settings.lora_rank, settings.lora_target_modules)
    weights = int(settings.linear_bytes * shape.linear_parameters)
    weights += value * (shape.embedding_parameters + shape.other_parameters)

    per_layer = layer_bytes_per_token(shape, settings)
    checkpointed = math.ceil(layers / checkpoint_every) if checkpoint_every else 0
    kept = (layers - checkpointed) * per_layer + checkpointed * value * hidden
    if checkpointed:
        kept += per_layer  # of the layer that is being computed again
    kept += 2 * value * hidden  # embedding, final norm
    # In the backward pass of an MLP: gradients of both its sides, and those that come through LoRA.
    passing = 2 * value * inner + 2 * value * hidden
    lora_widths = {shape.linear_shapes[name][0] for name in settings.lora_names(shape)}
    if inner in lora_widths:
        passing += 2 * value * inner
    elif lora_widths:
        passing += 2 * value * hidden
    dequantized = value * max(rows * columns for rows, columns in shape.linear_shapes.values())
    rows = min(target_tokens, shape.logit_rows)
    in_fp32 = min(rows, softmax_rows(shape.vocab_size, settings.on_cuda)) * (4 if settings.on_cuda else 8)
    head = shape.vocab_size * (rows * value + in_fp32) + target_tokens * hidden * 2 * value
    layer = passing * tokens + (2 * settings.load_in_4bit + settings.load_in_8bit) * dequantized
    mask = (1 + value) * tokens * tokens  # bool, and as it is added to the scores
    training = kept * tokens + mask + max(head, layer)
    generation = (settings.eval_batch_size or 1) * answer_bytes(shape, settings)
    loading = settings.shard_bytes
    if (
        loading and settings.load_in_4bit and not shape.quantized
    ):  # bitsandbytes quantises on the CPU in four copies of 4 bytes
        loading += 16 * max(rows * columns for rows, columns in shape.linear_shapes.values())
    return {
        "权重": weights,
        "LoRA 与优化器": LORA_BYTES * lora_weights,
        "激活与临时缓冲": max(training, generation, loading),
        "运行库": CUDA_CONTEXT if settings.on_cuda else CPU_RUNTIME,
    }


def plan_memory(
    shape: ModelShape, settings: TrainingSettings, checkpointing: bool | str, budget: int
) -> MemoryPlan:
    """Choose the tokens of a pass and the checkpointing, so that the peak stays within a budget.

    With "auto", no more layers are checkpointed than a pass of `SATURATED_TOKENS` (or of the whole step,
    if that has fewer) asks for; then a pass gets as many tokens as fit, at most those of the whole step.

    Args:
        shape, settings: of the run.
        checkpointing: True for all layers, False for none, "auto".
        budget: bytes that may be used.

    Raises:
        UserError: not even one longest sample fits; the message says what to change.
    """
    longest = settings.max_sample_tokens
    step_tokens = settings.samples_per_step * longest
    wanted = min(step_tokens, max(longest, SATURATED_TOKENS))
    if checkpointing == "auto":
        choices: tuple[int, ...] = CHECKPOINT_CHOICES
    else:
        choices = (1,) if checkpointing else (0,)

    def parts(every: int, tokens: int) -> dict[str, int]:
        targets = math.ceil(tokens * settings.max_target_tokens / longest)
        return memory_parts(shape, settings, every, tokens, targets)

    def fits(every: int, tokens: int) -> bool:
        return sum(parts(every, tokens).values()) <= budget

    every = next((choice for choice in choices if fits(choice, wanted)), choices[-1])
    if not fits(every, longest):
        raise UserError(_refusal(shape, settings, sum(parts(every, longest).values()), budget, every))
    low, high = longest, step_tokens  # the most tokens that fit lie between
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(every, middle) else (low, middle - 1)
    found = parts(every, low)
    if (rows := settings.eval_batch_size) is None:
        # As many as take no more than training does, or a few that fit beside it.
        row, training = answer_bytes(shape, settings), found["激活与临时缓冲"]
        few = min(EVAL_ROWS, (budget - sum(found.values()) + training) // row)
        rows = max(1, few, min(training // row, MAX_ROWS) if settings.on_cuda else 0)
        found["激活与临时缓冲"] = max(training, rows * row)
    return MemoryPlan(found, budget, every, low, longest, step_tokens, rows)


def _refusal(shape: ModelShape, settings: TrainingSettings, need: int, budget: int, every: int) -> str:
    """Say that not even one sample fits, and what would help and how far, most first."""
    target = settings.max_target_tokens // 2
    source = settings.max_sample_tokens // 2 - target
    shorter = settings._replace(max_sample_tokens=source + target, max_target_tokens=target)
    can_halve = settings.on_cuda or multiplies_bf16()
    changes = [
        ("开启 4-bit：--load_in_4bit true", settings._replace(load_in_4bit=True, load_in_8bit=False), every),
        ("开启梯度检查点：--gradient_checkpointing auto", settings, 1),
        *([("开启混合精度：--fp16 true", settings._replace(half=True), every)] if can_halve else []),
        (f"减少序列长度：--max_source_seq_len {source} --max_target_seq_len {target}", shorter, every),
        ("减少评估批次：--eval_batch_size 1", settings._replace(eval_batch_size=1), every),
    ]
    remedies = []
    for text, changed, checkpoint_every in changes:
        tokens, targets = changed.max_sample_tokens, changed.max_target_tokens
        needed = sum(memory_parts(shape, changed, checkpoint_every, tokens, targets).values())
        if needed < need:
            remedies.append((needed, f"{text}（预计需要 {needed / GB:.1f} GB）"))
    lines = [text for _, text in sorted(remedies)]
    lines.append("腾出显存（内存）：nvidia-smi、top 可查看被谁占用")
    lines.append(f"有富余时调大预算：--vram_budget_gb {math.ceil(need / GB)}")
    numbered = "\n".join(f"  {number}. {line}" for number, line in enumerate(lines, start=1))
    return (
        f"显存（内存）放不下：{shape.parameters / 1e9:.1f}B 参数的模型、"
        f"一条 {settings.max_sample_tokens} 个 token 的样本预计需要 {need / GB:.1f} GB，"
        f"预算是 {budget / GB:.1f} GB。可以：\n{numbered}"
    )
