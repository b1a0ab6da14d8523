#!/bin/sh
# Every command for real, on a model made here.
. "$(dirname "$0")/lib.sh"
make_base

expect 0 "$shadowpeft" info base
says out "qwen3" "num_hidden_layers" "kind"
expect 0 "$shadowpeft" info base --json
says out '"model_type": "qwen3"'

# A fresh adapter leaves the base as it is.
expect 0 "$shadowpeft" init --base base --output fresh --injection-hidden-size 8 --gate-hidden-size 4
expect 0 "$shadowpeft" info fresh
says out shadow_config
expect 0 "$shadowpeft" info --base base --adapter fresh
says out "Trainable params: " " || Total params: " " || Trainable%: "
# What all that takes: the caches of both, in f32.
says out "Base held as F32: 150,080 bytes" "Adapter: " "Keys and values of 1,000 tokens: " "Computes on: cpu (CPU)"
expect 0 "$shadowpeft" info --base base --adapter fresh --json
says out '"adapter_bytes": ' '"cache_bytes_per_1000_tokens": ' '"device_name": "CPU"'
parity=$source/tests/data/parity/qwen3
expect 0 "$shadowpeft" info --base "$parity/base" --adapter "$parity/adapter"
trainable=$(sed -n 's/.*"trainable_parameters": \([0-9]*\)\([0-9][0-9][0-9]\).*/\1,\2/p' "$parity/case.json")
total=$(sed -n 's/.*"total_parameters": \([0-9]*\)\([0-9][0-9][0-9]\).*/\1,\2/p' "$parity/case.json")
says out "Trainable params: $trainable || Total params: $total || Trainable%: "
expect 0 "$shadowpeft" eval --base base --data data.jsonl --json --mode base_shadow
cp out plain
expect 0 "$shadowpeft" eval --base base --adapter fresh --data data.jsonl --json --mode base_shadow
cmp out plain || { echo "FAILED: a fresh adapter changes the base"; exit 1; }

# Training learns the eight examples by heart, on both paths.
expect 0 "$shadowpeft" train --base base --data data.jsonl --eval-data data.jsonl --output adapter --alpha 1 --dropout 0 \
  --injection-hidden-size 16 --gate-hidden-size 8 --num-train-epochs 60 --learning-rate 1e-2 --shadow-loss-weight 1 \
  --per-device-train-batch-size 4 --eval-steps 60 --json
says out '"steps": 120' '"output": "adapter"'
says err "step 120/120" eval_loss tokens/s
says err "Memory: about " " (weights " ", gradients and optimizer " ", one batch of "
expect 0 test -f adapter/shadow_adapter.safetensors
expect 0 test -f adapter/shadow_config.json
expect 0 test -f adapter/metrics.jsonl
expect 0 "$shadowpeft" eval --base base --adapter adapter --data data.jsonl --exact-match --max-new-tokens 16
says out base_shadow shadow_only "100.0%"

# Generation: both paths, several prompts, caches, sampling.
expect 0 "$shadowpeft" generate --base base --adapter adapter --prompt "go forward three"
says out "forward(three)"
expect 0 "$shadowpeft" generate --base base --adapter adapter --mode shadow_only --prompt "go forward three"
says out "forward(three)"
expect 0 "$shadowpeft" generate --base base --adapter adapter --prompt "go forward two" --prompt "go forward six" --json
says out '"text": " forward(two)"' '"text": " forward(six)"' '"finish_reason": "eos"'
expect 0 "$shadowpeft" generate --base base --adapter adapter --prompt "go forward two" --stop "(" --json
says out '"text": " forward"' '"finish_reason": "stop"'
expect 0 "$shadowpeft" generate --base base --prompt "the cat" --temperature 1.5 --seed 7 --max-new-tokens 12 --json
cp out sampled
expect 0 "$shadowpeft" generate --base base --prompt "the cat" --temperature 1.5 --seed 7 --max-new-tokens 12 --json
cmp out sampled || { echo "FAILED: the same seed gives other text"; exit 1; }
expect 0 "$shadowpeft" generate --base base --prompt "the cat" --temperature 1.5 --seed 7 --max-new-tokens 12 --json \
  --no-use-cache
cmp out sampled || { echo "FAILED: caches change the text"; exit 1; }
printf 'go forward five' | "$shadowpeft" generate --base base --adapter adapter - >out 2>err || exit 1
says out "forward(five)"
printf 'go forward one\r\n\ngo forward two' >prompts.txt
expect 0 "$shadowpeft" generate --base base --adapter adapter --prompts-file prompts.txt
says out "forward(one)" "forward(two)" "---"
printf '{"ask": "go forward one"}\n"go forward two"\n' >prompts.jsonl
expect 0 "$shadowpeft" generate --base base --adapter adapter --prompts-file prompts.jsonl --prompt-column ask
says out "forward(one)" "forward(two)"
printf '{"ask": 1}\n' >prompts.jsonl
fails prompts.jsonl "line 1" ask -- "$shadowpeft" generate --base base --prompts-file prompts.jsonl --prompt-column ask
# Prompts that are not UTF-8 are read as the tokenizer reads them, and never cut at a NUL byte.
printf 'the \377 cat' >bytes.txt
expect 0 "$shadowpeft" generate --base base --max-new-tokens 2 --json bytes.txt
says out "\"prompt\": \"the $(printf '\357\277\275') cat\""
printf 'the \000 cat' >bytes.txt
fails "NUL byte at 4" -- "$shadowpeft" generate --base base --max-new-tokens 2 bytes.txt
# Temperature 0 is greedy.
expect 0 "$shadowpeft" generate --base base --adapter adapter --prompt "go forward two" --temperature 0
says out "forward(two)"

# Text to ids and back.
expect 0 "$shadowpeft" tokenize --tokenizer base --text "the cat"
"$shadowpeft" tokenize --tokenizer base --decode --text "$(cat out)" >text || exit 1
[ "$(cat text)" = "the cat" ] || { echo "FAILED: ids do not lead back to their text"; exit 1; }
expect 0 "$shadowpeft" tokenize --base base --decode --no-special-tokens --text "0 $(cat out)"
cp out said
expect 1 grep -q endoftext said

# Forward from file to file, with the gradients of the adapter.
case_dir=$source/tests/data/parity/qwen3
expect 0 "$shadowpeft" forward --base "$case_dir/base" --adapter "$case_dir/adapter" --input "$case_dir/input.safetensors" \
  --output forward.safetensors --grads
for key in logits shadow_logits loss grad.shadow_injection_model.injection_downs; do
  expect 0 grep -qa "\"$key\"" forward.safetensors
done

# Pretraining, in bf16 and with parts frozen.
expect 0 "$shadowpeft" pretrain --base base --data corpus.txt --output pretrained --max-steps 3 --max-seq-length 32 \
  --dtype bf16 --freeze embed --quiet
expect 0 "$shadowpeft" info pretrained
says out BF16
expect 0 test -f pretrained/tokenizer.json

# A run that is interrupted and resumed ends in the bytes of one that was not.
train() { # exec: a kill must hit the command itself
  exec "$shadowpeft" train --base base --data data.jsonl --eval-data data.jsonl --output "$1" --max-steps 1200 --save-steps 50 \
    --learning-rate 1e-3 --per-device-train-batch-size 2 --dropout 0.1 --resume --quiet
}
(train whole) || exit 1
(train parts) &
pid=$!
tries=0
while [ ! -d parts/checkpoint-50 ] && [ $tries -lt 200 ]; do
  tries=$((tries + 1))
  sleep 0.05
done
kill -9 $pid
wait $pid 2>/dev/null
(train parts) || exit 1
for file in shadow_adapter.safetensors metrics.jsonl; do
  cmp whole/$file parts/$file || { echo "FAILED: $file differs after kill -9 and --resume"; exit 1; }
done

# Ctrl-C finishes the step, saves, says how to go on.
"$shadowpeft" train --base base --data data.jsonl --output stopped --max-steps 2000 --learning-rate 1e-3 \
  --save-steps 100000 2>err &
pid=$!
tries=0
while ! grep -q "step 10/" err && [ $tries -lt 200 ]; do
  tries=$((tries + 1))
  sleep 0.05
done
kill -INT $pid
wait $pid
[ $? -eq 1 ] || { echo "FAILED: expected exit code 1 after Ctrl-C"; cat err; exit 1; }
says err "Finishing this step" "resume from stopped/checkpoint-" "--resume"
stopped=$(ls -d stopped/checkpoint-*)
expect 0 "$shadowpeft" train --base base --data data.jsonl --output stopped --max-steps 2000 \
  --learning-rate 1e-3 --save-steps 100000 --resume --json
says out "\"steps\": $((2000 - ${stopped##*-}))"
done_checks
