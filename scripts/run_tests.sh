#!/usr/bin/env bash
# Run the tests: bash scripts/run_tests.sh [--paddle VERSION] [--device gpu] [pytest's arguments]
# They run on all usable cores (-n 0: in one process), with the same random examples every time
# (HYPOTHESIS_PROFILE=search: with new ones). Makes .venv if it is missing; with --paddle 2.6.2 another one, .venv-2.6,
# of that Paddle (see requirements/paddle-*).
# --device: only the tests that show whether a card computes what it should, on that device (gpu, gpu:1, xpu ...).
# Tests that need data from outside the project look in $E3D_EXTRA_DATA.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
packages=requirements.txt
if [[ "${1:-}" == --paddle || "${1:-}" == --paddle=* ]]; then
  if [ "$1" = --paddle ]; then
    shift
    version="${1:-}"
  else
    version="${1#*=}"
  fi
  packages="requirements/paddle-$version.txt"
  if [[ ! "$version" =~ ^[0-9.]+$ || ! -f "$ROOT/$packages" ]]; then
    known="$(cd "$ROOT/requirements" && echo paddle-*.txt | sed 's/paddle-//g; s/\.txt//g')"
    echo "--paddle ${version:-(nothing)}: expected one of: $known; leave it out to test with the Paddle of .venv" >&2
    exit 2
  fi
  shift
  VENV="$VENV-${version%.*}"
fi
if [ "${1:-}" = --device ]; then
  # One process for the card. Without TF32, which rounds the factors of products to 10 bits.
  export E3D_TEST_DEVICE="${2:-}" NVIDIA_TF32_OVERRIDE=0
  shift
  set -- -n 0 -m device "${@:2}"
fi
ensure_packages "$packages" requirements/dev.txt
say "running the tests with $VENV"
cd "$ROOT"
# The networks of the tests are small: two threads would only wait for each other.
export MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"
export HYPOTHESIS_PROFILE="${HYPOTHESIS_PROFILE:-ci}"
exec "$VENV/bin/python" -m pytest -n auto --dist worksteal "$@"
