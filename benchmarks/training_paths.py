"""Two ways to take an optimiser step on the same base and the same samples: the project's and the recipe's.

The recipe is what the peers' scripts for ChatGLM-6B do, written on this project's model: all that is not
4-bit upcast to fp32 (`prepare_model_for_kbit_training`), every sample padded to 256 + 128 tokens, one sample
a pass, every layer checkpointed, logits of all positions in fp32.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bases import find_family
from bases.adapter import attach_lora
from bases.chatglm import checkpoint_layers, load_base_model
from benchmarks import make_full_size_checkpoint
from benchmarks.hugging_face_path import HuggingFacePath
from data_handle.data_loader import collate
from data_handle.data_preprocess import IGNORE_INDEX, Features
from data_handle.reader import read_jsonl
from glm_config import ProjectConfig
from task.triplets import is_triplet_target
from training.assembly import assemble
from training.gradients import set_learning_rate, take_step
from training.log import RunLog
from utils.common_utils import UserError
from utils.device import compute_dtype

ROOT = Path(__file__).resolve().parent.parent

TINY = ROOT / "models" / "chatglm-tiny"
LAYERS = {"block": 2, "full": 28}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is trained, on what and with what precision."""
    parser.add_argument("--model", choices=("tiny", "block", "full", "causal"), default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--pre_model",
        type=Path,
        help="model directory; without it block and full are random weights in a temporary directory",
    )
    parser.add_argument("--tokenizer", type=Path, help="tokenizer directory for the random weights")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "mixed_train_dataset.jsonl")
    parser.add_argument("--fp32", action="store_true", help="fp32 on both sides, instead of half precision")
    parser.add_argument("--bf16", action="store_true", help="BF16 on both sides, as Gemma wants it on CUDA")
    bits = parser.add_mutually_exclusive_group()
    bits.add_argument("--no_4bit", action="store_true", help="no quantisation on both sides")
    bits.add_argument("--in_8bit", action="store_true", help="8-bit weights; half precision for the peers")


def model_directory(args: argparse.Namespace, scratch: Path) -> Path:
    """Return the directory of the model that the arguments name, written first if need be."""
    if args.pre_model:
        return args.pre_model
    if args.model == "causal":
        raise UserError("--model causal 要用 --pre_model 指定模型目录。")
    if args.model == "tiny":
        return TINY
    directory = scratch / "model"
    with contextlib.redirect_stdout(sys.stderr):
        make_full_size_checkpoint.main(
            [str(directory), "--layers", str(LAYERS[args.model]), "--tokenizer", str(args.tokenizer or TINY)]
        )
    return directory


def project_config(args: argparse.Namespace, pre_model: Path, scratch: Path, **knobs: Any) -> ProjectConfig:
    """Return the README's configuration for a model, training on the triplet lines of the data."""
    lines = scratch / "triplets.jsonl"
    if not lines.exists():
        examples, _ = read_jsonl(args.data, strict=False)
        kept = [
            {"context": example.context, "target": example.target}
            for example in examples
            if is_triplet_target(example.target)
        ]
        text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in kept)
        lines.write_text(text, encoding="utf-8")
    values = {
        "pre_model": str(pre_model),
        "device": args.device,
        "train_path": str(lines),
        "dev_path": str(lines),
        "save_dir": str(scratch / "run"),
        "token_cache_dir": str(scratch / "cache"),
        "load_in_4bit": not (args.no_4bit or args.in_8bit),
        "load_in_8bit": args.in_8bit,
        "fp16": not (args.fp32 or args.bf16),
        "bf16": args.bf16,
        "tensorboard": False,
    }
    return ProjectConfig.from_dict(ProjectConfig().to_dict() | values | knobs)


class ProjectPath:
    """The parts that train.py's loop is made of."""

    def __init__(self, config: ProjectConfig) -> None:
        Path(config.save_dir).mkdir(exist_ok=True)
        self.config, self.run = config, assemble(config, None, RunLog(is_main=False))

    def steps(self) -> Iterator[list[Features]]:
        """Yield the samples of one optimiser step after the other."""
        while True:
            yield self.run.batches.next_step(self.run.state)
            self.run.state.steps_in_epoch += 1

    def step(self, samples: list[Features]) -> None:
        """Take an optimiser step."""
        run = self.run
        set_learning_rate(run.optimizer, self.config.learning_rate)
        loss, _ = run.gradients.accumulate(samples)
        norm = float(run.accelerator.clip_grad_norm_(run.model.parameters(), self.config.max_grad_norm))
        take_step(run.accelerator, run.optimizer, loss, norm)


class RecipePath:
    """The peers' recipe."""

    def __init__(self, config: ProjectConfig) -> None:
        self.config, self.device = config, torch.device(config.device or "cpu")
        self.dtype = compute_dtype(self.device, fp16=config.fp16, bf16=config.bf16)
        base, tokenizer = load_base_model(
            config.pre_model,
            load_in_4bit=config.load_in_4bit,
            dtype=self.dtype,
            device=self.device,
        )
        for parameter in base.parameters():
            if parameter.dtype in (torch.float16, torch.bfloat16) and config.load_in_4bit:
                parameter.data = parameter.data.float()
        checkpoint_layers(base, 1)
        self.pad_token_id = tokenizer.pad_token_id
        self.model = attach_lora(
            base,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            target_modules=config.lora_target_modules,
        ).train()
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=config.fp16 and self.device.type == "cuda"
        )

    def step(self, samples: list[Features]) -> None:
        """Take an optimiser step, sample by sample."""
        length = self.config.max_source_seq_len + self.config.max_target_seq_len
        for sample in samples:
            padding = Features([self.pad_token_id] * length, [IGNORE_INDEX] * length)
            batch = {
                name: tensor[:1].to(self.device)
                for name, tensor in collate([sample, padding], self.pad_token_id).items()
            }
            labels = batch.pop("labels")
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype.itemsize == 2):
                logits = self.model(**batch, use_cache=False).logits.float()
                loss = F.cross_entropy(
                    logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX
                )
            self.scaler.scale(loss / len(samples)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


def recipe_of(model: str, config: ProjectConfig) -> RecipePath | HuggingFacePath:
    """Return how the peers of a model (as `--model` has it) take a step."""
    if model != "causal":
        return RecipePath(config)
    directory = Path(config.pre_model)
    family = find_family(directory)
    shape = family.shape(family.load_config(directory))
    return HuggingFacePath(config, shape.targets(config.lora_target_modules))


def scratch_directory() -> tempfile.TemporaryDirectory[str]:
    """Return a directory that is gone afterwards."""
    return tempfile.TemporaryDirectory(prefix="bench-")
