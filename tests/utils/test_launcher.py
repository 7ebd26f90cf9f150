"""What launchers of several processes say in the environment."""

from __future__ import annotations

import pytest

from utils.common_utils import UserError
from utils.launcher import Launcher, read_launcher


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
        ({"RANK": "9" * 400, "WORLD_SIZE": "1"}, "不是非负整数"),
    ],
)
def test_what_makes_no_sense(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_launcher(environment)
