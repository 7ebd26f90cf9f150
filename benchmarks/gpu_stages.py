"""What the stages of `gpu_round` have in common: each is a process that loads a model and measures."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import device_name
from utils.common_utils import log
from utils.memory import GB


def note(args: argparse.Namespace, stage: str, **values: Any) -> None:
    """Append a line to the results."""
    line = json.dumps({"stage": stage, **values}, ensure_ascii=False)
    log(line)
    with (args.out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


class Stage:
    """One process: loads a model and measures."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device(args.device)
        self.on_card = self.device.type == "cuda"

    def run(self) -> None:
        """Do the stage that the arguments name."""
        raise NotImplementedError

    def note(self, **values: Any) -> None:
        """Append a line to the results."""
        note(self.args, self.args.stage, **values)

    def now(self) -> float:
        """Return the time when all that was asked of the device is done."""
        if self.on_card:
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak(self) -> float:
        """Return the most bytes that tensors took since the last call, in GB; 0 on a CPU."""
        if not self.on_card:
            return 0.0
        peak = torch.cuda.max_memory_allocated() / GB
        torch.cuda.reset_peak_memory_stats()
        return round(peak, 3)

    def profile(self, name: str, work: Callable[[], object]) -> None:
        """Profile some work into files of the results."""
        if not self.on_card:
            return
        try:
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
                work()
                torch.cuda.synchronize()
            table = found.key_averages()
            text = "\n".join(
                table.table(sort_by=key, row_limit=40, max_name_column_width=70)
                for key in ("self_device_time_total", "self_cpu_time_total")
            )
            (self.args.out / f"profile_{name}.txt").write_text(text, encoding="utf-8")
        except Exception as error:  # a profile is a gift, not a need
            self.note(what=f"profile {name}", error=str(error)[:200])


def milliseconds(times: Sequence[float]) -> float:
    """Return the median in ms."""
    return round(statistics.median(times) * 1e3, 1)


def machine(device: torch.device) -> dict[str, str]:
    """Return what is measured on."""
    return {"device": device_name(device), "torch": torch.__version__}
