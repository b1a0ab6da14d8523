#!/bin/sh
# Classification and PEFT's dialect through the command: made, trained, measured, detached, converted; and what does
# not fit.
. "$(dirname "$0")/lib.sh"
make_base
sed 's/"num_hidden_layers": 3/"num_hidden_layers": 2/' config.json >two.json
expect 0 "$shadowpeft" init --config two.json --output two --seed 2 --quiet
cp base/tokenizer*.json two/

{
  echo "text,label"
  for n in one two three four; do printf 'turn left %s,turn\ngo forward %s,go\n"stop, %s",stop\n' $n $n $n; done
} >train.csv
sed 's/,go$/,1/; s/stop$/0/; s/turn$/2/' train.csv >numbers.csv
tr ',' '\t' <numbers.csv | sed 's/"//g; s/stop\t /stop, /' >numbers.tsv

# train_classifier DIALECT BASE OUTPUT OPTION...
train_classifier() {
  dialect=$1 on=$2 to=$3
  shift 3
  expect 0 "$shadowpeft" train --base "$on" --task seq-cls --dialect "$dialect" --data train.csv --eval-data train.csv \
    --output "$to" --num-train-epochs 40 --learning-rate 1e-2 --per-device-train-batch-size 4 --json "$@"
  says out '"output"' '"train_loss"'
  says err "12 examples" "3 labels"
}

for dialect in shadow_peft peft; do
  rate=$([ $dialect = peft ] && echo --shadow-dropout || echo --dropout)
  layers=$([ $dialect = peft ] && echo --shadow-num-hidden-layers || echo --num-shadow-layers)
  train_classifier $dialect base "$dialect" "$rate" 0.1 "$layers" 2 --shadow-loss-weight 1
  # The adapter knows its task and its labels, whatever names the data have for them.
  expect 0 "$shadowpeft" eval --base base --adapter $dialect --data train.csv --json
  says out '"accuracy": 1.0' '"macro_f1": 1.0' '"labels": ["go", "stop", "turn"]' \
    '"confusion": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]' '"mode": "shadow_only"'
  cp out measured
  expect 0 "$shadowpeft" eval --base base --adapter $dialect --data train.csv
  says out accuracy macro-F1 "100.0%" "taken for label number" turn
  expect 0 "$shadowpeft" info $dialect --json
  says out '"seq-cls"' '"adapter"'
  # Trained on: the same command goes on from the adapter, and from where a run was.
  expect 0 "$shadowpeft" train --base base --adapter $dialect --data train.csv --output "$dialect-more" --max-steps 2 --json
  fails "holds checkpoint" -- "$shadowpeft" train --base base --adapter $dialect --data train.csv --output "$dialect-more" \
    --max-steps 2
  # Detached, it is a checkpoint of a sequence classifier.
  expect 0 "$shadowpeft" export --base base --adapter $dialect --output "$dialect-export"
  says "$dialect-export/config.json" Qwen3ForSequenceClassification '"0": "go"' '"turn": 2'
  expect 0 "$shadowpeft" eval --base "$dialect-export" --data train.csv --json
  says out '"accuracy": 1.0' '"mode": "base_shadow"'
  # A classifier's own head is the base of another adapter.
  expect 0 "$shadowpeft" init --base "$dialect-export" --dialect $dialect --output "$dialect-on-top"
  expect 0 "$shadowpeft" eval --base "$dialect-export" --adapter "$dialect-on-top" --data train.csv --json --mode base_shadow
  says out '"accuracy": 1.0'

  # What does not fit a classifier, in one line that says why.
  fails "sequence classifier" -- "$shadowpeft" generate --base base --adapter $dialect --prompt go
  fails "exact_match" "a classifier gives labels" -- "$shadowpeft" eval --base base --adapter $dialect --data train.csv --exact-match
  fails numbers.csv "line 2" "expected one of 3 labels" "found \"7\"" -- sh -c \
    "sed 's/2\$/7/' numbers.csv >odd.csv; cp odd.csv numbers.csv; exec '$shadowpeft' eval --base base --adapter $dialect --data numbers.csv"
  sed 's/,7$/,2/' odd.csv >numbers.csv
  fails data.jsonl '"text"' -- "$shadowpeft" eval --base base --adapter $dialect --data data.jsonl
  fails "plain text" -- "$shadowpeft" eval --base base --adapter $dialect --data corpus.txt
  fails packing -- "$shadowpeft" train --base base --adapter $dialect --data train.csv --output never --packing
  # The other task.
  texts=$([ $dialect = peft ] && echo task_type || echo classifier_head.weight)
  fails "$texts" -- "$shadowpeft" eval --base base --adapter $dialect --task causal-lm --data data.jsonl
  expect 0 "$shadowpeft" init --base base --dialect $dialect --output "$dialect-causal"
  texts=$([ $dialect = peft ] && echo task_type || echo 'labels are not known')
  fails "$texts" -- "$shadowpeft" eval --base base --adapter "$dialect-causal" --task seq-cls --data train.csv
  # Another number of labels than the base has.
  expect 0 "$shadowpeft" init --base base --task seq-cls --num-labels 4 --dialect $dialect --output "$dialect-four"
  fails "expected " 3 "found " 4 -- "$shadowpeft" eval --base "$dialect-export" --adapter "$dialect-four" --data train.csv
  # No labels at all.
  fails "labels are not known" -- "$shadowpeft" init --base base --task seq-cls --dialect $dialect --output never
  # Another base.
  fails "$dialect/" " tensors " -- "$shadowpeft" eval --base two --adapter $dialect --data train.csv
  missing never
done

# Conversion, where a single layer is adapted; nothing is written where it cannot be.
expect 0 "$shadowpeft" train --base two --task seq-cls --data train.csv --output own-two --max-steps 20 --learning-rate 1e-2
expect 0 "$shadowpeft" eval --base two --adapter own-two --data train.csv --json
cp out measured
expect 0 "$shadowpeft" convert --base two --adapter own-two --to peft --output peft-two
expect 0 test -f peft-two/adapter_config.json
expect 0 "$shadowpeft" eval --base two --adapter peft-two --data train.csv --json
cmp out measured || { echo "FAILED: the converted adapter measures otherwise"; exit 1; }
expect 0 "$shadowpeft" convert --base two --adapter peft-two --to shadow_peft --output back
expect 0 "$shadowpeft" eval --base two --adapter back --data train.csv --json
cmp out measured || { echo "FAILED: converted back it measures otherwise"; exit 1; }
cp own-two/shadow_config.json kept.json
fails "other dialect (shadow_peft)" "another directory" -- "$shadowpeft" convert --base two --adapter own-two --to peft --output own-two
cmp own-two/shadow_config.json kept.json || exit 1
missing own-two/adapter_config.json
fails "1 updates lie between the 2 adapted layers" -- "$shadowpeft" convert --base base --adapter shadow_peft --to peft --output never
fails "nowhere" -- "$shadowpeft" convert --base two --adapter nowhere --to peft --output never
expect 2 "$shadowpeft" convert --base two --adapter own-two --to lora --output never
missing never
# Neither does training cover up the other dialect's adapter, and says so before its first step.
fails "other dialect (PEFT)" -- "$shadowpeft" train --base two --task seq-cls --data train.csv --output peft-two --max-steps 1
missing peft-two/metrics.jsonl

# Causal LM in PEFT's dialect.
expect 0 "$shadowpeft" train --base base --dialect peft --data data.jsonl --output lm --r 4 --layers-to-transform 1-2 \
  --max-steps 4 --json
expect 0 "$shadowpeft" eval --base base --adapter lm --data data.jsonl --json
says out '"perplexity"' '"mode": "shadow_only"'
expect 0 "$shadowpeft" generate --base base --adapter lm --prompt "go" --max-new-tokens 3
expect 0 "$shadowpeft" export --base base --adapter lm --output lm-export
expect 0 "$shadowpeft" init --base base --dialect peft --modules-to-save lm_head --output lm-head
expect 0 "$shadowpeft" eval --base base --adapter lm-head --data data.jsonl --json
fails "expected layers of 0 to 2" "3 to 4" -- "$shadowpeft" init --base base --dialect peft --layers-to-transform 3-4 --output never
expect 2 "$shadowpeft" init --base base --dialect peft --alpha 2 --output never
says err "--alpha belongs to --dialect shadow_peft"
expect 2 "$shadowpeft" init --base base --layers-to-transform 1 --output never
expect 2 "$shadowpeft" init --base base --dialect peft --layers-to-transform 2,4 --output never
expect 2 "$shadowpeft" train --base base --adapter lm --r 3 --data data.jsonl --output never
missing never

# Adapters of other kinds, and broken ones.
cp -r lm lora
sed 's/"SHADOW"/"LORA"/' lm/adapter_config.json >lora/adapter_config.json
fails lora/adapter_config.json peft_type LORA -- "$shadowpeft" eval --base base --adapter lora --data data.jsonl
fails lora/adapter_config.json peft_type LORA -- "$shadowpeft" info lora
for part in adapter_config.json adapter_model.safetensors; do
  for bytes in 0 5 200; do
    rm -rf cut && cp -r lm cut
    head -c $bytes lm/$part >cut/$part
    fails "cut/$part" -- "$shadowpeft" eval --base base --adapter cut --data data.jsonl
  done
  rm cut/$part
  fails "cut" -- "$shadowpeft" eval --base base --adapter cut --data data.jsonl
done
for bytes in 0 5 200; do
  rm -rf cut && cp -r shadow_peft cut
  head -c $bytes shadow_peft/shadow_modules.safetensors >cut/shadow_modules.safetensors
  fails cut/shadow_modules.safetensors -- "$shadowpeft" eval --base base --adapter cut --data train.csv
done
rm cut/shadow_modules.safetensors
fails classifier_head.weight "the base has no such head" -- "$shadowpeft" eval --base base --adapter cut --task seq-cls --data train.csv

# Encoders are refused by name, with the reason.
for type in bert roberta distilbert deberta-v2 electra modernbert; do
  rm -rf encoder && cp -r base encoder
  sed "s/\"qwen3\"/\"$type\"/" base/config.json >encoder/config.json
  fails encoder/config.json "found \"$type\" (an encoder: ShadowPEFT needs a decoder)" -- "$shadowpeft" train --base encoder \
    --task seq-cls --data train.csv --output never
done
for type in t5 bart; do
  sed "s/\"qwen3\"/\"$type\"/" base/config.json >encoder/config.json
  fails encoder/config.json "found \"$type\" (it has an encoder: ShadowPEFT needs a decoder)" -- "$shadowpeft" info encoder
done
missing never
done_checks
