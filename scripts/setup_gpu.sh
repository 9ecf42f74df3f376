#!/usr/bin/env bash
# Make .venv with the build of Paddle that runs on this machine's NVIDIA card, and try the card: bash scripts/setup_gpu.sh
# Needs a driver (nvidia-smi), no CUDA and no cuDNN. A build of Paddle that is in .venv and does not fit is replaced.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
if [ $# -gt 0 ]; then
  echo "setup_gpu.sh: $1: expected no arguments; CUDA_VISIBLE_DEVICES chooses cards, PYTHON and E3D_VENV the environment" >&2
  exit 2
fi
ensure_environment
exec "$VENV/bin/python" "$ROOT/scripts/setup_gpu.py"
