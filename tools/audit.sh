#!/usr/bin/env bash
# Look the locked packages up in the public list of known holes; fails too if one can't be looked up.
#
#   tools/audit.sh [words for pip-audit …]
#
# pip-audit gets an environment of its own: what it needs itself must not change the project's versions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

environment=build/audit
[ -x "$environment/bin/pip-audit" ] || "${PYTHON:-python3}" -m venv "$environment"
# shellcheck disable=SC2086  # PIP_ARGS are words
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} pip-audit
# (Those of the CPU are the same, but for torch itself and what CUDA adds.)
exec "$environment/bin/pip-audit" --strict --require-hashes --disable-pip -r requirements-cuda.lock "$@"
