"""What launchers of several processes say in the environment."""

from __future__ import annotations

import pytest

from utils import launcher
from utils.common_utils import UserError
from utils.launcher import Launcher, check_meeting_point, leaving_at_once, read_launcher


def test_which_process_this_is() -> None:
    assert read_launcher({}) == Launcher(0, 1)
    assert read_launcher({"RANK": "0"}).is_main
    launched = read_launcher({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
    assert launched == Launcher(1, 2, 2) and not launched.is_main


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "1"}, "RANK=1 而没有 WORLD_SIZE"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 而WORLD_SIZE=2"),
        ({"RANK": "abc"}, "RANK='abc' 不是非负整数"),
        ({"RANK": "-1"}, "不是非负整数"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 没有意义"),
        ({"WORLD_SIZE": "2"}, "没有 RANK、LOCAL_RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "没有 LOCAL_RANK"),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE=0 没有意义"),
        ({"LOCAL_WORLD_SIZE": "x"}, "不是非负整数"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "PMI_SIZE='2' 而没有 WORLD_SIZE，像是 mpirun"),
        ({"OMPI_COMM_WORLD_SIZE": "x"}, "像是 mpirun"),
        ({"RANK": "9" * 400, "WORLD_SIZE": "1"}, "不是非负整数"),
    ],
)
def test_what_makes_no_sense(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_launcher(environment)


@pytest.mark.parametrize(
    ("end", "code"), [(SystemExit(2), 2), (SystemExit(), 0), (SystemExit("why"), 1), (ValueError("x"), 1)]
)
def test_a_process_of_several_leaves_at_once(
    end: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left: list[int] = []
    monkeypatch.setattr(launcher.os, "_exit", left.append)
    with pytest.raises(type(end)), leaving_at_once():  # alone: as any process
        raise end
    assert left == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    with leaving_at_once():
        raise end
    assert left == [code]
    assert ("Traceback" in capsys.readouterr().err) == isinstance(end, ValueError)


def test_where_processes_meet() -> None:
    check_meeting_point(Launcher(0, 1), {})
    check_meeting_point(Launcher(1, 2), {"MASTER_ADDR": "localhost", "MASTER_PORT": "1234"})
    with pytest.raises(UserError, match=r"WORLD_SIZE=2 而没有 MASTER_ADDR、MASTER_PORT"):
        check_meeting_point(Launcher(0, 2), {"MASTER_ADDR": ""})
    with pytest.raises(UserError, match=r"LOCAL_RANK 而没有 MASTER_ADDR"):
        check_meeting_point(Launcher(), {"LOCAL_RANK": "5"})
    assert read_launcher({"PMI_SIZE": "1"}) == Launcher()  # one process of srun
