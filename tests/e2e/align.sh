#!/bin/sh
# A wrapped model's projection trained to give the small model's own logits.
. "$(dirname "$0")/lib.sh"
make_base
sed -e 's/"hidden_size": 32/"hidden_size": 16/' -e 's/"num_hidden_layers": 3/"num_hidden_layers": 2/' config.json >small.json
expect 0 "$shadowpeft" init --config small.json --output small --seed 2
cp base/tokenizer*.json small/
options="--learning-rate 1e-2 --lr-scheduler-type constant --logging-steps 1 --per-device-train-batch-size 4 --threads 1"

# member NAME: its number in the JSON result in ./out.
member() {
  sed -n "s/.*\"$1\": \([-0-9.e]*\|null\)[,}].*/\1/p" out
}
# below A B: as numbers.
below() {
  checks=$((checks + 1))
  awk "BEGIN { exit !($1 < $2) }" || { echo "FAILED: expected $1 below $2"; exit 1; }
}
# trained FILE FILE: the projection differs, everything else is the same.
trained() {
  same_tensor "$1" "$2" shadow_hidden_projection.weight >same && { echo "FAILED: the projection did not train"; exit 1; }
  header=$(od -An -tu8 -N8 "$1" | tr -d ' ')
  others=$(head -c $((header + 8)) "$1" | tail -c "$header" | tr ',{' '\n\n' | sed -n 's/^"\([a-z_0-9.]*\)":$/\1/p')
  count=0
  for name in $others; do
    case $name in __metadata__ | shadow_hidden_projection.weight) continue ;; esac
    same_tensor "$1" "$2" "$name" || { echo "FAILED: $name changed"; exit 1; }
    count=$((count + 1))
  done
  [ "$count" -gt 20 ] || { echo "FAILED: only $count tensors compared"; exit 1; }
}

expect 0 "$shadowpeft" wrap --shadow small --base base --output wrapped
expect 0 "$shadowpeft" wrap --shadow small --base base --output aligned --align --data data.jsonl --num-train-epochs 20 $options --json
says out '"rank": 32' '"reconstruction_error": 0.' '"steps": 40' '"agreement_after"' '"measured_tokens"'
says err "Projection: rank 32" "step 40/40"
before=$(member loss_before)
below "$(member loss_after)" "$before"
trained wrapped/model.safetensors aligned/model.safetensors
says aligned/metrics.jsonl '"distill_loss"'
expect 0 test -f aligned/checkpoint-40/optimizer.safetensors
expect 0 test -f aligned/tokenizer.json

# The result is a model and a shadow.
expect 0 "$shadowpeft" generate --base aligned --prompt "go forward" --max-new-tokens 4
expect 0 "$shadowpeft" init --base base --shadow aligned --output adapter

# Interrupted and resumed it ends in the bytes of a run that was not.
expect 0 "$shadowpeft" wrap --shadow small --base base --output parts --align --data data.jsonl --max-steps 3 $options
expect 0 "$shadowpeft" wrap --shadow small --base base --output parts --align --data data.jsonl --max-steps 7 $options --resume --json
says out '"loss_before": null'
says err "resuming after step 3 of 7"
expect 0 "$shadowpeft" wrap --shadow small --base base --output whole --align --data data.jsonl --max-steps 7 $options
for file in model.safetensors metrics.jsonl checkpoint-7/optimizer.safetensors; do
  expect 0 cmp parts/$file whole/$file
done

# A wrapped model that is there already; other weights; text to evaluate on.
expect 0 "$shadowpeft" wrap --shadow small --wrapped wrapped --output again --align --data data.jsonl --max-steps 7 $options
expect 0 cmp again/model.safetensors whole/model.safetensors
expect 0 "$shadowpeft" wrap --shadow small --wrapped wrapped --output mse --align --data corpus.txt --eval-data data.jsonl \
  --kl-weight 0 --mse-weight 1 --temperature 2 --max-steps 4 $options --json
says mse/metrics.jsonl '"eval_distill_loss"'
says out '"best_eval_loss": 0.'
expect 0 "$shadowpeft" wrap --shadow small --base base --output fresh --align --no-init-optimal-projection --dtype bf16 \
  --data data.jsonl --max-steps 30 $options --json
says out '"reconstruction_error": null'
below "$(member loss_after)" "$(member loss_before)"
expect 0 "$shadowpeft" info fresh
says out '"BF16"'

# What is there is not overwritten, and what makes no sense is refused before anything is written.
fails "aligned: holds a checkpoint" -- "$shadowpeft" wrap --shadow small --base base --output aligned --align --data data.jsonl
fails '"hidden_size": expected 16' "found 32" -- "$shadowpeft" wrap --shadow base --wrapped wrapped --output other --align --data data.jsonl
cp whole/model.safetensors kept
fails '"distill_kl"' "begun with 1.0" -- "$shadowpeft" wrap --shadow small --base base --output whole --align --data data.jsonl \
  --max-steps 7 $options --kl-weight 2 --resume
expect 0 cmp kept whole/model.safetensors
fails "nowhere.jsonl" -- "$shadowpeft" wrap --shadow small --base base --output never --align --data nowhere.jsonl
expect 2 "$shadowpeft" wrap --shadow small --base base --output never --align
says err "--align needs --data"
expect 2 "$shadowpeft" wrap --shadow small --base base --output never --data data.jsonl
says err "--data is for --align"
expect 2 "$shadowpeft" wrap --shadow small --output never
says err "--base is required"
expect 2 "$shadowpeft" wrap --shadow small --base base --wrapped wrapped --output never --align --data data.jsonl
says err "expected --base or --wrapped"
missing never
done_checks
