"""The extraction service: `python serve.py --adapter DIR`, then http://127.0.0.1:8000."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from glm_config import ProjectConfig
from serving.arguments import read_command
from utils.common_utils import UserError, quiet_libraries, run_main

PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments; those of the process if not given.

    Returns:
        The exit code: 0 after SIGTERM or Ctrl-C, when all requests that were taken have their answers.

    Raises:
        UserError: what was asked for can't be done.
    """
    command = read_command(sys.argv[1:] if argv is None else argv)
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"缺少软件包 {'、'.join(missing)}，请运行：pip install -r requirements-serve.txt。")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    if not command.debug:
        quiet_libraries()
    from serving import runs, training
    from serving.server import serve

    store = runs.RunStore(command.runs.absolute())
    routers = [runs.make_router(store, command.allow_training)]
    if command.allow_training:
        routers.append(training.make_router(training.Trainer(store, command.data.absolute(), plan_memory)))
    return serve(command, routers)


def plan_memory(config: ProjectConfig) -> list[dict[str, str]]:
    """Return what a configuration would take in memory, as rows of verdict, item and text."""
    from training.device_checks import check_memory

    return [{"verdict": row.status, "item": row.item, "text": row.detail} for row in check_memory(config)]


def command() -> NoReturn:
    """Run the script as an installed command."""
    run_main(main)


if __name__ == "__main__":
    command()
