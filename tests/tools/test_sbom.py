"""The bill of materials lists what a lock file does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools import sbom
from utils import __version__
from utils.common_utils import UserError


def test_a_lock_file_becomes_components(tmp_path: Path) -> None:
    first, second = "a" * 64, "b" * 64
    path = tmp_path / "x.lock"
    path.write_text(
        f"# made by\ntorch==2.13.0+cpu \\\n    --hash=sha256:{first} \\\n    --hash=sha256:{second}\n"
        f"tqdm==4.70.1 \\\n    --hash=sha256:{first}\n",
        encoding="utf-8",
    )
    bill = sbom.bill(sbom.read_lock(path))
    assert bill["metadata"]["component"]["version"] == __version__
    torch, tqdm = bill["components"]
    assert (torch["name"], torch["version"], torch["purl"]) == (
        "torch",
        "2.13.0+cpu",
        "pkg:pypi/torch@2.13.0%2Bcpu",
    )
    assert [each["value"] for each in torch["properties"]] == [first, second]
    assert len(tqdm["properties"]) == 1


def test_the_command_prints_the_project_s_own(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sbom"])
    sbom.main()
    names = {each["name"] for each in json.loads(capsys.readouterr().out)["components"]}
    assert {"torch", "transformers", "cpm-kernels", "nvidia-cublas"} <= names
    monkeypatch.setattr(sys, "argv", ["sbom", "--lock", str(root / "README.md")])
    with pytest.raises(UserError, match="没有锁定的软件包"):
        sbom.main()
    monkeypatch.setattr(sys, "argv", ["sbom", "--lock", "none.lock"])
    with pytest.raises(UserError, match="读不了锁定文件"):
        sbom.main()
