"""The bill of materials of a release: what a lock file lists, as CycloneDX.

Usage: python -m tools.sbom [--lock requirements-cuda.lock] > sbom.json

Source: CycloneDX 1.5 (ECMA-424), JSON; package URLs as pypi names are normalised (PEP 503).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from utils import __version__
from utils.command_line import ChineseArgumentParser
from utils.common_utils import PROJECT, UserError, run_main

NAME = "chatglm-triplet-qlora"


def read_lock(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Read a lock file.

    Returns:
        By package name: its version, and the SHA-256 of each of its files.

    Raises:
        UserError: it can't be read, or lists nothing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"读不了锁定文件 {path}（{error.strerror}），请检查路径。") from error
    packages = {
        name: (version, re.findall(r"--hash=sha256:([0-9a-f]{64})", hashes))
        for name, version, hashes in re.findall(
            r"^([a-z0-9.-]+)==(\S+)((?: \\\n +--hash=\S+)*)", text, re.MULTILINE
        )
    }
    if not packages:
        raise UserError(f"{path} 里没有锁定的软件包，应当是 tools/lock.sh 写的文件。")
    return packages


def bill(packages: dict[str, tuple[str, list[str]]]) -> dict[str, Any]:
    """Return the bill of materials of this version of the project with those packages."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": NAME,
                "version": __version__,
                "licenses": [{"license": {"id": "MIT"}}],
            }
        },
        "components": [
            {
                "type": "library",
                "name": name,
                "version": version,
                "purl": f"pkg:pypi/{name}@{version.replace('+', '%2B')}",
                # of its files, one a platform; any of them may be the one that is installed
                "properties": [{"name": "sha256", "value": value} for value in hashes],
            }
            for name, (version, hashes) in packages.items()
        ],
    }


def main() -> None:
    """Print the bill of materials."""
    parser = ChineseArgumentParser(prog="python -m tools.sbom", description="发布用的物料清单（CycloneDX）。")
    parser.add_argument(
        "--lock", type=Path, default=PROJECT / "requirements-cuda.lock", metavar="文件", help="锁定文件"
    )
    print(json.dumps(bill(read_lock(parser.parse_args().lock)), ensure_ascii=False, indent=2))


if __name__ == "__main__":
    run_main(main)
