#!/bin/sh
# --quantize int8: the same continuations, training on such a base, what is reported and what is refused.
. "$(dirname "$0")/lib.sh"
demo=$source/examples/robot_intent

# The demo, trained for a moment on a base in int8: the loss falls, and answers are the same words with it and
# without, but for a rare tie.
head -n 20 "$demo/data/test.jsonl" >prompts.jsonl
expect 0 "$shadowpeft" train --base "$demo/base" --data "$demo/data/train.jsonl" --output demo --max-steps 120 \
  --per-device-train-batch-size 16 --learning-rate 2e-3 --lr-scheduler-type cosine --alpha 1 \
  --injection-hidden-size 64 --gate-hidden-size 32 --logging-steps 40 --quantize int8 --quiet
first=$(sed -n '1s/.*"loss": *\([0-9.]*\).*/\1/p' demo/metrics.jsonl)
last=$(sed -n '3s/.*"loss": *\([0-9.]*\).*/\1/p' demo/metrics.jsonl)
checks=$((checks + 1))
awk "BEGIN { exit !($last < 0.8 * $first) }" || {
  echo "FAILED: expected the loss to fall, found $first and $last"
  exit 1
}
for dtype in f32 bf16; do
  for type in none int8; do
    expect 0 "$shadowpeft" generate --base "$demo/base" --adapter demo --prompts-file prompts.jsonl --json \
      --max-new-tokens 24 --dtype $dtype --quantize $type
    mv out $type.$dtype
  done
  checks=$((checks + 1))
  same=$(grep -cxFf none.$dtype int8.$dtype)
  [ "$same" -ge 18 ] || {
    echo "FAILED: expected 18 of 20 answers in $dtype to be the same, found $same"
    exit 1
  }
done

# What is held: 37,248 elements of matrices with 1,068 rows, and 272 values of norms.
make_base
expect 0 "$shadowpeft" info --base base --json
says out '"base_dtype": "F32"' '"base_bytes": 150080'
expect 0 "$shadowpeft" info --base base --quantize int8 --json
says out '"base_dtype": "I8"' '"base_bytes": 42608'
expect 0 "$shadowpeft" info --base base --quantize int8
says out "Base held as I8"
expect 0 "$shadowpeft" bench decode --base base --no-adapter --quantize int8 --new-tokens 4 --prompt-len 4
says out '"base_dtype": "I8"'

# A head that trains is kept in full, and its adapter loads with and without.
expect 0 "$shadowpeft" train --base base --quantize int8 --data data.jsonl --output heads --max-steps 2 \
  --modules-to-save lm_head,shadow_lm_head
expect 0 "$shadowpeft" info heads --json
says out '"F32"'
expect 0 "$shadowpeft" generate --base base --adapter heads --quantize int8 --max-new-tokens 4 --prompt go
expect 0 "$shadowpeft" eval --base base --adapter heads --data data.jsonl
expect 0 "$shadowpeft" eval --base base --adapter heads --quantize int8 --data data.jsonl

# A run goes on as it began.
expect 0 "$shadowpeft" train --base base --quantize int8 --data data.jsonl --output part --max-steps 4 \
  --save-steps 2 --lr-scheduler-type constant
fails '"dtype"' 'base I8' -- "$shadowpeft" train --base base --data data.jsonl --output part --max-steps 6 \
  --save-steps 2 --lr-scheduler-type constant --resume

# What is detached has the base's own weights, and there is nothing to quantise where all of it trains.
expect 0 "$shadowpeft" export --base base --adapter heads --output detached
expect 2 "$shadowpeft" export --base base --adapter heads --output other --quantize int8
says err quantize
expect 2 "$shadowpeft" pretrain --base base --data data.jsonl --output other --quantize int8
says err quantize
expect 2 "$shadowpeft" generate --base base --quantize int4 --prompt go
says err "none, int8"

done_checks
