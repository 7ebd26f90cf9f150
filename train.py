"""Fine-tune ChatGLM-6B with QLoRA to extract triplets: `python train.py [--knob value …]`.

Every knob of `glm_config.ProjectConfig` can be set on the command line under its own name. The loop is
`train`: it reads from top to bottom, and its parts are the files of training/.
"""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path
from typing import NoReturn

from glm_config import ProjectConfig
from training import options, run_directory
from training.checks import QUICK_CHECKS, refuse_failures
from training.run_directory import RunLock
from training.schedule import is_due, learning_rate_at
from utils.common_utils import UserError, log, quiet_libraries, run_main, time_stamps
from utils.knobs import parse_overrides
from utils.launcher import check_meeting_point, leaving_at_once, read_launcher
from utils.startup import limit_primitive_cache


def train(config: ProjectConfig, lock: RunLock | None) -> int:
    """Step, log, evaluate and save until the run ends.

    Args:
        config: the knobs.
        lock: on the output directory, in the main process.

    Returns:
        The exit code.

    Raises:
        UserError: something is missing, does not fit, or went wrong that the user can mend.
    """
    # The one deferred import: behind this door is torch.
    from training import assembly, evaluation, failures, finish, gradients, saving
    from training.log import RunLog

    with failures.failures_explained(), RunLog(is_main=lock is not None) as run_log:
        run = assembly.assemble(config, lock, run_log)
        state, accelerator = run.state, run.accelerator
        with saving.saved_on_failure(run):
            if evaluation.is_evaluation_left(run):
                evaluation.evaluate(run)
            while (ending := finish.find_ending(run)) is None:
                samples = run.batches.next_step(state)

                # schedule
                learning_rate = learning_rate_at(
                    state.global_step, run.total_steps, config.learning_rate, config.warmup_ratio
                )
                gradients.set_learning_rate(run.optimizer, learning_rate)

                # forward and backward, in as few passes as memory allows
                loss, tokens = run.gradients.accumulate(samples)

                # clip and step; a loss or gradient that is no number is counted, not applied
                max_norm = config.max_grad_norm or math.inf
                grad_norm = float(accelerator.clip_grad_norm_(run.model.parameters(), max_norm))
                outcome = gradients.take_step(accelerator, run.optimizer, loss, grad_norm)
                state.count(outcome, tokens, loss, grad_norm)

                run_log.step(state, learning_rate, accelerator.device)
                if evaluation.is_evaluation_due(run):  # keeps the best
                    evaluation.evaluate(run)
                if is_due(state.global_step, config.save_freq):
                    saving.save_checkpoint(run)
        code = finish.finish(run, ending)
        accelerator.wait_for_everyone()  # the first process is where the others meet
        return code


def read_options(arguments: list[str], is_main: bool) -> ProjectConfig:
    """Read the command line, and what a checkpoint or an adapter says of the knobs that it leaves out.

    Raises:
        UserError: an option or its value is wrong, or the checkpoint or adapter can't be used.
    """
    config = ProjectConfig()
    given = parse_overrides(config, arguments, "用 QLoRA 微调 ChatGLM-6B 做三元组抽取。")
    options.prefer_resuming(config, given)
    config.validate()
    options.settle_save_dir(config, given)
    if is_main:
        run_directory.recover(Path(config.save_dir))
    options.settle(config, given, log if is_main else lambda line: None)
    config.validate()
    return config


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, check, train; return the exit code."""
    quiet_libraries()
    limit_primitive_cache()
    launcher = read_launcher()
    check_meeting_point(launcher)
    is_main = launcher.is_main
    try:
        config = read_options(sys.argv[1:] if argv is None else argv, is_main)
        refuse_failures(config, QUICK_CHECKS)
    except OSError as error:
        raise UserError(f"路径 {error.filename} 不能用（{error.strerror}），请检查拼写和权限。") from error
    locked = run_directory.lock_directory(Path(config.save_dir)) if is_main else contextlib.nullcontext()
    with locked as lock, time_stamps():
        return train(config, lock)


def command() -> NoReturn:
    """Run the script as an installed command."""
    with leaving_at_once():
        run_main(main)


if __name__ == "__main__":
    command()
