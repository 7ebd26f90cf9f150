"""The service with many clients: continuous batching, one request at a time, and `model.generate`.

Usage: python -m benchmarks.bench_serving --adapter output/demo/model_best

One process, one model, the whole application without sockets. `rows` is the service as it is; `single` is the
same with one row, so that requests wait for each other; `generate` has no constraint and lets transformers'
own `generate` answer those that wait together. CPU seconds are of the whole process, so they mean something
on a busy machine, too. The last line is a JSON object.
"""

from __future__ import annotations

import asyncio
import copy
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import torch

from benchmarks.measure import show
from data_handle.reader import read_jsonl
from extraction.extractor import TripletExtractor
from extraction.loading import load_extractor
from extraction.options import ExtractorOptions
from serving.app import make_app
from serving.engine import Engine
from serving.lane import Lane
from serving.limits import Limits
from serving.metrics import Metrics
from task.prompt import split_context
from task.triplets import is_triplet_target
from utils.command_line import ChineseArgumentParser, positive_int
from utils.common_utils import UserError, log, run_main, set_seed

ROOT = Path(__file__).resolve().parent.parent
ADAPTER = ROOT / "output" / "demo" / "model_best"
DATA = ROOT / "data" / "mixed_dev_dataset.jsonl"
WAYS = ("rows", "single", "generate")


class Run(NamedTuple):
    """What a number of clients saw of one way of answering.

    Attributes:
        rate: requests a second.
        p50, p95: latency in seconds.
        cpu: CPU seconds of a request.
    """

    rate: float
    p50: float
    p95: float
    cpu: float


def main() -> int:
    """Run the benchmark."""
    parser = ChineseArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adapter", type=Path, default=ADAPTER, help="默认是 make demo 得到的")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--clients", type=positive_int, nargs="*", default=[1, 8, 64], help="同时提问的客户端数"
    )
    parser.add_argument("--requests", type=positive_int, default=64, help="每种情况的请求数")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="一起生成的行数")
    parser.add_argument("--scores", action="store_true", help="也要置信度（generate 没有）")
    args = parser.parse_args()
    if not args.adapter.is_dir():
        raise UserError(f"没有适配器 {args.adapter}，请先运行 make demo，或用 --adapter 指定目录。")

    set_seed(0)
    extractor = load_extractor(
        ExtractorOptions(adapter=args.adapter, device=args.device, batch_size=args.batch_size)
    )
    sentences = [
        split_context(example.context)[1]
        for example in read_jsonl(DATA)[0]
        if is_triplet_target(example.target)
    ]
    random.Random(0).shuffle(sentences)
    runs = asyncio.run(measure(args, extractor, sentences))
    report(args, runs)
    return 0


async def measure(
    args: Any, extractor: TripletExtractor, sentences: Sequence[str]
) -> dict[tuple[str, int], Run]:
    """Let every number of clients ask in every way."""
    metrics, limits = Metrics(), Limits(seconds=3600)
    engine = Engine(lambda: make_lanes(extractor, metrics), limits, metrics)
    engine.start()
    while engine.state == "loading":
        await asyncio.sleep(0.01)
    transport = httpx2.ASGITransport(app=make_app(engine, limits, metrics))
    runs = {}
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=3600) as client:
        for way in WAYS:
            await ask(client, way, 4, sentences[:8], args.scores)  # warm-up
        for clients in args.clients:
            asked = [sentences[number % len(sentences)] for number in range(max(args.requests, clients))]
            for way in WAYS:
                run = runs[way, clients] = await ask(client, way, clients, asked, args.scores)
                log(f"{way}，{clients} 个客户端：每秒 {run.rate:.2f} 个请求")
    engine.drain()
    await asyncio.to_thread(engine.join, 60)
    return runs


def make_lanes(extractor: TripletExtractor, metrics: Metrics) -> list[Lane]:
    """Return the three ways of answering as models of the service, around one model."""
    free = copy.copy(extractor)
    free.constraint = None
    lanes = [
        Lane(name, each, lambda: None, metrics)
        for name, each in zip(WAYS, (extractor, extractor, free), strict=True)
    ]
    lanes[1].capacity = 1
    return lanes


async def ask(
    client: httpx2.AsyncClient, way: str, clients: int, sentences: Sequence[str], scores: bool
) -> Run:
    """Ask for every sentence in a request of its own, so many at a time."""
    waiting, latencies = iter(sentences), []

    async def be_client() -> None:
        for sentence in waiting:
            started = time.perf_counter()
            body = {"text": sentence, "model": way, "scores": scores}
            answer = await client.post("/v1/extract", json=body)
            latencies.append(time.perf_counter() - started)
            if answer.status_code != 200:
                raise RuntimeError(answer.text)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(be_client() for _ in range(clients)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    p95 = sorted(latencies)[int(0.95 * (len(latencies) - 1))]
    return Run(len(latencies) / seconds, statistics.median(latencies), p95, cpu / len(latencies))


def report(args: Any, runs: dict[tuple[str, int], Run]) -> None:
    """Print the table and the line of JSON."""
    rows = [
        (
            "客户端",
            "怎样回答",
            "请求/秒",
            "p50 毫秒",
            "p95 毫秒",
            "CPU 秒/请求",
            "倍数（时间）",
            "倍数（CPU）",
        )
    ]
    ratios: dict[str, dict[str, float]] = {}
    for clients in args.clients:
        ours = runs["rows", clients]
        for way in WAYS:
            run = runs[way, clients]
            faster, cheaper = ours.rate / run.rate, run.cpu / ours.cpu
            cells = f"{run.rate:.2f}", f"{run.p50 * 1e3:.0f}", f"{run.p95 * 1e3:.0f}", f"{run.cpu:.3f}"
            rows.append((str(clients), way, *cells, f"{faster:.2f}", f"{cheaper:.2f}"))
            ratios[f"{way}_{clients}"] = {"time": round(faster, 2), "cpu": round(cheaper, 2)}
    show(rows, {"batch_size": args.batch_size, "ratios": ratios}, torch.device(args.device))


if __name__ == "__main__":
    run_main(main)
