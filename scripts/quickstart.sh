#!/usr/bin/env bash
# The whole path in a few minutes, from nothing: environment, packages, sample data, training, test, pictures.
#
#   bash scripts/quickstart.sh
#
# Everything goes to quickstart/; what is there from a run before is moved aside to quickstart/earlier-<time>.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
ensure_packages requirements.txt
cd "$ROOT"
PY="$VENV/bin/python"
DATA=quickstart/data
# A small network that learns to move a figure on in minutes. The full size is in paddle_e3d_lstm_kth_train.sh.
NETWORK=(--img_width 32 --patch_size 4 --num_hidden 48 --filter_size 3 --norm_epsilon 1 --input_length 5
  --total_length 10)

if [ -e quickstart/data ] || [ -e quickstart/checkpoints ] || [ -e quickstart/results ]; then
  earlier="quickstart/earlier-$(date +%Y%m%d-%H%M%S)"
  say "moving the run before to $earlier"
  mkdir -p "$earlier"
  for folder in data checkpoints results; do
    if [ -e "quickstart/$folder" ]; then mv "quickstart/$folder" "$earlier/"; fi
  done
fi

say "drawing sample data in KTH's layout: $DATA"
"$PY" scripts/make_sample_data.py --out "$DATA" --dusk --size 64x64 --frames 60 --actions walking,jogging,running \
  --persons 01,02,03,04,05,06,07,08,17,18

say "training: 3500 iterations; docs/recipe.md explains the flags"
"$PY" runp.py --train_data_paths "$DATA" --valid_data_paths "$DATA" "${NETWORK[@]}" --save_dir quickstart/checkpoints \
  --gen_frm_dir quickstart/results --seed 1 --batch_size 1 --optimizer adam --betas 0.9,0.999 --weight_decay 0 \
  --lr_schedule cosine:5e-3:3500:180 --l1_weight 0.3 --l1_from 2500 --sampling_changing_rate 0.00034 \
  --max_iterations 3500 --display_interval 100 --snapshot_interval 875 --test_interval 1750 --test_max_clips 20

say "testing on persons the network has not seen"
"$PY" runp.py --is_training False --valid_data_paths "$DATA" --batch_size 4 \
  --pretrained_model quickstart/checkpoints/3500 --gen_frm_dir quickstart/results
"$PY" scripts/draw_forecast.py quickstart/results/test_result/{4,7,10} --out quickstart/results/forecast.png

say "done"
echo "the table above compares the network with the last given frame ('repeat') and with the mean of the given ones ('mean')"
echo "forecasts to look at:  $ROOT/quickstart/results/forecast.png"
echo "all on one page:       $ROOT/quickstart/results/test_result/report.html"
echo "all pictures:          $ROOT/quickstart/results/test_result/1 ... 10"
echo "curves:                $ROOT/quickstart/checkpoints/curves.png"
echo "checkpoint:            $ROOT/quickstart/checkpoints/3500"
