#!/usr/bin/env bash
# Moving MNIST in a few minutes, from nothing: environment, packages, a set of moving digits, training, test, pictures.
#
#   bash scripts/quickstart_mm.sh
#
# Everything goes to quickstart/moving_mnist/; what is there from a run before is moved aside to earlier-<time>.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
ensure_packages requirements.txt requirements/digits.txt
cd "$ROOT"
PY="$VENV/bin/python"
ALL=quickstart/moving_mnist
DATA=$ALL/data
# One digit on a small frame is what a small network learns in minutes. The full size is in paddle_e3d_lstm_mm_train.sh.
FRAMES=(--digits 1 --size 32 --digit_size 16 --length 10)
NETWORK=(--img_width 32 --patch_size 4 --num_hidden 48 --filter_size 3 --norm_epsilon 1 --input_length 5
  --total_length 10)

if [ -e "$DATA" ] || [ -e "$ALL/checkpoints" ] || [ -e "$ALL/results" ]; then
  earlier="$ALL/earlier-$(date +%Y%m%d-%H%M%S)"
  say "moving the run before to $earlier"
  mkdir -p "$earlier"
  for folder in data checkpoints results; do
    if [ -e "$ALL/$folder" ]; then mv "$ALL/$folder" "$earlier/"; fi
  done
fi

say "making clips of a moving digit: $DATA (the test's digits are others than the training's)"
"$PY" scripts/make_moving_mnist.py --source digits --out "$DATA/train.npz" --clips 4000 --split train "${FRAMES[@]}"
"$PY" scripts/make_moving_mnist.py --source digits --out "$DATA/test.npy" --clips 200 --split test "${FRAMES[@]}"

say "training: 1500 iterations; docs/recipe.md explains the flags"
"$PY" runp.py --dataset_name mnist --train_data_paths "$DATA/train.npz" --valid_data_paths "$DATA/test.npy" \
  "${NETWORK[@]}" --save_dir "$ALL/checkpoints" --gen_frm_dir "$ALL/results" --seed 1 \
  --batch_size 2 --optimizer adam --betas 0.9,0.999 --weight_decay 0 --lr_schedule cosine:4e-3:1500:100 \
  --l1_weight 0.25 --l1_from 1050 --sampling_changing_rate 0.0008 \
  --max_iterations 1500 --display_interval 50 --snapshot_interval 500 --test_interval 500 --test_max_clips 40

say "testing on digits the network has not seen"
"$PY" runp.py --is_training False --dataset_name mnist --valid_data_paths "$DATA/test.npy" --batch_size 4 \
  --pretrained_model "$ALL/checkpoints/1500" --gen_frm_dir "$ALL/results"
"$PY" scripts/draw_forecast.py "$ALL"/results/test_result/{1,2,3} --out "$ALL/results/forecast.png"

say "done"
echo "the table above compares the network with the last given frame ('repeat') and with the mean of the given ones ('mean')"
echo "forecasts to look at:  $ROOT/$ALL/results/forecast.png"
echo "all on one page:       $ROOT/$ALL/results/test_result/report.html"
echo "all pictures:          $ROOT/$ALL/results/test_result/1 ... 10"
echo "curves:                $ROOT/$ALL/checkpoints/curves.png"
echo "checkpoint:            $ROOT/$ALL/checkpoints/1500"
