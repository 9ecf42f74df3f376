#!/usr/bin/env bash
# Run the tests: bash scripts/run_tests.sh [pytest's arguments]
# Makes .venv where it is missing. Tests that need data from outside the project look in $E3D_EXTRA_DATA.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
ensure_packages requirements.txt requirements-dev.txt
say "running the tests"
cd "$ROOT"
exec "$VENV/bin/python" -m pytest "$@"
