#!/bin/sh
# The command line itself: help, versions, options, configuration files, exit codes. No model is needed.
. "$(dirname "$0")/lib.sh"

expect 2 "$shadowpeft"
says err "usage: shadowpeft COMMAND"
expect 0 "$shadowpeft" --help
says out init info train pretrain generate chat eval forward tokenize
expect 0 "$shadowpeft" --version
says out "shadowpeft 0."

for command in init info train pretrain generate chat eval forward tokenize; do
  expect 0 "$shadowpeft" $command --help
  says out "usage: shadowpeft $command" --config
  expect 2 "$shadowpeft" $command --nonsense
  says err "shadowpeft $command: unknown option --nonsense" "--help"
done

expect 2 "$shadowpeft" trian
says err "did you mean 'train'?"
expect 2 "$shadowpeft" train --learnin-rate 1
says err "did you mean --learning-rate?"
expect 2 "$shadowpeft" train --base b --data d
says err "--output is required"
expect 2 "$shadowpeft" train --learning-rate
says err "--learning-rate: expected a value, found none"
expect 2 "$shadowpeft" train --learning-rate abc
says err "--learning-rate: expected a number, found 'abc'"
expect 2 "$shadowpeft" train --max-steps 1.5
says err "--max-steps: expected an integer, found '1.5'"
expect 2 "$shadowpeft" train --seed -1
says err "--seed: expected an integer from 0 to 2^64 - 1, found '-1'"
expect 2 "$shadowpeft" train --packing=perhaps
says err "--packing: expected true or false, found 'perhaps'"
expect 2 "$shadowpeft" train --lr-scheduler-type stairs
says err "--lr-scheduler-type: expected one of linear, cosine, constant, constant_with_warmup, found 'stairs'"
expect 2 "$shadowpeft" train surplus
says err "unexpected argument 'surplus'"
expect 2 "$shadowpeft" pretrain --base b --data d --output o --freeze tail
says err "--freeze: expected embed, head or embed,head, found 'tail'"
expect 2 "$shadowpeft" init --output x
says err "expected either --config or --base"
expect 2 "$shadowpeft" bench --base b
says err "expected train, prefill or decode, found nothing"
expect 2 "$shadowpeft" bench decode --base b --adapter a --no-adapter
says err "expected --adapter or --no-adapter, found both"
expect 2 "$shadowpeft" train --base b --data d --output o --r 4
says err "--r belongs to --dialect peft"
expect 2 "$shadowpeft" train --base b --data d --output o --dialect peft --layers-to-transform 3-1
says err "--layers-to-transform: expected a run of layers"
expect 2 "$shadowpeft" train --base b --data d --output o --modules-to-save head
says err "--modules-to-save: expected names of"
expect 2 "$shadowpeft" info
says err "expected either a PATH or --base"
expect 2 "$shadowpeft" generate --base b
says err "expected a prompt"
expect 2 "$shadowpeft" tokenize
says err "--tokenizer is required"
expect 2 "$shadowpeft" train --base b --data d --output o --adapter a --alpha 1
says err "--alpha is for a fresh adapter"
expect 2 "$shadowpeft" info b --threads -1
says err "--threads: expected 0 or more, found -1"
# Other names of options; --help is an option only before --.
expect 1 "$shadowpeft" pretrain --model nowhere --data d --output-dir o
says err nowhere
expect 1 "$shadowpeft" generate --base nowhere --prompt x --no-cache
says err nowhere
expect 1 "$shadowpeft" generate --base nowhere -- --help
says err "--help: cannot read"
expect 0 "$shadowpeft" init --help
cp out said
expect 1 grep -q "Options from a JSON object" said

# Configuration files take the same names, with dashes or underscores; the command line wins.
echo '{"learning_rate": "much"}' >config.json
expect 2 "$shadowpeft" train --config config.json
says err 'config.json: "learning_rate": expected a number, found "much"'
echo '{"learnin_rate": 1}' >config.json
expect 2 "$shadowpeft" train --config config.json
says err "config.json: unknown option --learnin_rate; did you mean --learning-rate?"
echo '[1]' >config.json
expect 2 "$shadowpeft" train --config=config.json
says err "config.json: expected a JSON object"
expect 2 "$shadowpeft" train --config nowhere.json
says err nowhere.json
echo '{"base": "nowhere", "data": "d", "output": "o", "per-device-train-batch-size": 2, "packing": true}' >config.json
expect 1 "$shadowpeft" train --config config.json
says err nowhere
expect 1 "$shadowpeft" train --config config.json --base elsewhere
says err elsewhere

# Results that cannot be written are a failure, a reader that goes away is none.
if [ -e /dev/full ]; then
  "$shadowpeft" --help >/dev/full 2>err
  [ $? -eq 1 ] || { echo "FAILED: expected exit code 1 on a full disk"; exit 1; }
fi
# The manual is what the help texts say.
sh "$source/scripts/make-cli-docs" "$shadowpeft" cli.md
expect 0 cmp cli.md "$source/docs/cli.md"
done_checks
