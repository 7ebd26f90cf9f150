"""Training states that are damaged or lie: each gives a clear sentence, none is gone on from."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training import state as run_state
from training.run_directory import STATE_FILE
from training.state import RunState
from utils.common_utils import UserError, set_seed

ACCELERATOR: Any = SimpleNamespace(scaler=None, process_index=0)


def optimizer_after_a_step() -> torch.optim.Optimizer:
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.5)
    parameter.sum().backward()
    optimizer.step()
    return optimizer


def content() -> dict[str, Any]:
    return {
        "state": dataclasses.asdict(RunState(global_step=3, best_score=[0.5, -1.0])),
        "optimizer": optimizer_after_a_step().state_dict(),
        "scaler": {},
        "random_states": [run_state.random_state()],
        "run": {"seed": "42"},
    }


def restore(directory: Path, saved: dict[str, Any]) -> RunState:
    run_state.save(saved, directory)
    read = run_state.read(directory, {"seed": "42"})
    return run_state.restore(ACCELERATOR, optimizer_after_a_step(), read, directory)


def test_a_state_comes_back(tmp_path: Path) -> None:
    saved = content()
    assert restore(tmp_path, saved) == RunState(global_step=3, best_score=[0.5, -1.0])
    older = saved["state"]
    older["windows_done"] = older.pop("steps_in_epoch") + 2
    assert restore(tmp_path, saved).steps_in_epoch == 2


def set_moment(value: float) -> Callable[[dict[str, Any]], None]:
    def change(saved: dict[str, Any]) -> None:
        saved["optimizer"]["state"][0]["exp_avg"][0, 0] = value

    return change


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda saved: saved.update(state=[1, 2]),
    "no state": lambda saved: saved.pop("state"),
    "unknown counter": lambda saved: saved["state"].update(surprise=1),
    "missing counter": lambda saved: saved["state"].pop("epoch"),
    "negative counter": lambda saved: saved["state"].update(global_step=-3),
    "counter of another type": lambda saved: saved["state"].update(epoch="1"),
    "score that is no number": lambda saved: saved["state"].update(best_score=[math.nan]),
    "no random states": lambda saved: saved.update(random_states=[]),
    "random states of another kind": lambda saved: saved.update(random_states=[{"python": 3}]),
    "optimizer without state": lambda saved: saved.update(optimizer={}),
    "NaN moments": set_moment(math.nan),
    "infinite moments": set_moment(math.inf),
    "moments of another shape": lambda saved: saved["optimizer"]["state"][0].update(exp_avg=torch.ones(7)),
    "moments of another parameter": lambda saved: saved["optimizer"]["state"].update({5: {}}),
    "moments that are no tensors": lambda saved: saved["optimizer"]["state"][0].update(exp_avg="x"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_state_that_lies(tmp_path: Path, lie: str) -> None:
    saved = content()
    LIES[lie](saved)
    with pytest.raises(UserError, match=r"检查点 .*请换用更早的检查点。$"):
        restore(tmp_path, saved)


def test_settings_of_the_optimiser_are_this_run_s(tmp_path: Path) -> None:
    saved = content()
    saved["optimizer"]["param_groups"][0].update(betas=(5.0, math.nan), eps=math.nan, weight_decay=9.0)
    run_state.save(saved, tmp_path)
    optimizer = optimizer_after_a_step()
    run_state.restore(ACCELERATOR, optimizer, run_state.read(tmp_path, {}), tmp_path)
    (group,) = optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0.5)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (bytearray, (2**36,))


def test_states_that_would_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / STATE_FILE
    torch.save({"state": Bomb()}, path)
    with pytest.raises(UserError, match="已损坏"):
        run_state.load_state(tmp_path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps("a" * 10**7))
    with pytest.raises(UserError, match="已损坏"):
        run_state.load_state(tmp_path)


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("owned",))


def test_a_state_that_executes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Payload(), tmp_path / STATE_FILE)
    with pytest.raises(UserError, match="已损坏"):
        run_state.load_state(tmp_path)
    assert not Path("owned").exists()


def test_the_order_of_lora_modules_makes_no_difference(tmp_path: Path) -> None:
    saved = {"lora_target_modules": "['dense', 'query_key_value']"}
    run_state.check_same_run(tmp_path, saved, {"lora_target_modules": "['query_key_value', 'dense']"})
    for other in ("['dense']", "['dense', 'query_key_value', 'dense_h_to_4h']", "auto"):
        with pytest.raises(UserError, match="lora_target_modules"):
            run_state.check_same_run(tmp_path, saved, {"lora_target_modules": other})


def test_random_generators_go_back(tmp_path: Path) -> None:
    import numpy as np

    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.standard_normal(), torch.rand(1).item()  # noqa: NPY002

    set_seed(3)
    draw()  # leaves numpy with a second normal number in store
    torch.save(run_state.random_state(), tmp_path / "state.pt")
    expected = draw()
    run_state.restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == expected
