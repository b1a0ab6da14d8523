#!/bin/sh
# The examples, with few steps: each runs to its end and shows what it promises.
. "$(dirname "$0")/lib.sh"
examples=$source/examples

# share PATH FILE: the first percentage that `eval` printed for a path; above LIMIT PATH FILE: it is larger.
share() { sed -n "s/^$1 .* \([0-9.]*\)%.*/\1/p" "$2" | head -n 1; }
above() {
  checks=$((checks + 1))
  awk "BEGIN { exit !($(share "$2" "$3") > $1) }" && return
  echo "FAILED: expected more than $1% for $2, found:"
  cat "$3"
  exit 1
}
# loss NAME FILE: of a row of the table of losses.
loss() { awk -v name="$1" '$1 == name { print $3; exit }' "$2"; }
less() {
  checks=$((checks + 1))
  awk "BEGIN { exit !($1 < $2) }" && return
  echo "FAILED: expected $1 to be less than $2 in:"
  cat out
  exit 1
}

# Every family: a fresh adapter changes nothing, a few steps do.
expect 0 env SHADOWPEFT_EXAMPLE_STEPS=4 sh "$examples/backbones/run" "$shadowpeft" backbones
for family in llama mistral qwen2 qwen3 gemma gemma2 gemma3_text gpt2 opt hunyuan_v1_dense phi3 olmo2; do
  says out "$family "
done
says out "Trainable params: 57,152 || Total params: 754,048 || Trainable%: 7.58%"
checks=$((checks + 2))
[ "$(grep -c 'Trainable params' out)" -eq 13 ] && [ "$(grep -c ' yes ' out)" -eq 13 ] || {
  echo "FAILED: expected 13 bases and 13 adapters that leave them as they are, found:"
  cat out
  exit 1
}

# A model behind the larger one's head: the fitted projection says more than the fresh one, before and after training.
expect 0 env SHADOWPEFT_EXAMPLE_STEPS=30 sh "$examples/pseudo_inverse/run" "$shadowpeft" pseudo_inverse
says out "Projection: rank 256, reconstruction error 0." "projection fitted" "projection fresh"
less "$(loss base out)" "$(loss small out)"
less "$(loss small out)" 8.3178
less "$(loss fitted out)" "$(loss fresh out) - 0.5"
less "$(loss aligned out)" "$(loss fresh out) - 0.5"
says err "Distance from the small model"

# A classifier: chance is 12.5%, and the shadow learns before the base with it does.
expect 0 env SHADOWPEFT_EXAMPLE_STEPS=100 sh "$examples/classification/run" "$shadowpeft" classification
says out "before training" "after training" "0 cleaning" "7 weather"
sed '/after training/,$!d; /detached/,$d' out >after
sed '/detached/,$!d' out >detached
above 25 base_shadow after
above 50 shadow_only after
above 50 base_shadow detached
# The same on data of another name, in a folder of one's own.
mkdir banking
for part in train test; do
  { echo text,category && tail -n +2 "$examples/classification/data/$part.csv"; } >banking/banking77_$part.csv
done
printf '"a text of two lines, the first,\nand the ""second"", of both",lights\n' >>banking/banking77_train.csv
expect 0 env SHADOWPEFT_EXAMPLE_STEPS=2 sh "$examples/classification/run" "$shadowpeft" again banking
says err "1601 examples" " 8 labels"
says out "0 cleaning" "7 weather"
expect 1 sh "$examples/classification/run" "$shadowpeft" never nowhere
says err "nowhere/banking77_train.csv"
missing never
done_checks
