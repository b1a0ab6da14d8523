#!/bin/sh
# --device cuda, on the emulated GPU: the same words and losses as on the CPU, and what a machine may lack.
. "$(dirname "$0")/lib.sh"
make_base
options="--injection-hidden-size 8 --gate-hidden-size 4 --num-train-epochs 4 --learning-rate 1e-2 --shadow-loss-weight 1
  --per-device-train-batch-size 4 --dropout 0"

# The first loss of training is the CPU's to six digits, and so is that of what it has made, nearly.
expect 0 "$shadowpeft" info --base base --device cuda --json
says out '"device": "cuda"'
for device in cpu cuda; do
  expect 0 "$shadowpeft" train --base base --data data.jsonl --output $device $options --save-steps 4 --logging-steps 1 \
    --dtype f32 --device $device --quiet
  expect 0 "$shadowpeft" eval --base base --adapter $device --data data.jsonl --dtype f32 --device $device --json
  sed -n 's/.*"loss": \([0-9.]*\).*/\1/p' $device/metrics.jsonl >$device.losses
  sed -n 's/.*"loss": \([0-9.]*\).*/\1/p' out >>$device.losses
done
expect 0 test "$(wc -l <cpu.losses)" -ge 9
expect 0 awk 'NR == FNR { want[NR] = $1; next }
  { off = ($1 - want[FNR]) / want[FNR]; if (off > 1e-4 || off < -1e-4) { print FNR, want[FNR], $1; exit 1 } }' cpu.losses cuda.losses

# A run that was stopped goes on to the same bytes.
expect 0 "$shadowpeft" train --base base --data data.jsonl --output resumed $options --save-steps 4 --dtype f32 --quiet --device cuda --max-steps 8
cp -r cuda again
rm -rf again/checkpoint-8 again/shadow_adapter.safetensors
expect 0 "$shadowpeft" train --base base --data data.jsonl --output again $options --save-steps 4 --logging-steps 1 --dtype f32 \
  --device cuda --resume --quiet
expect 0 cmp cuda/shadow_adapter.safetensors again/shadow_adapter.safetensors

# Generation: one prompt and several, with the likeliest tokens and with drawn ones, with int8 weights, without caches.
for how in "" "--temperature 1.3 --seed 7" "--repetition-penalty 1.2 --top-p 0.9" "--quantize int8" "--no-use-cache" "--mode shadow_only"; do
  for device in cpu cuda; do
    expect 0 "$shadowpeft" generate --base base --adapter cpu --prompt "the cat" --prompt "go forward" --prompt "turn left then" \
      --max-new-tokens 8 --dtype f32 --device $device --json $how
    cp out said.$device
  done
  expect 0 cmp said.cpu said.cuda
done
expect 0 "$shadowpeft" bench decode --base base --device cuda --prompt-len 4 --new-tokens 4 --quiet
says out '"device": "cuda"' '"device_memory_bytes"'

# What a machine may lack: one line each under `cuda`; `auto` goes on without it and says why.
lacks() {
  EMULATED_GPU=$1 fails "$2" -- "$shadowpeft" generate --base base --prompt x --device cuda --max-new-tokens 1 --quiet
  expect 0 test "$(wc -l <err)" -eq 1
  EMULATED_GPU=$1 expect 0 "$shadowpeft" generate --base base --prompt x --max-new-tokens 1
  says err "computing on the CPU: $2"
}
lacks cards=0 "cuda: expected a GPU, found none (no CUDA-capable device is detected)"
lacks driver=11080 "cuda: expected a driver for CUDA 12 or newer, found one for 11.8"
lacks driver=0 "cuda: expected an NVIDIA driver for CUDA 12, found none"
lacks capability=75 "cuda:0: expected a card of compute capability 8.0 or newer, found Emulated GPU of 7.5"
fails "cuda:3: expected a GPU below 1, the number of cards" -- "$shadowpeft" info --base base --device cuda:3

# Too little for what is asked for: known before the first step, with the options that make it fit; with them it does.
tight() {
  "$shadowpeft" train --base base --data data.jsonl --output tight --num-train-epochs 1 --dtype f32 --device cuda --quiet "$@"
}
EMULATED_GPU=memory=33 fails "training needs about" "are free (Emulated GPU)" \
  "it would fit with --per-device-train-batch-size 4 --gradient-accumulation-steps 2" -- tight --per-device-train-batch-size 8
missing tight
EMULATED_GPU=memory=33 expect 0 tight --per-device-train-batch-size 4 --gradient-accumulation-steps 2

# Too little for the model: one line.
EMULATED_GPU=memory=1 fails "GPU 0: out of memory:" "MiB more needed" -- \
  "$shadowpeft" generate --base base --prompt x --device cuda --quiet

# A run that is killed, wherever it stands, leaves what it saved before, and goes on to the same bytes.
cp -r cuda killed
rm -rf killed/checkpoint-8 killed/shadow_adapter.safetensors
again() {
  "$@" "$shadowpeft" train --base base --data data.jsonl --output killed $options --save-steps 4 --logging-steps 1 \
    --dtype f32 --device cuda --resume --quiet
}
for seconds in 0.3 0.5 0.7; do
  again timeout -s KILL $seconds >out 2>err
  expect 0 "$shadowpeft" eval --base base --adapter killed/checkpoint-4 --data data.jsonl --device cpu
done
expect 0 again env
expect 0 cmp cuda/shadow_adapter.safetensors killed/shadow_adapter.safetensors
done_checks
