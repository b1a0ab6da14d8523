"""Training and decoding of the command beside its Python peers, one after the other; run by bench/compare.

Every measurement is a process of its own on the same random checkpoint, with the same dtype, batch, sequence length and
threads, and each package's default adapter. shadow-peft has no cache, so its decoding is one whole pass a token; that of
PEFT goes over its caches. The table names the targets of the project beside the ratios.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMAND = Path(os.environ.get("SHADOWPEFT_COMMAND") or ROOT / "build" / "shadowpeft")

QWEN3 = dict(
    model_type="qwen3", architectures=["Qwen3ForCausalLM"], hidden_act="silu", rms_norm_eps=1e-6, rope_theta=1000000,
    tie_word_embeddings=True, dtype="bfloat16", max_position_embeddings=40960,
)
SHAPES = {
    "qwen3-0.6b": dict(
        QWEN3, vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128,
    ),
    "qwen3-8b": dict(
        QWEN3, vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, tie_word_embeddings=False,
    ),
    "small": dict(
        QWEN3, vocab_size=32768, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, head_dim=64,
    ),
    "tiny": dict(
        QWEN3, vocab_size=4096, hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64,
    ),
}


def cpu_model():
    return next((x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "?")


def gpu_model():
    run = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()[0]


def make_base(shape, work):
    (work / "config.json").write_text(json.dumps(SHAPES[shape]))
    run = [COMMAND, "init", "--config", work / "config.json", "--output", work / "base", "--quiet"]
    subprocess.run(run, check=True)
    return work / "base"


def first_line_ms(run, **how):
    """Runs a process: its exit status, output, errors, and the milliseconds until it said its first line."""
    with tempfile.TemporaryFile("w+") as errors:
        began = time.monotonic()
        with subprocess.Popen([str(x) for x in run], stdout=subprocess.PIPE, stderr=errors, text=True, **how) as p:
            line = p.stdout.readline()
            first = 1000 * (time.monotonic() - began)
            output = line + p.stdout.read()
        errors.seek(0)
        return p.returncode, output, errors.read(), first


def ours(kind, base, o, *more):
    where = ["--device", o["device"], "--threads", o["threads"], "--dtype", o["our_dtype"]]
    run = [COMMAND, "bench", kind, "--base", base, *where, *more]
    code, output, errors, first = first_line_ms(run)
    if code != 0:
        sys.exit(errors)
    return dict(json.loads(output), start_to_first_line_ms=first)


def ours_train(base, o):
    sizes = ["--batch-size", o["batch_size"], "--seq-len", o["seq_len"], "--steps", o["steps"]]
    return ours("train", base, o, *sizes, "--warmup-steps", o["warmup_steps"])


def ours_decode(base, o, *more):
    sizes = ["--prompt-len", o["prompt_len"], "--new-tokens", o["new_tokens"]]
    return ours("decode", base, o, *sizes, *more)


def peer(package, kind, base, o):
    run = [sys.executable, ROOT / "bench" / "peer.py", package, kind, base, json.dumps(o)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    code, output, errors, first = first_line_ms(run, env=environment)
    if code != 0:
        print(f"{package} {kind} failed: {errors.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return dict(json.loads(output.strip().splitlines()[-1]), start_to_first_line_ms=first)


def ms(x):
    return f"{x:.2f}" if x < 10 else f"{x:.1f}"


def row(what, our, their, ratio, target):
    print(f"| {what} | {our} | {their} | {ratio} | {target} |", flush=True)


def compare_training(base, o):
    we = ours_train(base, o)
    for package in ("shadow_peft", "peft"):
        they = peer(package, "train", base, o)
        if not they:
            continue
        speed = we["tokens_per_second"] / they["tokens_per_second"]
        kind = "peak_rss_bytes" if o["device"] == "cpu" else "device_memory_bytes"
        memory = we[kind] / they[kind]
        target = o["targets"] if package == "shadow_peft" else ("", "")
        row(f"training, tokens/s, {package}", f"{we['tokens_per_second']:.0f}", f"{they['tokens_per_second']:.0f}", f"{speed:.2f}x", target[0])
        row(f"training, peak memory, {package}", f"{we[kind] / 2**30:.2f} GiB", f"{they[kind] / 2**30:.2f} GiB", f"{memory:.2f}x", target[1])
    return we


def best_of(runs):
    """The quicker of runs that took turns: what other work on the machine costs only adds."""
    return min(runs, key=lambda run: run["ms_per_token"])


def compare_decoding(base, o):
    adapter = o["adapter_dir"]
    subprocess.run([COMMAND, "init", "--base", base, "--output", adapter, "--quiet"], check=True)
    rounds = [(ours_decode(base, o, "--adapter", adapter), ours_decode(base, o, "--no-adapter")) for _ in range(3)]
    we, plain = best_of([with_adapter for with_adapter, _ in rounds]), best_of([alone for _, alone in rounds])
    # Both sides print their first line when the first token is known; without further tokens that is all there is here.
    one = ["--prompt-len", o["prompt_len"], "--new-tokens", 0, "--adapter", adapter]
    first = min(ours("decode", base, o, *one)["start_to_first_line_ms"] for _ in range(3))
    targets = {"shadow_peft": ">= 10x", "peft": ">= 1.5x"}
    for package in ("shadow_peft", "peft", "base"):
        they = peer(package, "decode", base, o)
        if not they:
            continue
        mine = plain if package == "base" else we
        ratio = they["ms_per_token"] / mine["ms_per_token"]
        row(f"decoding, ms/token, {package}", ms(mine["ms_per_token"]), ms(they["ms_per_token"]), f"{ratio:.2f}x", targets.get(package, ""))
        if package == "base":
            continue
        ratio = they["start_to_first_line_ms"] / first
        row(f"process start to first token, ms, {package}", f"{first:.0f}", f"{they['start_to_first_line_ms']:.0f}", f"{ratio:.1f}x", ">= 10x")
    over = we["ms_per_token"] / plain["ms_per_token"] - 1
    row("decoding, adapter over the plain base", ms(we["ms_per_token"]), ms(plain["ms_per_token"]) + " (ours)", f"+{100 * over:.1f} %", "<= 10 %")
    return we


def breakdown(title, parts):
    whole = sum(parts.values())
    shown = sorted(((ms, name) for name, ms in parts.items() if ms > 0.005 * whole), reverse=True)
    print(f"\n{title}: " + ", ".join(f"{name} {100 * ms / whole:.0f} %" for ms, name in shown))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    parser.add_argument("--base", type=Path, help="this checkpoint instead of a fresh one of the shape")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup-steps", type=int, default=1)
    parser.add_argument("--prompt-len", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", choices=("train", "decode"))
    o = vars(parser.parse_args())
    # Of training's speed and memory beside shadow-peft's.
    faster = "1.6x" if o["shape"] == "qwen3-8b" else "3x"
    o["targets"] = (">= 2x", "<= 0.5x") if o["device"] == "cpu" else (f">= {faster}", "<= 0.6x")
    shape, base, only = o.pop("shape"), o.pop("base"), o.pop("only")
    o["our_dtype"] = "bf16" if o["dtype"] == "bfloat16" else "f32"
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "shadow-peft", "peft"))
    where = cpu_model() if o["device"] == "cpu" else gpu_model()
    print(f"{where}, {o['threads']} threads, {o['dtype']}, {base or shape}; {versions}\n")
    print("| what | shadowpeft | peer | ratio | target |\n|---|--:|--:|--:|---|")
    with tempfile.TemporaryDirectory() as work:
        base = (base or make_base(shape, Path(work))).resolve()
        o["adapter_dir"] = str(Path(work) / "adapter")
        trained = compare_training(base, o) if only != "decode" else None
        decoded = compare_decoding(base, o) if only != "train" else None
    if trained:
        breakdown("A training step here", trained["breakdown_ms"])
    if decoded:
        breakdown("A token here", decoded["breakdown_ms"])


if __name__ == "__main__":
    main()
