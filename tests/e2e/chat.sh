#!/bin/sh
# Conversations: training on messages, generate --chat, chat over a pipe.
. "$(dirname "$0")/lib.sh"

cat >corpus.txt <<'TEXT'
user assistant system go forward one step turn left turn right stop now
forward(one) forward(two) forward(three) left() right() stop() ok
you drive a robot the robot goes on and on and on
TEXT
"$shadowpeft" tokenize --train corpus.txt --vocab-size 300 --output base --quiet --special-token '<|im_end|>' \
  --special-token '<|im_start|>' || exit 1
cat >config.json <<'JSON'
{"model_type": "qwen3", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
 "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": true,
 "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "eos_token_id": 0}
JSON
"$shadowpeft" init --config config.json --output base --seed 1 --quiet || exit 1

# Without a template the message says where one is looked for.
printf '{"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "ok"}]}\n' >one.jsonl
fails base chat_template.jinja tokenizer_config.json -- "$shadowpeft" train --base base --data one.jsonl --output x --quiet
fails base chat_template.jinja -- "$shadowpeft" generate --base base --chat --prompt go
fails base chat_template.jinja -- "$shadowpeft" chat --base base

cat >base/chat_template.jinja <<'JINJA'
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('nobody is called ' + message.role) }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' + message.content | trim + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- 'ok ' }}
    {%- endif %}
{%- endif %}
JINJA
: >data.jsonl
for n in one two three; do
  printf '{"messages": [{"role": "user", "content": "go forward %s"}, {"role": "assistant", "content": "forward(%s)"}]}\n' \
    $n $n >>data.jsonl
done
cat >>data.jsonl <<'JSONL'
{"messages": [{"role": "system", "content": "you drive a robot"}, {"role": "user", "content": "turn left"}, {"role": "assistant", "content": "left()"}]}
{"messages": [{"role": "user", "content": "turn left"}, {"role": "assistant", "content": "left()"}, {"role": "user", "content": "turn right"}, {"role": "assistant", "content": "right()"}, {"role": "user", "content": "stop"}, {"role": "assistant", "content": "stop()"}], "tools": null}
JSONL
expect 0 "$shadowpeft" train --base base --data data.jsonl --eval-data data.jsonl --output adapter --alpha 1 --dropout 0 \
  --injection-hidden-size 16 --gate-hidden-size 8 --num-train-epochs 80 --learning-rate 1e-2 --shadow-loss-weight 1 \
  --per-device-train-batch-size 5 --eval-steps 80
says err "5 examples"
expect 0 "$shadowpeft" eval --base base --adapter adapter --data data.jsonl --exact-match --max-new-tokens 24
says out base_shadow shadow_only "100.0%"

# A user's words go through the template, which the tokens of the prompt show.
expect 0 "$shadowpeft" generate --base base --adapter adapter --chat --prompt "go forward three"
says out "forward(three)"
expect 0 "$shadowpeft" generate --base base --adapter adapter --chat --prompt "turn left" --system "you drive a robot" --json
says out '<|im_start|>system\nyou drive a robot<|im_end|>\n<|im_start|>user\nturn left<|im_end|>\n<|im_start|>assistant\n"' \
  '"text": "left()"' '"finish_reason": "eos"'
expect 0 "$shadowpeft" generate --base base --adapter adapter --chat --prompt x --no-enable-thinking --max-new-tokens 1 --json
says out 'assistant\nok "'
expect 0 "$shadowpeft" generate --base base --chat --prompt x --chat-template-kwargs '{"enable_thinking": false}' --max-new-tokens 1 \
  --json
says out 'assistant\nok "'
head -2 data.jsonl | sed 's/, {"role": "assistant".*/]}/' >prompts.jsonl
printf '"go forward three"\n{"prompt": "turn left"}\n' >>prompts.jsonl
expect 0 "$shadowpeft" generate --base base --adapter adapter --chat --prompts-file prompts.jsonl
says out "forward(one)" "forward(two)" "forward(three)" "left()"
printf 'a {{ messages | length }} b' >other.jinja
expect 0 "$shadowpeft" generate --base base --chat --chat-template other.jinja --prompt x --max-new-tokens 1 --json
says out '"prompt": "a 1 b"'

# What a template refuses, or what it has that is not known, is told with its file and line.
printf '{"messages": [{"role": "tool", "content": "x"}]}\n' >tool.jsonl
fails base/chat_template.jinja "line 3" "nobody is called tool" -- "$shadowpeft" generate --base base --chat --prompts-file tool.jsonl
fails "tool.jsonl: line 1" base/chat_template.jinja "nobody is called tool" -- \
  "$shadowpeft" eval --base base --data tool.jsonl
printf '\n{{ messages | shuffle }}' >other.jinja
fails "other.jinja: line 2" "no filter is named 'shuffle'" -- "$shadowpeft" generate --base base --chat --chat-template other.jinja \
  --prompt x
printf '{%% include "x" %%}' >other.jinja
fails "other.jinja: line 1" "'include'" -- "$shadowpeft" chat --base base --chat-template other.jinja
fails "data.jsonl: line 1" '"messages": expected a string, found an array' -- \
  "$shadowpeft" eval --base base --data data.jsonl --text-column messages --messages-column prompt
printf '{"messages": "x"}\n' >bad.jsonl
fails "bad.jsonl: line 1" '"messages": expected an array, found a string' -- "$shadowpeft" eval --base base --data bad.jsonl
printf '{"messages": ["x"]}\n' >bad.jsonl
fails "bad.jsonl: line 1" "messages[0]: expected an object, found a string" -- "$shadowpeft" eval --base base --data bad.jsonl
fails "--chat-template-kwargs" -- "$shadowpeft" generate --base base --chat --prompt x --chat-template-kwargs '[1]'
expect 2 "$shadowpeft" generate --base base --prompt x --system y
says err "--system is for --chat"

# A conversation over a pipe.
printf 'turn left\nturn right\r\n\nstop\n/reset\ngo forward two\n/mode shadow_only\n/reset\ngo forward three\n' |
  "$shadowpeft" chat --base base --adapter adapter >out 2>err || { cat err; exit 1; }
printf 'left()\nright()\nstop()\nforward(two)\nforward(three)\n' >wanted
cmp out wanted || { echo "FAILED: the conversation went otherwise:"; cat out err; exit 1; }
checks=$((checks + 1))
printf '/help\n/quit\nturn left\n' | "$shadowpeft" chat --base base >out 2>err || exit 1
says err /reset /mode
[ ! -s out ] || { echo "FAILED: expected no answer after /quit"; exit 1; }
for line in /nonsense '/mode both' '/mode shadow_only'; do
  printf '%s\n' "$line" | "$shadowpeft" chat --base base >out 2>err && { echo "FAILED: $line"; exit 1; }
  says err "shadowpeft: " "/"
done

# Ctrl-C ends an answer, not the conversation.
mkfifo lines
"$shadowpeft" chat --base base --ignore-eos --max-new-tokens 100000 <lines >out 2>err &
pid=$!
exec 3>lines
echo 'go on' >&3
tries=0
while [ ! -s out ] && [ $tries -lt 200 ]; do
  tries=$((tries + 1))
  sleep 0.05
done
kill -INT $pid
tries=0
while ! grep -qF " ..." out && [ $tries -lt 200 ]; do
  tries=$((tries + 1))
  sleep 0.05
done
echo '/quit' >&3
exec 3>&-
wait $pid || { echo "FAILED: Ctrl-C ended the conversation"; cat err; exit 1; }
says out " ..."
done_checks
