#!/bin/sh
# Classifiers: labels by name, training, both paths, and the detached shadow.
. "$(dirname "$0")/lib.sh"
make_base
echo text,kind >data.csv
for n in one two three four five six seven eight; do
  printf '%s\n' "go forward $n,go" "sing to the bird $n,sing" "sit on the mat $n,sit" >>data.csv
done

# A fresh adapter with names is measured before it is trained.
expect 0 "$shadowpeft" init --base base --task seq-cls --label-names go,sing,sit --output fresh --alpha 1 --dropout 0
expect 0 "$shadowpeft" eval --base base --adapter fresh --data data.csv --label-column kind
says out base_shadow shadow_only macro-F1 "0 go" "1 sing" "2 sit"
# Numbers alone know no names.
expect 0 "$shadowpeft" init --base base --task seq-cls --num-labels 3 --output unnamed
fails data.csv LABEL_0 go -- "$shadowpeft" eval --base base --adapter unnamed --data data.csv --label-column kind

# Trained on from there, or from nothing: the names are the same.
expect 0 "$shadowpeft" train --base base --adapter fresh --data data.csv --label-column kind --output adapter \
  --num-train-epochs 40 --learning-rate 5e-3 --shadow-loss-weight 1
expect 0 "$shadowpeft" eval --base base --adapter adapter --data data.csv --label-column kind --json
says out '"labels": ["go", "sing", "sit"]' '"accuracy": 1.0' '"confusion": [[8, 0, 0], [0, 8, 0], [0, 0, 8]]'
expect 0 "$shadowpeft" train --base base --task seq-cls --data data.csv --label-column kind --output begun --max-steps 1
expect 0 "$shadowpeft" eval --base base --adapter begun --data data.csv --label-column kind --json
says out '"labels": ["go", "sing", "sit"]'

# The detached shadow is a classifier with these names.
expect 0 "$shadowpeft" export --base base --adapter adapter --output exported
expect 0 "$shadowpeft" eval --base exported --data data.csv --label-column kind --json
says out '"labels": ["go", "sing", "sit"]' '"accuracy": 1.0'
sed 's/"base_shadow"/"shadow_only"/' out >detached
expect 0 "$shadowpeft" eval --base base --adapter adapter --data data.csv --label-column kind --json --mode shadow_only
cmp out detached || { echo "FAILED: the detached shadow classifies otherwise"; exit 1; }
says exported/config.json Qwen3ForSequenceClassification

fails '"go" for 0 and for 2' -- "$shadowpeft" init --base base --task seq-cls --label-names go,sit,go --output never
fails "name 1" empty -- "$shadowpeft" init --base base --task seq-cls --label-names go,,sit --output never
fails "at least 2" -- "$shadowpeft" init --base base --task seq-cls --label-names go --output never
fails seq-cls -- "$shadowpeft" init --base base --label-names go,sit --output never
expect 2 "$shadowpeft" init --base base --task seq-cls --label-names go,sit --num-labels 2 --output never
missing never
done_checks
