#!/usr/bin/env bash
# The test suite, from a clean clone on: bash dev/test.sh [--fast] [arguments of pytest]
# A worker for each of a core's threads (pytest-xdist; its auto counts cores), each with whole files, so that a file's
# tests share their servers and models.
set -euo pipefail
cd "$(dirname "$0")/.."
source dev/setup.sh
# The tests start some hundred processes. Where the environment forbids bytecode, as container images like to, each of
# them would compile torch's sources anew: importing it took 7.9 s of a busy core instead of 3.4.
unset PYTHONDONTWRITEBYTECODE
exec "$UV" run pytest --durations=40 --numprocesses=logical --dist=loadfile --no-loadscope-reorder "$@"
