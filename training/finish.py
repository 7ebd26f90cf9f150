"""How a run ends: why, what is saved and said then, and with which exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import shlex
import sys

from accelerate.utils import broadcast_object_list

from bases.adapter import load_adapter_weights
from training.evaluation import describe_scores, evaluating, measure
from training.run import Run
from training.run_directory import RESULTS_FILE, list_checkpoints, write_marker
from training.saving import save_checkpoint
from utils.common_utils import UserError


class Ending(enum.Enum):
    """Why a run ends."""

    COMPLETE = "the last step is done"
    NO_GAIN = "evaluations found nothing better for too long"
    NOT_FINITE = "losses or gradients were not finite for too many steps"
    STOPPED = "a process was asked to stop"


def find_ending(run: Run) -> Ending | None:
    """Tell whether the run ends here, and why (all processes, with the same answer)."""
    state, config = run.state, run.config
    if run.is_stopping():
        return Ending.STOPPED
    if state.nonfinite_in_a_row >= config.max_nonfinite_steps:
        return Ending.NOT_FINITE
    if state.global_step >= run.total_steps:
        return Ending.COMPLETE
    if config.early_stopping_patience and state.evaluations_without_gain >= config.early_stopping_patience:
        return Ending.NO_GAIN
    return None


def finish(run: Run, ending: Ending) -> int:
    """Save, evaluate the best adapter on all of dev, say where things are; return the exit code.

    Raises:
        UserError: the losses were not finite, or there is no best adapter.
    """
    saved = run.saved_step == run.state.global_step or save_checkpoint(run)
    if ending is Ending.STOPPED:
        run.log.say(
            f"已保存第 {run.state.global_step} 步的检查点。"
            if saved
            else "这一步没有保存，只能从更早的检查点继续。"
        )
        run.log.say(f"继续训练请运行：\n  {resume_command(run)}")
        return run.stop.exit_code
    if ending is Ending.NOT_FINITE:
        where = f"状态保存在 checkpoint-{run.state.global_step}" if saved else "这一步没有保存成功"
        raise UserError(
            f"连续 {run.state.nonfinite_in_a_row} 步的损失或梯度不是有限数，已停止，{where}；"
            "请调低 --learning_rate 后继续，或在支持的显卡上改用 --fp16 false --bf16 true。"
        )
    if not run.state.best_score:
        _refuse_without_best(run)
    if not _evaluate_best(run):
        run.log.say(f"训练已完成，最后的评估没有做完。要做完它请运行：\n  {resume_command(run)}")
        return run.stop.exit_code
    run.accelerator.wait_for_everyone()
    if run.files.unsaved:
        what = "、".join(f"{name}（{reason}）" for name, reason in run.files.unsaved.items())
        run.log.say(
            f"错误：训练完成，但最后一次保存失败：{what}；{run.files.save_dir} 里是此前保存成功的版本。"
        )
        return 1
    return 0


def _refuse_without_best(run: Run) -> None:
    """Say why there is no best adapter.

    Raises:
        UserError: always.
    """
    (reason,) = broadcast_object_list([run.files.unsaved.get("最佳模型")])
    if reason is not None:
        raise UserError(
            f"最佳模型一次也没有保存成功（{reason}）；请腾出空间后运行：\n  {resume_command(run)}"
        )
    raise UserError("没有一次评估得到有限的结果，因此没有最佳模型；请调低 --learning_rate 后重新训练。")


def _evaluate_best(run: Run) -> bool:
    """Evaluate the best adapter on all of dev and write the report; return False if stopped meanwhile."""
    with run.log.paused("最后的评估"):
        load_adapter_weights(run.accelerator.unwrap_model(run.model), run.best)
        with evaluating(run):
            values, evaluation, tuning = measure(run, None)
    if values is None:
        return False
    if evaluation is not None:  # in the main process
        run.log.record("final", run.state.global_step, values)
        content = {"dev_loss": values["dev_loss"], **evaluation.to_dict()}
        level = evaluation.reliability.half_right_score()
        learnt = {"half_right_score": level} if level is not None else {}
        if tuning is not None:
            learnt |= tuning.of_adapter()
            content["tuning"] = dataclasses.asdict(tuning) | {"calibration": tuning.calibration._asdict()}
        if learnt:
            run.files.add_to_best(learnt)
        reported = run.files.save_report(json.dumps(content, ensure_ascii=False, indent=2) + "\n")
        run.log.say(f"最佳适配器（第 {run.state.best_step} 步）在全部验证集上：{describe_scores(values)}")
        if tuning is not None:
            run.log.say(tuning.describe())
        run.log.say(f"各种关系的得分：\n{evaluation.report.to_table()}")
        report = f"；评估报告：{run.files.save_dir / 'eval_report.json'}" if reported else ""
        run.log.say(f"适配器：{run.best}{report}")
        if evaluation.results and run.files.save_results(evaluation.results):
            results = shlex.quote(str(run.files.save_dir / RESULTS_FILE))
            run.log.say(f"逐句看对错：python -m export.report {results} -o report.html")
        with contextlib.suppress(OSError):  # a full disk; what matters is saved
            write_marker(run.files.save_dir, finished=True)
    return True


def resume_command(run: Run) -> str:
    """Return the command that continues this run.

    A checkpoint has every knob; where there is none yet, the present command line has to be repeated. A
    launcher of several processes does not pass its own words on; what stands for them is for the user to put
    in.
    """
    script, *rest = sys.argv
    has_checkpoint = bool(list_checkpoints(run.files.save_dir))
    if has_checkpoint:
        words = [script, "--save_dir", str(run.config.save_dir)]
    else:
        words = [script, *_without(rest, ("--overwrite_output_dir", "--resume_from_checkpoint"))]
    if has_checkpoint or run.config.init_adapter is None:
        words += ["--resume_from_checkpoint", "auto"]
    several = run.accelerator.num_processes > 1
    return ("accelerate launch（同样的选项） " if several else "python ") + shlex.join(words)


def _without(words: list[str], options: tuple[str, ...]) -> list[str]:
    """Return the words of a command line but for some options and their values."""
    kept: list[str] = []
    dropping = False
    for word in words:
        if word.startswith("--"):
            dropping = word.replace("-", "_").lstrip("_").startswith(tuple(name[2:] for name in options))
        if not dropping:
            kept.append(word)
    return kept
