#!/bin/sh
# --device: names, a GPU that is not there, and auto, which goes on without one.
. "$(dirname "$0")/lib.sh"

for name in gpu CPU "" cuda: cuda:x cuda:-1 cuda0; do
  expect 2 "$shadowpeft" generate --base nowhere --prompt x --device "$name"
  says err "--device: expected auto, cpu, cuda or cuda:N, found '$name'"
done
for command in train pretrain generate chat eval forward wrap bench info; do
  expect 2 "$shadowpeft" $command --device nonsense
  says err "shadowpeft $command: --device: expected auto, cpu, cuda or cuda:N, found 'nonsense'"
done
echo '{"device": "nonsense"}' >config.json
expect 2 "$shadowpeft" generate --config config.json
says err 'config.json: "device": expected auto, cpu, cuda or cuda:N, found "nonsense"'

make_base
for device in cpu auto; do
  expect 0 "$shadowpeft" generate --base base --prompt "go forward" --max-new-tokens 3 --device $device --quiet
done
expect 0 "$shadowpeft" info --base base --json
says out '"device": "cpu"'
expect 0 "$shadowpeft" bench decode --base base --device cpu --prompt-len 4 --new-tokens 4 --quiet
says out '"device": "cpu"'

# Without such a card: one line, exit code 1, nothing computed elsewhere.
fails "cuda" -- "$shadowpeft" generate --base base --prompt x --device cuda:999
expect 1 test -s out
expect 1 "$shadowpeft" generate --base base --prompt x --device cuda:999 --quiet
cp err said
expect 0 test "$(wc -l <said)" -eq 1
if ! "$shadowpeft" info --base base --device cuda >out 2>err; then
  fails "cuda" -- "$shadowpeft" info --base base --device cuda
  expect 1 "$shadowpeft" train --base base --data data.jsonl --output trained --device cuda --max-steps 1
  missing trained/shadow_config.json
fi
done_checks
