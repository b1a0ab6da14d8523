#!/bin/sh
# A small model behind a large model's head: made, run by itself, and as the shadow of an adapter.
. "$(dirname "$0")/lib.sh"
make_base
sed -e 's/"hidden_size": 32/"hidden_size": 16/' -e 's/"num_hidden_layers": 3/"num_hidden_layers": 2/' config.json >small.json
expect 0 "$shadowpeft" init --config small.json --output small --seed 2
cp base/tokenizer*.json small/
echo '{"eos_token_id": 0, "max_new_tokens": 5}' >small/generation_config.json

expect 0 "$shadowpeft" wrap --shadow small --base base --output wrapped --json
says out '"rank": 32' '"reconstruction_error": 0.' '"init_optimal_projection": true'
says err "Wrote wrapped"
expect 0 "$shadowpeft" wrap --shadow small --base base --output again
says out "Projection: rank 32, reconstruction error 0."
cmp wrapped/model.safetensors again/model.safetensors || { echo "FAILED: twice the same gives two results"; exit 1; }
expect 0 test -f wrapped/tokenizer.json
expect 0 test -f wrapped/generation_config.json

# It is what it says, and runs.
expect 0 "$shadowpeft" info wrapped
says out "projected model" base_hidden_size 32 qwen3
expect 0 "$shadowpeft" generate --base wrapped --prompt "go forward" --max-new-tokens 4
expect 0 "$shadowpeft" eval --base wrapped --data data.jsonl --json

# The shadow of an adapter on the large model; its projection comes along.
expect 0 "$shadowpeft" init --base base --shadow wrapped --output adapter
expect 0 "$shadowpeft" eval --base base --adapter adapter --data data.jsonl --json
same_tensor wrapped/model.safetensors adapter/shadow_adapter.safetensors shadow_hidden_projection.weight || {
  echo "FAILED: the adapter's projection is another one"
  exit 1
}
# Detached, it answers as the wrapped model does: the head is the same.
expect 0 "$shadowpeft" generate --base wrapped --prompt "go forward two" --max-new-tokens 8
cp out attached
expect 0 "$shadowpeft" generate --base base --adapter adapter --mode shadow_only --prompt "go forward two" --max-new-tokens 8
cmp out attached || { echo "FAILED: the shadow answers otherwise"; exit 1; }

# A model behind its own head is itself: the projection is the identity.
expect 0 "$shadowpeft" wrap --shadow base --base base --output same --json
says out '"rank": 32'
expect 0 "$shadowpeft" eval --base base --data data.jsonl
cp out plain
expect 0 "$shadowpeft" eval --base same --data data.jsonl
cmp out plain || { echo "FAILED: a model behind its own head is another"; exit 1; }

# Fresh values depend on the seed.
for seed in 1 2; do
  expect 0 "$shadowpeft" wrap --shadow small --base base --output "fresh$seed" --no-init-optimal-projection --seed $seed
  says out "fresh values"
done
same_tensor fresh1/model.safetensors fresh2/model.safetensors shadow_hidden_projection.weight >equal.txt && {
  echo "FAILED: two seeds give one projection"
  exit 1
}
expect 0 "$shadowpeft" wrap --shadow small --base base --output fresh --no-init-optimal-projection --json --dtype bf16
says out '"reconstruction_error": null'
expect 0 "$shadowpeft" info fresh
says out '"BF16"'

# What does not fit is refused at once.
sed 's/"vocab_size": 300/"vocab_size": 304/' small.json >padded.json
expect 0 "$shadowpeft" init --config padded.json --output padded
fails "padded/config.json" '"vocab_size": expected 300' "found 304" -- "$shadowpeft" wrap --shadow padded --base base --output never
fails "another output directory" -- "$shadowpeft" wrap --shadow small --base base --output small
fails "another output directory" -- "$shadowpeft" wrap --shadow small --base base --output ./base/
fails "causal_lm_with_hidden_projection" -- "$shadowpeft" wrap --shadow small --base wrapped --output never
fails "nowhere" -- "$shadowpeft" wrap --shadow nowhere --base base --output never
expect 2 "$shadowpeft" wrap --shadow small --base base
missing never
done_checks
