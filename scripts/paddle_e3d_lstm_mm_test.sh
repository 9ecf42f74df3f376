#!/usr/bin/env bash
# Test a checkpoint on Moving MNIST at the full size: PSNR, SSIM, MSE and MAE over every clip of a file, and pictures.
#
#   bash scripts/paddle_e3d_lstm_mm_test.sh [TEST_DATA [PRETRAINED_MODEL [GEN_FRM_DIR]]] [more flags of runp.py]
#
# TEST_DATA is a file, .npz or .npy (mnist_test_seq.npy), PRETRAINED_MODEL a checkpoint's directory; the defaults are
# paths as on AI Studio. Each may be an environment variable too: TEST_DATA, PRETRAINED_MODEL, GEN_FRM_DIR, PYTHON.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$ROOT/scripts/arguments.sh"
take_paths TEST_DATA PRETRAINED_MODEL GEN_FRM_DIR -- "$@"

exec "$(runtime_python)" "$ROOT/runp.py" \
  --is_training False \
  --dataset_name mnist \
  --valid_data_paths "${TEST_DATA:-/home/aistudio/data/moving-mnist/moving-mnist-test.npz}" \
  --pretrained_model "${PRETRAINED_MODEL:-/home/aistudio/work/checkpoints/_mm_e3d_lstm/best}" \
  --gen_frm_dir "${GEN_FRM_DIR:-results/_mm_e3d_lstm}" \
  --model_name e3d_lstm \
  --allow_gpu_growth True \
  --img_channel 1 \
  --img_width 64 \
  --input_length 10 \
  --total_length 20 \
  --filter_size 5 \
  --num_hidden 64,64,64,64 \
  --patch_size 4 \
  --layer_norm True \
  --batch_size 4 \
  --num_save_samples 10 \
  "${MORE[@]}"
