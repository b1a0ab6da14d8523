"""Times the command's wrap against shadow_peft's on random bf16 heads; run by bench/wrap.

Both read the same two checkpoints of one layer and compute the projection in f32 or better. Theirs is the time of
AutoModelForCausalLMWithHiddenProjection.wrap with both models already in memory; ours is given for the projection
alone and for the whole command, which also reads the models and writes the result. Seconds of the processors stand
beside those of the clock: on a machine that does other things too they say more.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
import torch.nn as nn
from safetensors import safe_open
from shadow_peft import AutoModelForCausalLMWithHiddenProjection
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parent.parent
KEY = "shadow_hidden_projection.weight"


def cpu_seconds(who):
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def make_model(command, work, name, vocab, hidden, seed):
    config = dict(
        model_type="qwen3", vocab_size=vocab, hidden_size=hidden, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
        max_position_embeddings=64, rms_norm_eps=1e-6, dtype="bfloat16",
    )
    (work / f"{name}.json").write_text(json.dumps(config))
    subprocess.run(
        [command, "init", "--config", work / f"{name}.json", "--output", work / name, "--seed", str(seed), "--quiet"],
        check=True,
    )


def run_ours(command, work, threads):
    before, began = cpu_seconds(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [command, "wrap", "--shadow", work / "small", "--base", work / "large", "--output", work / "ours", "--dtype",
         "f32", "--json", "--quiet", "--threads", str(threads)],
        check=True, capture_output=True, text=True,
    )
    whole = time.monotonic() - began
    facts = json.loads(done.stdout)
    print(
        f"shadowpeft: projection {facts['seconds']:.1f} s; whole command {whole:.1f} s, "
        f"{cpu_seconds(resource.RUSAGE_CHILDREN) - before:.1f} s of processors; rank {facts['rank']}, "
        f"reconstruction error {facts['reconstruction_error']:.6f}",
        flush=True,
    )
    with safe_open(work / "ours" / "model.safetensors", "pt") as file:
        return facts["seconds"], file.get_tensor(KEY)


def run_theirs(work):
    small, large = (AutoModelForCausalLM.from_pretrained(work / n, dtype=torch.float32) for n in ("small", "large"))
    projection = nn.Linear(small.config.hidden_size, large.config.hidden_size, bias=False)
    before, began = cpu_seconds(resource.RUSAGE_SELF), time.monotonic()
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        wrapped = AutoModelForCausalLMWithHiddenProjection.wrap(
            shadow_model=small, shadow_hidden_projection=projection, lm_head=large.lm_head,
            reference_lm_head=small.lm_head,
        )
    took = time.monotonic() - began
    print(
        f"shadow-peft {version('shadow-peft')} (torch {torch.__version__}): wrap {took:.1f} s, "
        f"{cpu_seconds(resource.RUSAGE_SELF) - before:.1f} s of processors",
        flush=True,
    )
    return took, wrapped.shadow_hidden_projection.weight.detach()


def main():
    parser = argparse.ArgumentParser(prog="bench/wrap")
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--large", type=int, default=4096)
    parser.add_argument("--small", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    command = str(ROOT / "build" / "shadowpeft")
    torch.set_num_threads(args.threads)
    transformers.logging.disable_progress_bar()
    print(f"heads [{args.vocab}, {args.large}] and [{args.vocab}, {args.small}], {args.threads} threads", flush=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as name:
        work = Path(name)
        make_model(command, work, "large", args.vocab, args.large, 1)
        make_model(command, work, "small", args.vocab, args.small, 2)
        our_time, ours = run_ours(command, work, args.threads)
        their_time, theirs = run_theirs(work)
    off = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"theirs / ours {their_time / our_time:.1f}; largest difference of the projections {off:.1e} of the largest value")


if __name__ == "__main__":
    main()
