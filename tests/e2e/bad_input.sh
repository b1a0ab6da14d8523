#!/bin/sh
# Bad input: one clear message that names file, key, expected and found; exit code 1; nothing half-written.
. "$(dirname "$0")/lib.sh"
make_base
weights=base/model.safetensors

# try TEXT...: evaluating ./broken fails and says so.
try() {
  fails "$@" broken -- "$shadowpeft" eval --base broken --data data.jsonl
}
fresh_copy() {
  rm -rf broken
  cp -r base broken
}

fresh_copy
rm broken/model.safetensors
try model.safetensors
fresh_copy
head -c 3000 $weights >broken/model.safetensors
try model.safetensors expected found
fresh_copy
head -c 5 $weights >broken/model.safetensors
try model.safetensors
fresh_copy
{ little_endian 99999999; printf '{}'; } >broken/model.safetensors
try model.safetensors header
header='{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
fresh_copy
{ little_endian ${#header}; printf '%s012345678901' "$header"; } >broken/model.safetensors
try model.safetensors
header='{"a":{"dtype":"F77","shape":[2],"data_offsets":[0,8]}}'
fresh_copy
{ little_endian ${#header}; printf '%s01234567' "$header"; } >broken/model.safetensors
try model.safetensors F77
# Every tensor that is missing or has another shape is listed at once.
header='{"model.norm.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
fresh_copy
{ little_endian ${#header}; printf '%s01234567' "$header"; } >broken/model.safetensors
try model.embed_tokens.weight model.layers.2.mlp.down_proj.weight model.norm.weight
header='{"model.embed_tokens.weight":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}'
fresh_copy
{ little_endian ${#header}; printf '%s01234567' "$header"; } >broken/model.safetensors
try model.embed_tokens.weight

change_config() {
  fresh_copy
  sed "$1" base/config.json >broken/config.json
}
change_config 's/"qwen3"/"nonesuch"/'
try config.json model_type nonesuch llama qwen3
change_config 's/"qwen3"/"distilbert"/'
try config.json distilbert
change_config 's/"hidden_size": 32/"hidden_size": "wide"/'
try config.json hidden_size
fresh_copy
printf '{"model_type": ' >broken/config.json
try config.json
rm broken/config.json
try config.json

# A base with a single layer takes no adapter.
sed 's/"num_hidden_layers": 3/"num_hidden_layers": 1/' config.json >shallow.json
expect 0 "$shadowpeft" init --config shallow.json --output shallow
cp base/tokenizer* shallow/
fails num_hidden_layers "at least 2" -- "$shadowpeft" init --base shallow --output adapter
missing adapter

# ShadowConfig's values.
for option in "--num-shadow-layers 0" "--injection-hidden-size 0" "--gate-hidden-size -1" "--dropout 1.5" \
  "--shadow-num-attention-heads 3"; do
  # shellcheck disable=SC2086
  fails "" -- "$shadowpeft" init --base base --output adapter $option
  [ "$(wc -l <err)" -eq 1 ] || { echo "FAILED: expected one line"; cat err; exit 1; }
  missing adapter
done
fails --  "$shadowpeft" train --base base --data data.jsonl --output adapter --learning-rate -1
says err learning_rate
expect 0 "$shadowpeft" init --base base --output adapter
sed 's/"alpha": [0-9.]*/"alpha": "big"/' adapter/shadow_config.json >broken.json
mkdir -p odd && cp adapter/shadow_adapter.safetensors odd/ && cp broken.json odd/shadow_config.json
fails shadow_config.json alpha -- "$shadowpeft" eval --base base --adapter odd --data data.jsonl
fails nowhere -- "$shadowpeft" eval --base base --adapter nowhere --data data.jsonl
# An adapter of another base.
sed 's/"hidden_size": 32/"hidden_size": 48/' config.json >wide.json
expect 0 "$shadowpeft" init --config wide.json --output wide
cp base/tokenizer* wide/
fails shadow_adapter.safetensors expected found -- "$shadowpeft" eval --base wide --adapter adapter --data data.jsonl

# Data.
: >empty.jsonl
fails empty.jsonl empty -- "$shadowpeft" train --base base --data empty.jsonl --output never
printf '{"prompt": "a", "completion": "b"}\n{"prompt": "a", \n' >cut.jsonl
fails cut.jsonl "line 2" -- "$shadowpeft" train --base base --data cut.jsonl --output never
printf '{"words": "a"}\n' >columns.jsonl
fails columns.jsonl words -- "$shadowpeft" train --base base --data columns.jsonl --output never
printf '{"text": 5}\n' >kind.jsonl
fails kind.jsonl text -- "$shadowpeft" train --base base --data kind.jsonl --output never
printf '{"prompt": "a", "completion": ""}\n' >nothing.jsonl
fails "" -- "$shadowpeft" train --base base --data nothing.jsonl --output never --no-append-eos
fails nowhere.jsonl -- "$shadowpeft" train --base base --data nowhere.jsonl --output never
missing never

# A tokenizer that knows more than the model.
sed 's/"vocab_size": 300/"vocab_size": 280/' config.json >small.json
expect 0 "$shadowpeft" init --config small.json --output small
cp base/tokenizer* small/
fails vocab -- "$shadowpeft" train --base small --data data.jsonl --output never
fresh_copy
head -c 700 base/tokenizer.json >broken/tokenizer.json
try tokenizer.json

# Places that cannot be written to.
: >file
fails file/output -- "$shadowpeft" train --base base --data data.jsonl --output file/output
fails file/output -- "$shadowpeft" init --config config.json --output file/output
fails nowhere/out.safetensors -- "$shadowpeft" forward --base "$source/tests/data/parity/qwen3/base" \
  --input "$source/tests/data/parity/qwen3/input.safetensors" --output nowhere/out.safetensors

# A loss that is no number ends training with its step, and what was good stays.
expect 1 "$shadowpeft" train --base base --data data.jsonl --output diverged --learning-rate 1e30 --max-grad-norm 0 \
  --max-steps 50 --save-steps 1
cp err said
expect 0 grep -Eq "step [0-9]+: the (loss|gradient's norm) is -?(nan|inf); diverged/checkpoint-[0-9]+ holds" said
expect 0 "$shadowpeft" info diverged/checkpoint-1
done_checks
