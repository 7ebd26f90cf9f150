"""Generated hostile files, each read by the product in a child process with limits, and the verdict on it.

A case is a kind and a seed: `python -m tests.soak.hostile adapter 1234` runs one again and says what it did.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from bases.adapter import load_adapter
from bases.chatglm import load_base_model
from bases.chatglm.files import load_config_and_tokenizer
from data_handle.data_loader import load_data
from export.four_bit import save_quantized
from extraction.options import ExtractorOptions
from extraction.records import read_records
from extraction.settings import read_settings
from task.schema import Schema
from tests.helpers.killing import train_command
from tests.helpers.random_base import make_random_base
from tests.soak import mutations
from tests.soak.mutations import Mutation, copy_of, mutate_bytes, mutate_json, mutate_place
from training import run_directory, state
from utils.common_utils import UserError

GROWTH = 2**30  # bytes of memory that reading a file may take
SECONDS = 20  # of CPU time that it may take: machines are busy
WAIT = 120.0  # seconds after which it is taken to wait for something
LIMITS = {"max_source_seq_len": 96, "max_target_seq_len": 48}


class Verdict(NamedTuple):
    """What became of a case; `bad` unless the file was read for what it is, or refused with a sentence."""

    outcome: str
    detail: str
    did: str

    @property
    def bad(self) -> bool:
        return self.outcome not in ("accepted", "refused")


class Kind(NamedTuple):
    """A kind of file: an original, what can be done to which of its files, and how the product reads it."""

    original: Path
    files: dict[str, list[Mutation]]
    read: Callable[[Path], None]


class Materials:
    """Originals to make hostile variants of: a small base, a run on it, data, made for real.

    Args:
        root: the project's folder.
        base: a small base directory with one safetensors file.
        directory: where to make the rest.
    """

    def __init__(self, root: Path, base: Path, directory: Path) -> None:
        command = train_command(root, base, directory, directory / "run", epochs=1)
        subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=600)
        self.base, self.data = base, directory / "train.jsonl"
        self.adapter = directory / "run" / "model_best"
        self.checkpoint = run_directory.list_checkpoints(directory / "run")[-1]
        torch.set_num_threads(1)  # children are forked, and threads of torch do not live on in them
        self.model, self.tokenizer = load_base_model(
            base, load_in_4bit=True, dtype=torch.float32, device="cpu"
        )
        self.weights = {name: each.detach().clone() for name, each in self.model.named_parameters()}
        self.bin, self.sharded, self.quantized = (
            directory / name for name in ("bin", "sharded", "quantized")
        )
        self._other_layouts()
        self.cached = directory / "cached"
        load_data(self.data, self.tokenizer, **LIMITS, cache_dir=self.cached)
        self.truth = load_data(self.data, self.tokenizer, **LIMITS)
        self.input = directory / "input.jsonl"
        lines = [
            json.dumps({"id": n, "text": f"《长河{n}》由张三执导。"}, ensure_ascii=False) for n in range(8)
        ]
        self.input.write_text("\n".join(lines), encoding="utf-8")

    def _other_layouts(self) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(self.base / "model.safetensors")
        for target in (self.bin, self.sharded):
            copy_of(self.base, target)
            (target / "model.safetensors").unlink()
        torch.save(tensors, self.bin / "pytorch_model.bin")
        names, half = sorted(tensors), len(tensors) // 2
        parts = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
        for file, owned in parts.items():
            save_file({name: tensors[name] for name in owned}, self.sharded / file)
        index = {
            "metadata": {},
            "weight_map": {name: file for file, owned in parts.items() for name in owned},
        }
        (self.sharded / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        self.quantized.mkdir()
        save_quantized(self.model, self.tokenizer, self.quantized)

    # ---- how the product reads them; an AssertionError is a lie that was taken for truth

    def read_adapter(self, directory: Path) -> None:
        settings = read_settings(ExtractorOptions(adapter=directory, pre_model=str(self.base)))
        adapted = load_adapter(self.model, directory)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                assert parameter.isfinite().all(), "weights that are not finite"
            else:
                plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
                assert torch.equal(parameter, self.weights[plain]), f"{name} of the base was replaced"
        scaling = {
            each.scaling["default"]
            for each in adapted.modules()
            if isinstance(getattr(each, "scaling", None), dict)
        }
        assert all(0 < abs(each) < float("inf") for each in scaling), f"scaling {scaling}"
        assert settings.constraint is None or settings.constraint.schema is not None

    def read_model(self, directory: Path) -> None:
        load_config_and_tokenizer(directory)
        quantized = "quantized" in directory.name
        model, tokenizer = load_base_model(
            directory, load_in_4bit=quantized, dtype=torch.float32, device="cpu"
        )
        assert all(each.isfinite().all() for each in model.parameters() if each.is_floating_point()), (
            "not finite"
        )
        ids = torch.tensor([tokenizer.prompt_ids("问：《长河》由张三执导。")])
        with torch.no_grad():
            assert model(input_ids=ids).logits.isfinite().all(), "logits that are not finite"

    def read_checkpoint(self, directory: Path) -> None:
        if run_directory.checkpoint_damage(directory) is not None:
            raise UserError("检查点已损坏")
        state.load_state(directory)

    def read_schema(self, file: Path) -> None:
        assert all(name.strip() for each in Schema.load(file).combinations for name in each)

    def read_data(self, file: Path) -> None:
        data = load_data(file, self.tokenizer, **LIMITS)
        used = len(data.features) + len(data.bad_lines) + len(data.summary.left_out)
        assert used <= max(file.read_bytes().count(end) for end in (b"\n", b"\r", b"},")) + 1

    def read_cache(self, directory: Path) -> None:
        data = load_data(self.data, self.tokenizer, **LIMITS, cache_dir=directory)
        assert len(data.features) == len(self.truth.features)
        for ours, theirs in zip(data.features, self.truth.features, strict=True):
            assert ours.input_ids == theirs.input_ids and ours.labels == theirs.labels, (
                "features that are not"
            )

    def read_input(self, file: Path) -> None:
        for record in read_records(file):
            assert record.problem is not None or isinstance(record.fields["text"], str)

    def kinds(self) -> dict[str, Kind]:
        """Return the kinds of files, by name."""
        jsons, tensors = [mutate_json, mutate_json, mutate_bytes, mutate_place], mutations.mutate_safetensors
        weights = [tensors, tensors, mutate_bytes, mutate_place]
        pickled = [mutations.mutate_pickle, mutations.mutate_pickle, mutate_bytes, mutate_place]
        pieces = [mutations.mutate_sentencepiece, mutations.mutate_sentencepiece, mutate_bytes, mutate_place]
        lines = [mutations.mutate_lines, mutations.mutate_lines, mutate_bytes]
        adapter = (
            "adapter_config.json",
            "adapter_meta.json",
            "project_config.json",
            "schema.json",
            "manifest.json",
        )
        caches = {
            path.relative_to(self.cached).as_posix() for path in self.cached.rglob("*") if path.is_file()
        }
        return {
            "adapter": Kind(
                self.adapter,
                dict.fromkeys(adapter, jsons) | {"adapter_model.safetensors": weights},
                self.read_adapter,
            ),
            "config": Kind(self.base, {"config.json": jsons}, self.read_model),
            "tokenizer_config": Kind(self.base, {"tokenizer_config.json": jsons}, self.read_model),
            "tokenizer": Kind(self.base, {"ice_text.model": pieces}, self.read_model),
            "weights": Kind(self.base, {"model.safetensors": weights}, self.read_model),
            "index": Kind(
                self.sharded,
                {"model.safetensors.index.json": jsons, "a.safetensors": weights},
                self.read_model,
            ),
            "bin": Kind(self.bin, {"pytorch_model.bin": pickled}, self.read_model),
            "quantized": Kind(
                self.quantized, {"model.safetensors": weights, "config.json": jsons}, self.read_model
            ),
            "checkpoint": Kind(
                self.checkpoint, {"training_state.pt": pickled, "manifest.json": jsons}, self.read_checkpoint
            ),
            "cache": Kind(
                self.cached,
                {
                    name: jsons if name.endswith(".json") else [mutate_bytes, mutate_place]
                    for name in sorted(caches)
                },
                self.read_cache,
            ),
            "schema": Kind(self.adapter / "schema.json", {"": jsons}, self.read_schema),
            "data": Kind(self.data, {"": lines}, self.read_data),
            "input": Kind(self.input, {"": lines}, self.read_input),
        }


def make(kind: Kind, name: str, seed: int, scratch: Path, only: int | None = None) -> tuple[Path, str]:
    """Make the hostile variant of a seed; with `only`, with that one of its changes alone.

    Returns:
        Where it is, and what was done.
    """
    rng = random.Random(f"{name} {seed}")
    cases = scratch / "cases"
    cases.mkdir(exist_ok=True)
    target = copy_of(kind.original, cases / (kind.original.name if kind.original.is_file() else name))
    did = []
    for number in range(rng.choice([1, 1, 1, 2, 3])):
        file_name = rng.choice(list(kind.files))
        mutation = rng.choice(kind.files[file_name])
        own = random.Random(rng.random())
        file = target / file_name if file_name else target
        plain = file.is_file() and not file.is_symlink() and file.stat().st_size < GROWTH  # not spoilt before
        if plain and only in (None, number):
            with contextlib.suppress(Exception):  # a change before left nothing that this one can change
                did.append(f"{file_name or file.name}: {mutation(own, file)}")
    forged = rng.random() < 0.5 and target.is_dir() and (target / "manifest.json").is_file()
    if forged:
        mutations.with_manifest_of_its_own(target)
    return target, "; ".join(did) + (" (manifest of its own)" if forged else "")


def run(kind: Kind, target: Path, did: str) -> Verdict:
    """Let the product read a variant in a forked child with limits of memory and time."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(_in_child(kind, target, writing))
    os.close(writing)
    deadline = time.monotonic() + WAIT
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
            return Verdict("hang", f"waited for more than {WAIT} s", did)
        time.sleep(0.002)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as pipe:
        said = pipe.read()
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return Verdict("hang", f"more than {SECONDS} s of CPU time", did)
    if os.WIFSIGNALED(status):
        return Verdict("crash", f"signal {os.WTERMSIG(status)}", did)
    outcome, _, detail = said.partition("\n")
    return Verdict(outcome or "crash", detail[-1500:], did)


def _in_child(kind: Kind, target: Path, pipe: int) -> int:
    def rss() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    before = rss()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 6 * 2**30, size + 6 * 2**30))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    sys.stdout = sys.stderr = io.StringIO()
    try:
        kind.read(target)
        outcome, detail = "accepted", ""
    except UserError as error:
        text = str(error)
        is_sentence = any("\u4e00" <= each <= "\u9fff" for each in text) and len(text) < 3000
        outcome, detail = ("refused" if is_sentence else "no sentence"), text
    except AssertionError as error:
        outcome, detail = "lie accepted", str(error)
    except MemoryError as error:
        outcome, detail = "memory", repr(error)
    except BaseException:
        outcome, detail = "traceback", traceback.format_exc()
    peak = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    grown = int(peak.split()[1]) * 1024 - before
    if grown > GROWTH and outcome in ("accepted", "refused"):
        outcome, detail = "memory", f"{grown / 2**30:.1f} GB: {detail}"
    os.write(pipe, f"{outcome}\n{detail}".encode("utf-8", "replace")[:60_000])
    return 0


def minimised(kind: Kind, name: str, seed: int, scratch: Path) -> Verdict:
    """Run a bad case with each of its changes alone; return the first that is bad, else the whole."""
    for only in range(3):
        target, did = make(kind, name, seed, scratch, only)
        if did and (verdict := run(kind, target, did)).bad:
            return verdict
    return run(kind, *make(kind, name, seed, scratch))


def cases(kinds: dict[str, Kind], count: int, first_seed: int = 0) -> Iterator[tuple[str, int]]:
    """Yield so many cases, all kinds in turn."""
    names = list(kinds)
    for number in range(count):
        yield names[number % len(names)], first_seed + number // len(names)


def main() -> int:
    """Run one case again, or so many from a seed on: `KIND SEED`, or `all COUNT [FIRST_SEED]`."""
    # Should the generator itself read one of its bombs; children have a limit of their own.
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        kinds = Materials(root, make_random_base(root, scratch / "base"), scratch).kinds()
        if sys.argv[1] != "all":
            print(run(kinds[sys.argv[1]], *make(kinds[sys.argv[1]], sys.argv[1], int(sys.argv[2]), scratch)))
            return 0
        tally = {name: Counter[str]() for name in kinds}
        for name, seed in cases(kinds, int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0):
            verdict = run(kinds[name], *make(kinds[name], name, seed, scratch))
            tally[name][verdict.outcome] += 1
            if verdict.bad:
                least = minimised(kinds[name], name, seed, scratch)
                print(f"--- {name} {seed}: {least.outcome}\n{least.did}\n{least.detail[-700:]}", flush=True)
        for name, counts in tally.items():
            print(f"{name:<18}", *(f"{outcome} {count}" for outcome, count in sorted(counts.items())))
        print(
            f"{'all':<18}",
            *(f"{key} {value}" for key, value in sorted(sum(tally.values(), Counter()).items())),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
