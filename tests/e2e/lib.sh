# What the end-to-end tests share: $shadowpeft, $source (the repository), a scratch directory to stand in, and checks.
shadowpeft=$1
source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# Tests run side by side: threads that wait must not keep the cores from others.
export OMP_WAIT_POLICY=passive
checks=0

# expect CODE COMMAND...: runs it with stdout in ./out and stderr in ./err.
expect() {
  wanted=$1
  shift
  "$@" >out 2>err </dev/null
  got=$?
  checks=$((checks + 1))
  if [ "$got" -ne "$wanted" ]; then
    echo "FAILED: $*"
    echo "expected exit code $wanted, found $got"
    cat out err
    exit 1
  fi
}

# says FILE TEXT...: each text stands in the file.
says() {
  file=$1
  shift
  for text in "$@"; do
    checks=$((checks + 1))
    if ! grep -qF -- "$text" "$file"; then
      echo "FAILED: expected '$text' in $file, found:"
      cat "$file"
      exit 1
    fi
  done
}

# fails TEXT... -- COMMAND...: exit code 1, one line on stderr that holds each text, nothing on stdout.
fails() {
  texts=$work/texts
  : >"$texts"
  while [ "$1" != -- ]; do
    printf '%s\n' "$1" >>"$texts"
    shift
  done
  shift
  expect 1 "$@"
  while IFS= read -r text; do says err "$text"; done <"$texts"
}

# missing PATH...: none of them is there.
missing() {
  for path in "$@"; do
    checks=$((checks + 1))
    if [ -e "$path" ]; then
      echo "FAILED: expected no $path, found one"
      exit 1
    fi
  done
}

# A base of a few thousand parameters with a tokenizer of its own vocabulary, in ./base.
make_base() {
  cat >corpus.txt <<'TEXT'
the cat sat on the mat and the dog sat on the log while the bird sang to the moon
turn left then turn right and go forward two steps before you stop at the door
one two three four five six seven eight nine ten and then the game begins again
TEXT
  "$shadowpeft" tokenize --train corpus.txt --vocab-size 300 --output base --quiet || exit 1
  cat >config.json <<'JSON'
{"model_type": "qwen3", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
 "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": true,
 "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "eos_token_id": 0}
JSON
  "$shadowpeft" init --config config.json --output base --seed 1 --quiet || exit 1
  : >data.jsonl
  for n in one two three four five six seven eight; do
    printf '{"prompt": "go forward %s", "completion": " forward(%s)"}\n' $n $n >>data.jsonl
  done
}

# Bytes of a number, little-endian, 8 of them: the head of a safetensors file.
little_endian() {
  n=$1
  for _ in 1 2 3 4 5 6 7 8; do
    printf "\\$(printf '%03o' $((n % 256)))"
    n=$((n / 256))
  done
}

# same_tensor FILE FILE NAME: the tensor has the same bytes in both safetensors files.
tensor_bytes() {
  header=$(od -An -tu8 -N8 "$1" | tr -d ' ')
  offsets=$(head -c $((header + 8)) "$1" | tail -c "$header" |
    sed -n "s/.*\"$2\":{[^}]*\"data_offsets\":\[\([0-9]*\),\([0-9]*\)\].*/\1 \2/p")
  set -- "$1" "$header" $offsets
  tail -c +$((9 + $2 + $3)) "$1" | head -c $(($4 - $3))
}
same_tensor() {
  tensor_bytes "$1" "$3" >first.bin && tensor_bytes "$2" "$3" >second.bin && test -s first.bin || exit 1
  checks=$((checks + 1))
  cmp first.bin second.bin
}

done_checks() {
  echo "$checks checks passed"
}
