#!/usr/bin/env bash
# The test suite, from a clean clone on: bash dev/test.sh [--fast] [arguments of pytest]
# One worker more than there are threads, because tests wait for servers and browsers a third of the time. Each gets
# whole files, so that a file's tests share their servers and models.
set -euo pipefail
cd "$(dirname "$0")/.."
source dev/setup.sh
# The tests start some hundred processes. Where the environment forbids bytecode, as container images like to, each of
# them would compile torch's sources anew: importing it took 7.9 s of a busy core instead of 3.4.
unset PYTHONDONTWRITEBYTECODE
workers=$(($(getconf _NPROCESSORS_ONLN) + 1))
exec "$UV" run pytest --durations=40 --numprocesses="$workers" --dist=loadfile --no-loadscope-reorder "$@"
