#!/bin/sh
# Adapters with an explicit shadow: of another family and size, with and without an embedding of its own.
. "$(dirname "$0")/lib.sh"
make_base
sed -e 's/"qwen3"/"llama"/' -e 's/"hidden_size": 32/"hidden_size": 16/' -e 's/"num_hidden_layers": 3/"num_hidden_layers": 2/' \
  config.json >small.json
expect 0 "$shadowpeft" init --config small.json --output small --seed 2
sed 's/"qwen3"/"llama"/' config.json >wide.json
expect 0 "$shadowpeft" init --config wide.json --output wide --seed 3

# A fresh one leaves the base as it is, whatever the shadow says.
expect 0 "$shadowpeft" eval --base base --data data.jsonl --json --mode base_shadow
cp out plain
expect 0 "$shadowpeft" init --base base --shadow small --output fresh
expect 0 test -f fresh/shadow_model_config.json
expect 0 "$shadowpeft" eval --base base --adapter fresh --data data.jsonl --json --mode base_shadow
cmp out plain || { echo "FAILED: a fresh adapter changes the base"; exit 1; }

# Training, the adapter loads by itself and, without its shadow_model_config.json, with --shadow.
expect 0 "$shadowpeft" train --base base --shadow small --data data.jsonl --output adapter --alpha 1 --dropout 0 \
  --injection-hidden-size 16 --gate-hidden-size 8 --num-train-epochs 150 --learning-rate 5e-3 --shadow-loss-weight 1 \
  --per-device-train-batch-size 4
expect 0 "$shadowpeft" eval --base base --adapter adapter --data data.jsonl --exact-match --max-new-tokens 16
says out base_shadow shadow_only "100.0%"
expect 0 "$shadowpeft" info --base base --adapter adapter
cp out share
expect 0 "$shadowpeft" eval --base base --adapter adapter --data data.jsonl --json
cp out known
rm adapter/shadow_model_config.json
fails "shadow_adapter.safetensors" "injection" -- "$shadowpeft" eval --base small --adapter adapter --data data.jsonl
fails "shadow_adapter.safetensors" "shadow_model" -- "$shadowpeft" eval --base base --adapter adapter --data data.jsonl
expect 0 "$shadowpeft" eval --base base --adapter adapter --shadow small --data data.jsonl --json
cmp out known || { echo "FAILED: --shadow gives another adapter than the file beside it"; exit 1; }
expect 0 "$shadowpeft" info --base base --adapter adapter --shadow small
cmp out share || { echo "FAILED: --shadow gives another trainable share"; exit 1; }

# Driven by the base's embedding: only where the sizes are equal.
expect 0 "$shadowpeft" init --base base --shadow wide --remove-embed-tokens --output shared
expect 0 "$shadowpeft" generate --base base --adapter shared --mode shadow_only --prompt "go" --max-new-tokens 4
fails "embed_tokens" "expected 32, found 16" -- "$shadowpeft" init --base base --shadow small --remove-embed-tokens \
  --output never
fails "nowhere" -- "$shadowpeft" init --base base --shadow nowhere --output never
expect 1 test -e never

# PEFT looks the shadow up where its config says, and has no shadow that borrows the base's embedding.
expect 0 "$shadowpeft" init --base base --dialect peft --shadow small --output in_peft
says in_peft/adapter_config.json '"shadow_model": "small"'
fails "wide" "remove_embed_tokens" PEFT -- "$shadowpeft" init --base base --dialect peft --shadow wide \
  --remove-embed-tokens --output never
missing never

# The detached shadow answers as it did on the base.
expect 0 "$shadowpeft" generate --base base --adapter adapter --shadow small --mode shadow_only --prompt "go forward two"
cp out attached
expect 0 "$shadowpeft" export --base base --adapter adapter --shadow small --output exported
expect 0 "$shadowpeft" generate --base exported --prompt "go forward two"
cmp out attached || { echo "FAILED: the exported shadow answers otherwise"; exit 1; }
expect 0 "$shadowpeft" info exported
says out "projected model"
expect 0 "$shadowpeft" export --base base --adapter shared --output plain_export
expect 0 "$shadowpeft" info plain_export
says out llama

# A model with a hidden projection by itself: its embedding and head stay as they are unless told otherwise.
cat >projected.json <<JSON
{"model_type": "causal_lm_with_hidden_projection", "base_hidden_size": 48, "hidden_size": 48, "vocab_size": 300,
 "shadow_model_class": "transformers.models.llama.modeling_llama:LlamaModel",
 "shadow_model_config_class": "transformers.models.llama.configuration_llama:LlamaConfig",
 "shadow_model_config": $(cat small.json)}
JSON
expect 0 "$shadowpeft" init --config projected.json --output projected --seed 4
cp base/tokenizer*.json projected/
expect 0 "$shadowpeft" info projected
says out "projected model" base_hidden_size 48
expect 0 "$shadowpeft" generate --base projected --prompt "go" --max-new-tokens 4
expect 0 "$shadowpeft" pretrain --base projected --data data.jsonl --output tuned --max-steps 2 --learning-rate 1e-2
for tensor in lm_head.weight shadow_model.embed_tokens.weight; do
  same_tensor projected/model.safetensors tuned/model.safetensors "$tensor" || exit 1
done
same_tensor projected/model.safetensors tuned/model.safetensors shadow_hidden_projection.weight >same && {
  echo "FAILED: training leaves the projection as it is"
  exit 1
}
fails "hidden projection" -- "$shadowpeft" init --base projected --output never
sed 's/"base_hidden_size": 48, //' projected.json >broken.json
fails broken.json base_hidden_size -- "$shadowpeft" init --config broken.json --output never
done_checks
