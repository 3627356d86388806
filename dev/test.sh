#!/usr/bin/env bash
# The test suite, from a clean clone on: bash dev/test.sh [arguments of pytest]
set -euo pipefail
cd "$(dirname "$0")/.."
source dev/setup.sh
exec "$UV" run pytest --durations=10 "$@"
