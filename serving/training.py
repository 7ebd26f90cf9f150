"""Training from the page, where it is allowed: a form made of the knobs, a process of `train.py`, its log.

What a client sends are names and numbers: paths are chosen by name among those that are offered, knobs are
checked by their own rules, and words of the command line are made from the values that passed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from glm_config import ProjectConfig
from serving.body import StrictRoute
from serving.errors import RequestError
from serving.runs import RunStore, process_of
from utils.common_utils import UserError
from utils.knobs import Rule, read_knobs

PROJECT = Path(__file__).resolve().parent.parent
# Knobs that name places: chosen from what there is, or not at all.
CHOSEN = ("pre_model", "train_path", "dev_path", "schema_path", "init_adapter")
HIDDEN = ("save_dir", "overwrite_output_dir", "resume_from_checkpoint", "token_cache_dir")
SECRETS = ("TRIPLET_API_KEY",)  # not for the processes that are started
LOG_TAIL = 1 << 16
ENDING = 60  # seconds that a training takes at most to end when it has let its directory go
_NAME = re.compile(r"\w[\w\-.]{0,59}")
_OPTIONS = re.compile(r"[a-z_0-9]+(?:\|[a-z_0-9]+)+")  # of a pattern that is a choice of words

Plan = Callable[[ProjectConfig], list[dict[str, str]]]


class Wish(BaseModel):
    """What to train."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=60)
    knobs: dict[str, Any] = Field(default_factory=dict, max_length=100)


@dataclass
class Trainer:
    """Starts and stops training, one at a time.

    Args:
        store: where runs are.
        data: folder whose JSONL files may be trained on.
        plan: says what a configuration will take, as rows of verdict, item and text.
        command: of the training.
    """

    store: RunStore
    data: Path
    plan: Plan
    command: tuple[str, ...] = (sys.executable, str(PROJECT / "train.py"))
    _process: subprocess.Popen[bytes] | None = None
    _is_ending: bool = False  # it was asked to
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def busy(self) -> str | None:
        """Return the name of the run that trains now, in whatever process; None if none does."""
        if self._process is not None:
            self._process.poll()  # it may have ended: let the system forget it
        return next((name for name in self.store.names() if process_of(self.store.root / name)), None)

    def choices(self) -> dict[str, dict[str, str]]:
        """Return what may be chosen for each knob that names a place: values by what the page shows."""
        config = ProjectConfig()
        files = self._files("*.jsonl")
        bases = [config.pre_model, str(PROJECT / "models" / "chatglm-tiny")]
        adapters = {}
        for name in self.store.names():
            path = self.store.root / name
            base = self.store.marker(path).get("knobs", {})
            if isinstance(base, dict) and isinstance(base.get("pre_model"), str):
                bases.append(base["pre_model"])
            if (path / "model_best" / "adapter_config.json").is_file():
                adapters[name] = str(path / "model_best")
        offered = _with_defaults(files, (config.train_path, config.dev_path))
        return {
            "pre_model": {_short(base): base for base in dict.fromkeys(bases)},
            "train_path": offered,
            "dev_path": {**offered, "": ""},
            "schema_path": self._files("*.json"),
            "init_adapter": adapters,
        }

    def _files(self, pattern: str) -> dict[str, str]:
        """Return the files of the folder of data that may be chosen, by name."""
        return {path.name: str(path) for path in sorted(self.data.glob(pattern)) if path.is_file()}

    def form(self) -> dict[str, Any]:
        """Return the knobs with their explanations and bounds, by section."""
        config, choices = ProjectConfig(), self.choices()
        sections: dict[str, list[dict[str, Any]]] = {}
        for knob in read_knobs(ProjectConfig):
            if knob.name in HIDDEN:
                continue
            value, rule = getattr(config, knob.name), ProjectConfig.rules()[knob.name]
            described = describe_knob(rule) | {"name": knob.name, "help": knob.comment, "value": value}
            if knob.name in CHOSEN:
                shown = next((text for text, path in choices[knob.name].items() if path == value), None)
                described |= {"kind": "choice", "choices": list(choices[knob.name]), "value": shown}
            sections.setdefault(knob.section, []).append(described)
        return {
            "sections": [{"title": title, "knobs": knobs} for title, knobs in sections.items()],
            "busy": self.busy(),
        }

    def configure(self, wish: Wish, new: bool = True) -> ProjectConfig:
        """Return the configuration that a wish means.

        Raises:
            RequestError: it can't be trained so.
        """
        if not _NAME.fullmatch(wish.name):
            raise _refusal("name", "名字只能有字母、汉字、数字、下划线、连字符和点，最多 60 个字符。")
        if new and os.path.lexists(self.store.root / wish.name):
            raise RequestError(
                409, "name_taken", f"已有名为 {wish.name} 的训练，请换一个名字。", param="name"
            )
        config, choices, rules = ProjectConfig(), self.choices(), ProjectConfig.rules()
        for name, value in wish.knobs.items():
            if name not in rules or name in HIDDEN:
                raise _refusal("knobs", f"没有名为 {name[:60]!r} 的选项。")
            if name in CHOSEN and value is not None:
                if not isinstance(value, str) or value not in choices[name]:
                    raise _refusal(f"knobs.{name}", f"{name} 只能从列出的里选。")
                value = choices[name][value]
            setattr(config, name, value)
        config.save_dir = str(self.store.root / wish.name)
        if problems := config.problems():
            raise _refusal("knobs", "".join(problems))
        return config

    def start(self, wish: Wish) -> None:
        """Begin a training.

        Raises:
            RequestError: it can't be trained so, or one is under way.
        """
        config = self.configure(wish)
        defaults = ProjectConfig().to_dict()
        changed = {name: value for name, value in config.to_dict().items() if value != defaults[name]}
        self._run(wish.name, [f"--{name}={_as_word(value)}" for name, value in changed.items()])

    def resume(self, name: str) -> None:
        """Go on with a run from its last checkpoint, with its own knobs.

        Raises:
            RequestError: it has none, or a training is under way.
        """
        path = self.store.find(name)
        if not any(entry.is_dir() for entry in path.glob("checkpoint-*")):
            raise RequestError(409, "no_checkpoint", "这个训练还没有检查点，请重新开始一个。")
        self._run(name, [f"--save_dir={path}", "--resume_from_checkpoint=auto"])

    def stop(self, name: str) -> None:
        """Ask a run to save and end.

        Raises:
            RequestError: it is not running, or not ours to end.
        """
        process = process_of(self.store.find(name))
        if process is None:
            raise RequestError(409, "not_running", "这个训练没有在运行。")
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            if not any(Path(os.fsdecode(word)).name == "train.py" for word in words):
                raise PermissionError
            os.kill(process, signal.SIGTERM)
            self._is_ending = self._process is not None and self._process.pid == process
        except OSError:
            raise RequestError(409, "not_ours", "这个训练不能从这里停止。") from None

    def log(self, name: str) -> str:
        """Return the end of what a run has said, if it was started here."""
        self.store.find(name)
        try:
            descriptor = os.open(self._log_path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - LOG_TAIL, 0))
                return file.read(LOG_TAIL).decode("utf-8", "replace")
        except OSError:
            return ""

    def _log_path(self, name: str) -> Path:
        return self.store.root / f"{name}.log"

    def _run(self, name: str, words: list[str]) -> None:
        with self._lock:
            if self._process is not None and self._is_ending and self.busy() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(ENDING)  # all is saved, it is about to be gone
            alive = self._process is not None and self._process.poll() is None
            if alive or (busy := self.busy()) is not None:
                running = "一个训练" if alive else f"训练 {busy}"
                raise RequestError(
                    409, "busy", f"{running}正在进行，一次只能有一个：请等它结束，或先停止它。"
                )
            environment = {key: value for key, value in os.environ.items() if key not in SECRETS}
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            try:
                self.store.root.mkdir(parents=True, exist_ok=True)
                with os.fdopen(os.open(self._log_path(name), flags, 0o644), "ab") as log:
                    self._process = subprocess.Popen(
                        [*self.command, *words],
                        cwd=PROJECT,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # it outlives the service
                        env=environment | {"PYTHONUTF8": "1"},
                    )
                    self._is_ending = False
            except OSError as error:
                raise RequestError(500, "not_started", f"训练没有启动：{error.strerror}。") from None

    def state(self) -> dict[str, Any]:
        """Return whether a training that was started here is still there, or how it ended."""
        code = None if self._process is None else self._process.poll()
        return {"busy": self.busy(), "started": self._process is not None, "exit_code": code}


def make_router(trainer: Trainer) -> APIRouter:
    """Return the routes of training."""
    router = APIRouter(
        prefix="/v1", tags=["训练"], route_class=StrictRoute, dependencies=[Depends(_must_be_json)]
    )

    @router.get("/training")
    def form() -> dict[str, Any]:
        """训练的表单：全部选项、说明和范围。"""
        return trainer.form() | trainer.state()

    @router.post("/training/plan")
    def plan(wish: Wish) -> dict[str, Any]:
        """开始之前：这样训练要多少显存。"""
        config = trainer.configure(wish)
        try:
            return {"rows": trainer.plan(config)}
        except UserError as error:
            return {"rows": [{"verdict": "失败", "item": "显存", "text": str(error)}]}

    @router.post("/training", status_code=202)
    def start(wish: Wish) -> dict[str, Any]:
        """开始一个训练。"""
        trainer.start(wish)
        return {"name": wish.name}

    @router.post("/runs/{name}/stop", status_code=202)
    def stop(name: str) -> dict[str, Any]:
        """保存检查点后停止。"""
        trainer.stop(name)
        return {"name": name}

    @router.post("/runs/{name}/resume", status_code=202)
    def resume(name: str) -> dict[str, Any]:
        """从最后的检查点继续。"""
        trainer.resume(name)
        return {"name": name}

    @router.get("/runs/{name}/log")
    def log(name: str) -> dict[str, Any]:
        """从网页开始的训练的日志，最后一段。"""
        return {"text": trainer.log(name), **trainer.state()}

    return router


def describe_knob(rule: Rule) -> dict[str, Any]:
    """Return what a form must know of a knob."""
    pattern = rule.pattern or ""
    words = pattern.split("|") if _OPTIONS.fullmatch(pattern) else []
    if rule.word and rule.kind is bool:
        words = [rule.word, "true", "false"]
    kind = "choice" if words else rule.kind.__name__
    bounds = {"at_least": rule.at_least, "above": rule.above, "at_most": rule.at_most, "below": rule.below}
    return {
        "kind": kind,
        "choices": words,
        "optional": rule.optional,
        "range": rule.describe(),
        **{name: value for name, value in bounds.items() if value is not None},
    }


async def _must_be_json(request: Request) -> None:
    """Refuse a POST that a form of another site could send by itself."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json":
        raise RequestError(415, "not_json", "请求体应当是 JSON（Content-Type: application/json）。")


def _refusal(param: str, message: str) -> RequestError:
    return RequestError(422, "invalid_request", message, param=param)


def _as_word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _with_defaults(files: dict[str, str], defaults: Sequence[str]) -> dict[str, str]:
    """Return files by their names, the default ones too; one that only shares a name keeps its path."""
    offered = dict(files)
    for path in defaults:
        name = Path(path).name
        whole = os.path.realpath(PROJECT / path)
        offered[name if os.path.realpath(files.get(name, whole)) == whole else path] = path
    return offered


def _short(path: str) -> str:
    """Return how a base is shown: its last two parts."""
    return "/".join(Path(path).parts[-2:]).lstrip("/")
