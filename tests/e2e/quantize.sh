#!/bin/sh
# --quantize int8: the same continuations, training on such a base, what is reported and what is refused.
. "$(dirname "$0")/lib.sh"
demo=$source/examples/robot_intent

# The demo's base goes on in the same words, in both dtypes.
prompts='turn left and|go forward|pick up the'
for dtype in f32 bf16; do
  for prompt in "turn left and" "go forward two" "pick up the red" "where are"; do
    expect 0 "$shadowpeft" generate --base "$demo/base" --dtype $dtype --max-new-tokens 32 "$prompt"
    mv out plain
    expect 0 "$shadowpeft" generate --base "$demo/base" --dtype $dtype --max-new-tokens 32 --quantize int8 "$prompt"
    checks=$((checks + 1))
    test -s plain && cmp plain out || exit 1
  done
done

# What is held: a matrix of n bytes an element and a scale a row.
make_base
expect 0 "$shadowpeft" info --base base --json
says out '"base_dtype": "F32"' '"base_bytes": 134144'
expect 0 "$shadowpeft" info --base base --quantize int8 --json
says out '"base_dtype": "I8"'
expect 0 "$shadowpeft" info --base base --quantize int8
says out "Base held as I8"
expect 0 "$shadowpeft" bench decode --base base --no-adapter --quantize int8 --new-tokens 4 --prompt-len 4
says out '"base_dtype": "I8"'

# Training on it: the loss falls, the adapter loads with and without, a trained head is there in full.
expect 0 "$shadowpeft" train --base base --quantize int8 --data data.jsonl --output run --max-steps 60 \
  --learning-rate 5e-3 --logging-steps 20 --json
first=$(sed -n '1s/.*"loss": *\([0-9.]*\).*/\1/p' run/metrics.jsonl)
last=$(sed -n '3s/.*"loss": *\([0-9.]*\).*/\1/p' run/metrics.jsonl)
checks=$((checks + 1))
awk "BEGIN { exit !($last < 0.8 * $first) }" || {
  echo "FAILED: expected the loss to fall, found $first and $last"
  exit 1
}
expect 0 "$shadowpeft" eval --base base --adapter run --quantize int8 --data data.jsonl
expect 0 "$shadowpeft" eval --base base --adapter run --data data.jsonl
expect 0 "$shadowpeft" train --base base --quantize int8 --data data.jsonl --output heads --max-steps 2 \
  --modules-to-save lm_head,shadow_lm_head
expect 0 "$shadowpeft" info heads --json
says out '"F32"'
expect 0 "$shadowpeft" generate --base base --adapter heads --quantize int8 --max-new-tokens 4 "go"

# A run goes on as it began.
expect 0 "$shadowpeft" train --base base --quantize int8 --data data.jsonl --output part --max-steps 4 \
  --save-steps 2 --lr-scheduler-type constant
fails '"dtype"' 'base I8' -- "$shadowpeft" train --base base --data data.jsonl --output part --max-steps 6 \
  --save-steps 2 --lr-scheduler-type constant --resume

# What is detached has the base's own weights, and there is nothing to quantise where all of it trains.
expect 0 "$shadowpeft" export --base base --adapter run --output detached
expect 2 "$shadowpeft" export --base base --adapter run --output other --quantize int8
says err quantize
expect 2 "$shadowpeft" pretrain --base base --data data.jsonl --output other --quantize int8
says err quantize
expect 2 "$shadowpeft" generate --base base --quantize int4 go
says err "none, int8"

done_checks
