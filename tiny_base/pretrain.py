"""Train the embedded base from scratch on generated text, and write it as a checkpoint directory.

    torchrun --nproc_per_node 2 -m tiny_base.pretrain --minutes 75 --work_dir runs/tiny
    python -m tiny_base.pretrain --work_dir runs/tiny --export models/chatglm-tiny

Read from top to bottom: optimisers, loop, checkpoints, export; the data is drawn in `batches`. An interrupted
run goes on at its last checkpoint; text is drawn from the seed and the number of the chunk, so only that
number is kept.
One process for each CPU core is half as fast again as one process with as many threads; without torchrun
there is one process.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bases.chatglm import ChatGLMTokenizer
from data_handle.data_preprocess import IGNORE_INDEX
from tiny_base.batches import Ranks, stream
from tiny_base.corpus.__main__ import DEV_FILE
from tiny_base.corpus.heldout import HeldOut
from tiny_base.model import NUM_LAYERS, grow, new_model, save_base
from utils.command_line import ChineseArgumentParser
from utils.common_utils import UserError, log, run_main, set_seed
from utils.device import compute_dtype, default_device
from utils.progress import Progress, show_duration

COUNTS = ("step", "tokens", "targets", "chunk", "seconds", "begun", "begun_step", "budget")  # see `RunLog`
MODEL_DIR = Path(__file__).resolve().parents[1] / "models" / "chatglm-tiny"


# ---- optimisers ----


def default_optimizer(device: torch.device) -> str:
    """Return muon, but for CPUs without bf16: torch's Muon computes in it, minutes a step there."""
    return "muon" if compute_dtype(device, fp16=False, bf16=True).itemsize == 2 else "adamw"


def make_optimizers(model: nn.Module, optimizer: str, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Return AdamW for everything, or Muon for the layers' matrices and AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in name)]

    def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )

    if optimizer == "adamw":
        return [adam(matrices + others)]
    return [torch.optim.Muon(matrices, lr=10 * learning_rate, weight_decay=0.01), adam(others)]


def learning_rate_factor(step: int, progress: float, warmup_steps: int) -> float:
    """Return the part of the peak rate to use: linear warm-up by steps, then cosine decay by time to zero.

    Args:
        step: counted from where the schedule began.
        progress: part of its time that has passed.
        warmup_steps: steps of the warm-up.
    """
    return min(1.0, (step + 1) / warmup_steps) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


# ---- the loop ----


class RunLog:
    """Counts of a run so far, the means since the last line of its curve, and what of them is shown."""

    def __init__(self, work_dir: Path, state: dict[str, float], is_main: bool):
        """Args:
        work_dir: where curve.jsonl is written.
        state: steps, tokens, target tokens, next chunk, seconds, the seconds and the step at which the
            schedule began, and the seconds it shall last; kept in checkpoints.
        is_main: this is the process that shows and writes.
        """
        self.curve = work_dir / "curve.jsonl"
        self.state = state
        self.progress = Progress(unit="步", done=int(state["step"]), enabled=is_main)
        self.last = time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self.losses: list[float] = []
        self.seconds, self.tokens = 0.0, 0

    def elapsed(self) -> float:
        """Return the seconds since the last call."""
        now = time.monotonic()
        elapsed, self.last = now - self.last, now
        return elapsed

    def step(
        self, next_chunk: int, num_tokens: float, num_targets: float, loss: float, seconds: float
    ) -> None:
        """Count one step; the rest of a chunk at which the run is broken off is never seen."""
        self.state["step"] += 1
        self.state["chunk"] = next_chunk
        self.state["tokens"] += round(num_tokens)
        self.state["targets"] += round(num_targets)
        self.state["seconds"] += seconds
        self.seconds, self.tokens = self.seconds + seconds, self.tokens + round(num_tokens)
        self.losses.append(loss)
        left = show_duration(self.state["budget"] - (self.state["seconds"] - self.state["begun"]))
        speed = num_tokens / max(seconds, 1e-9)
        self.progress.advance(status=f"loss {loss:.4f} | {speed:.0f} token/s | 剩余 {left}")

    def write(self, factor: float) -> None:
        """Write a line of the log and of the curve."""
        loss, speed = sum(self.losses) / len(self.losses), self.tokens / self.seconds
        record = {
            **self.state,
            "loss": round(loss, 4),
            "tokens_per_second": round(speed),
            "lr": round(factor, 4),
        }
        with self.curve.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.progress.step_line(
            f"{self.state['step']} 步  {self.state['tokens']} token  loss {loss:.4f}  {speed:.0f} token/s"
        )
        self._reset()


def truncate_curve(curve: Path, step: int) -> None:
    """Forget what an interrupted run wrote after its last checkpoint."""
    if curve.is_file():
        lines = curve.read_text(encoding="utf-8").splitlines(keepends=True)
        curve.write_text(
            "".join(line for line in lines if json.loads(line)["step"] <= step), encoding="utf-8"
        )


def train(args: argparse.Namespace) -> None:
    """Train until the time is used up; write curve.jsonl and checkpoint.pt into the work directory."""
    if not DEV_FILE.is_file():
        raise UserError(f"找不到 {DEV_FILE}：语料要避开它的内容，请先生成数据。")
    set_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    ranks = Ranks()
    device = torch.device(default_device())
    half = compute_dtype(device, fp16=False, bf16=True)
    tokenizer = ChatGLMTokenizer.from_pretrained(str(MODEL_DIR))
    held_out = HeldOut.from_file(DEV_FILE)
    model = new_model(tokenizer).to(device)
    optimizers = make_optimizers(model, args.optimizer or default_optimizer(device), args.learning_rate)
    peaks = [[group["lr"] for group in each.param_groups] for each in optimizers]  # a checkpoint has others
    state: dict[str, float] = dict.fromkeys(COUNTS, 0)
    checkpoint = args.work_dir / "checkpoint.pt"
    if checkpoint.is_file():
        state |= restore(checkpoint, model, optimizers, device)
        if args.again and state["seconds"] - state["begun"] >= state["budget"]:
            state |= {"begun": state["seconds"], "begun_step": state["step"]}
        log(f"从第 {state['step']} 步继续")
    log(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M 参数，设备 {device}")

    model.train()
    if args.compile:
        for layer in model.transformer.layers:
            layer.compile(dynamic=False)
    state["budget"] = args.minutes * 60
    run_log = RunLog(args.work_dir, state, is_main=ranks.rank == 0)
    if ranks.rank == 0:
        truncate_curve(run_log.curve, int(state["step"]))
    saved_at = time.monotonic()
    parameters = list(model.parameters())
    batches = stream(
        tokenizer, model.config, held_out, args.seed, args.batch_tokens, int(state["chunk"]), ranks
    )
    for chunk, batch in batches:
        time_used = (state["seconds"] - state["begun"]) / state["budget"]
        factor = learning_rate_factor(int(state["step"] - state["begun_step"]), time_used, args.warmup_steps)
        for each, rates in zip(optimizers, peaks, strict=True):
            for group, peak in zip(each.param_groups, rates, strict=True):
                group["lr"] = peak * factor
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, half, enabled=half.itemsize == 2), sdpa_kernel(SDPBackend.MATH):
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        own_tokens = int((batch["input_ids"] != model.config.pad_token_id).sum())
        own_targets = int((batch["labels"] != IGNORE_INDEX).sum())
        figures = [loss.item(), run_log.elapsed(), own_tokens, own_targets, chunk]
        mean_loss, seconds, tokens, targets, mean_chunk = ranks.average(parameters, figures)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for each in optimizers:
            each.step()
            each.zero_grad()
        next_chunk = math.ceil(mean_chunk) + ranks.size
        run_log.step(next_chunk, tokens * ranks.size, targets * ranks.size, mean_loss, seconds)
        done = state["seconds"] - state["begun"] >= state["budget"]
        if ranks.rank == 0 and state["step"] % args.log_steps == 0:
            run_log.write(factor)
        if ranks.rank == 0 and (done or time.monotonic() - saved_at > args.save_minutes * 60):
            save_checkpoint(checkpoint, model, optimizers, state)
            saved_at = time.monotonic()
        if done:
            break
    run_log.progress.close()
    if ranks.rank == 0:
        log("时间用完，训练结束")
    if ranks.size > 1:
        dist.destroy_process_group()


def restore(
    path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], device: torch.device
) -> dict[str, float]:
    """Put model and optimisers where a checkpoint left them; return the counts of its run.

    From a checkpoint of a model with fewer layers the model is grown, and the optimisers begin anew.
    """
    saved = torch.load(path, map_location=device, weights_only=True)
    if f"transformer.layers.{NUM_LAYERS - 1}.input_layernorm.weight" in saved["model"]:
        model.load_state_dict(saved["model"])
        for each, value in zip(optimizers, saved["optimizers"], strict=True):
            each.load_state_dict(value)
    else:
        model.load_state_dict(grow(saved["model"], NUM_LAYERS))
    state: dict[str, float] = saved["state"]
    return state


def save_checkpoint(
    path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], state: dict[str, float]
) -> None:
    """Write everything a resumed run needs, then put it into place in one step."""
    temporary = path.with_suffix(".tmp")
    value = {
        "model": model.state_dict(),
        "optimizers": [each.state_dict() for each in optimizers],
        "state": state,
    }
    torch.save(value, temporary)
    temporary.replace(path)


# ---- export ----


def load_checkpoint(work_dir: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Read a run's latest checkpoint.

    Raises:
        UserError: there is none.
    """
    checkpoint = work_dir / "checkpoint.pt"
    if not checkpoint.is_file():
        raise UserError(f"{work_dir} 里没有 checkpoint.pt，请先训练。")
    saved: dict[str, dict[str, torch.Tensor]] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return saved


def export(work_dir: Path, output: Path, average: Path | None, share: float) -> None:
    """Write a run's latest weights as fp16 safetensors, with configuration and tokenizer, and its curve.

    Args:
        work_dir: of the run.
        output: directory of the model.
        average: work directory kept from an earlier leg, whose weights are averaged with these (SWA,
            Izmailov et al. 2018): the ends of two cycles of the learning rate lie around a better point.
        share: of the earlier leg in the average, from 0 to 1.
    """
    saved = load_checkpoint(work_dir)
    if average is not None:
        earlier = load_checkpoint(average)["model"]
        if earlier.keys() != saved["model"].keys():
            raise UserError(f"{average} 的检查点与 {work_dir} 的层数不同，不能平均。")
        saved["model"] = {name: tensor.lerp(earlier[name], share) for name, tensor in saved["model"].items()}
    tokenizer = ChatGLMTokenizer.from_pretrained(str(MODEL_DIR))
    model = new_model(tokenizer)
    model.load_state_dict(saved["model"])
    save_base(model, output, MODEL_DIR)
    (output / "curve.jsonl").write_text(
        (work_dir / "curve.jsonl").read_text(encoding="utf-8"), encoding="utf-8"
    )
    log(f"已写入 {output}：{saved['state']}")


def main() -> None:
    """Read the command line, train or export."""
    parser = ChineseArgumentParser(description="从零训练自带的小模型")
    parser.add_argument("--minutes", type=float, default=75, help="训练时间（分钟），学习率在此期间降到 0")
    parser.add_argument(
        "--work_dir", type=Path, default=Path("runs/tiny"), help="检查点和日志的目录，再次运行会接着训练"
    )
    parser.add_argument(
        "--export", type=Path, default=None, metavar="DIR", help="不训练，只把最新检查点写成模型目录"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="从检查点起另开一程（SGDR）：学习率重新升降一次；没走完的一程会先接着走完",
    )
    parser.add_argument("--seed", type=int, default=1, help="语料和初始化的随机种子")
    parser.add_argument("--threads", type=int, default=1, help="每个进程的 CPU 线程数")
    parser.add_argument(
        "--optimizer",
        choices=("muon", "adamw"),
        help="优化器；默认 muon，CPU 没有 BF16 指令时 adamw",
    )
    parser.add_argument(
        "--learning_rate", type=float, default=2e-3, help="AdamW 的最高学习率；Muon 用它的 10 倍"
    )
    parser.add_argument(
        "--compile", action="store_true", help="用 torch.compile 编译各层，需要 C++ 编译器；CPU 上快四分之一"
    )
    parser.add_argument("--warmup_steps", type=int, default=100, help="预热步数")
    parser.add_argument("--batch_tokens", type=int, default=5000, help="每批的 token 数（含填充）")
    parser.add_argument("--log_steps", type=int, default=20, help="每多少步记一次日志")
    parser.add_argument("--save_minutes", type=float, default=3, help="每多少分钟存一次检查点")
    parser.add_argument(
        "--average",
        type=Path,
        default=None,
        metavar="DIR",
        help="与 --export 合用：和前一程留下的目录平均权重",
    )
    parser.add_argument("--average_share", type=float, default=0.3, help="平均时前一程所占的份额，0 到 1")
    args = parser.parse_args()
    if args.average and not args.export:
        raise UserError("--average 只与 --export 合用，请加上 --export 目录。")
    if not 0 <= args.average_share <= 1:
        raise UserError(f"--average_share 应在 0 到 1 之间，收到 {args.average_share}。")
    if args.export:
        export(args.work_dir, args.export, args.average, args.average_share)
    else:
        train(args)


if __name__ == "__main__":
    run_main(main)
