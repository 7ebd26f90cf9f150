"""The stages of `gpu_round` about training: steps, with each piece taken away; steps within a budget."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from bases.chatglm.family import ChatGLMFamily
from bases.interface import Family
from bases.lora_product import lengthen_lora, shorten_lora
from benchmarks.gpu_stages import Stage, machine
from benchmarks.training_paths import ProjectPath, RecipePath, project_config
from data_handle.packing import plan_micro_batches
from training.memory_plan import TrainingSettings, memory_parts, shape_of
from utils.memory import GB


class TrainingStage(Stage):
    """Takes optimiser steps."""

    def run(self) -> None:
        """Do the stage that the arguments name."""
        name = self.args.stage
        if name == "training":
            self.training()
        else:
            self.budget(float(name.removeprefix("budget")))

    def training(self) -> None:
        """Time optimiser steps: new shapes, then each switch off, then the recipe."""
        path = self.project(20.0, "training")
        steps = list(islice(path.steps(), 44 if self.on_card else 6))
        self.take(path, steps[0])  # the longest samples
        self.peak_against_plan(path, steps[1:3])
        many = steps[3:33] if self.on_card else steps[3:]
        self.steps(path, many, "all pieces, each step new")
        rest = steps[33:] if self.on_card else steps[3:4]
        self.steps(path, rest, "all pieces")
        self.profile("training", lambda: [self.take(path, step) for step in rest[:2]])
        model = path.run.model
        lengthen_lora(model)
        self.steps(path, rest, "without: one operation for LoRA")
        shorten_lora(model)
        with on_cpu_masks():
            self.steps(path, rest, "without: masks made on the card")
        if self.on_card:
            torch.backends.cuda.enable_cudnn_sdp(True)
            self.steps(path, rest, "without: no cuDNN attention, first time")
            self.steps(path, rest, "without: no cuDNN attention, again")
            lengthen_lora(model)
            with on_cpu_masks():
                self.steps(path, rest, "without all")
            shorten_lora(model)
            torch.backends.cuda.enable_cudnn_sdp(False)
        config = path.config
        recipe = RecipePath(config)
        recipe.step(steps[0][:1])
        self.steps(recipe, steps[4:6] if self.on_card else steps[3:4], "recipe")

    def project(self, budget: float, name: str) -> ProjectPath:
        """Load what train.py would."""
        scratch = self.args.scratch / name
        scratch.mkdir(exist_ok=True)
        started = self.now()
        config = project_config(self.args, self.args.pre_model, scratch, vram_budget_gb=budget)
        path = ProjectPath(config)
        path.run.model.train()
        plan = path.run.plan
        self.note(
            what="load",
            seconds=round(self.now() - started, 1),
            planned_gb=round(plan.peak / GB, 2),
            checkpoint_every=plan.checkpoint_every,
            tokens_per_pass=plan.tokens_per_pass,
            **machine(self.device),
        )
        return path

    def take(self, path: ProjectPath | RecipePath, samples: Any) -> float:
        """Take a step; return its seconds."""
        started = self.now()
        path.step(samples)
        return self.now() - started

    def steps(self, path: ProjectPath | RecipePath, steps: Sequence[Any], what: str) -> None:
        """Time steps and note it."""
        times = [self.take(path, step) for step in steps]
        count = statistics.mean(len(step) for step in steps)
        self.note(
            what=what,
            samples_per_s=round(count / statistics.median(times), 2),
            samples_per_s_mean=round(count * len(times) / sum(times), 2),
            median_ms=round(statistics.median(times) * 1e3, 1),
            max_to_median=round(max(times) / statistics.median(times), 3),
            steps=len(times),
            peak_gb=self.peak(),
        )

    def peak_against_plan(self, path: ProjectPath, steps: Sequence[Any]) -> None:
        """Hold the peak of steps against what the plan says of passes of their sizes."""
        self.peak()
        run, config = path.run, path.config
        predicted = []
        for step in steps:
            self.take(path, step)
            lengths = [len(sample.input_ids) for sample in step]
            sizes = run.accelerator.unwrap_model(run.model).config
            passes = plan_micro_batches(lengths, run.gradients.tokens_per_pass, sizes.hidden_size)
            largest = max(passes, key=lambda each: each.tokens)
            parts = memory_parts(
                shape_of(sizes),
                TrainingSettings.of(config.to_dict() | {"eval_batch_size": 0}, self.on_card),
                run.plan.checkpoint_every,
                largest.tokens,
                sum(step[index].num_targets for row in largest.rows for index in row),
            )
            predicted.append(sum(parts.values()) - parts["运行库"])
        self.note(what="peak", predicted_gb=round(max(predicted) / GB, 3), peak_gb=self.peak())

    def budget(self, budget: float) -> None:
        """Take the longest steps within a budget."""
        path = self.project(budget, f"budget{budget:g}")
        steps = list(islice(path.steps(), 6 if self.on_card else 3))
        self.peak()
        reserved = torch.cuda.memory_reserved() / GB if self.on_card else 0
        self.steps(path, steps, f"budget {budget:g} GB")
        self.peak_against_plan(path, steps[:2])
        if self.on_card:
            reserved = max(reserved, torch.cuda.max_memory_reserved() / GB)
            self.note(what="reserved", reserved_gb=round(reserved, 2))


@contextlib.contextmanager
def on_cpu_masks() -> Any:
    """Lay batches out on the CPU and move them, as a family without a way of its own does."""
    own = ChatGLMFamily.pack_on
    ChatGLMFamily.pack_on = Family.pack_on  # type: ignore[method-assign]
    try:
        yield
    finally:
        ChatGLMFamily.pack_on = own  # type: ignore[method-assign]
