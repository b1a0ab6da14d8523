"""How sequence length and batch size change training and decoding, beside the Python peers; run by bench/sizes.

Three sweeps, every measurement a process of its own on the same random checkpoint (bench/compare.py says what is alike):

    train-seq      tokens/s and peak memory over the sequence length, with as many tokens a step
    train-batch    the same over the batch size, with sequences of one length
    decode-prompt  ms/token over the prompt's length; shadow-peft has no cache, so that each token is a whole pass

Beside each number stands in --json's file how many cores other programs kept busy meanwhile (other_cores).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import plot
from compare import ROOT, SHAPES, cpu_model, make_base, ours_decode, ours_train, peer

NAMES = {"shadowpeft": "shadowpeft", "shadow_peft": "shadow-peft", "peft": "PEFT ShadowConfig"}
STEP_TOKENS, ROW_TOKENS = 2048, 128
SIZES = {
    "train-seq": (64, 128, 256, 512, 1024),
    "train-batch": (1, 2, 4, 8, 16),
    "decode-prompt": (128, 256, 512, 1024, 2048),
}
HEADS = {
    "train-seq": f"Training over the sequence length, {STEP_TOKENS:,} tokens a step",
    "train-batch": f"Training over the batch size, sequences of {ROW_TOKENS} tokens",
    "decode-prompt": "Decoding over the prompt's length, ms a token",
}


def options_of(sweep, size, package, o):
    if sweep == "decode-prompt":
        # A token without a cache takes so long that a few tell as much.
        return dict(o, prompt_len=size, new_tokens=4 if package == "shadow_peft" else 64)
    batch, length = (STEP_TOKENS // size, size) if sweep == "train-seq" else (size, ROW_TOKENS)
    # Small steps are noisy: as many of them as make one of the largest.
    steps = o["steps"] * max(1, STEP_TOKENS // (batch * length) // 2)
    return dict(o, batch_size=batch, seq_len=length, steps=steps)


def processor_seconds():
    """Of the whole machine, and of our finished children."""
    ticks = [int(x) for x in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (sum(ticks[:3]) + sum(ticks[5:7])) / os.sysconf("SC_CLK_TCK"), children.ru_utime + children.ru_stime


def measure(sweep, size, package, base, o):
    o = options_of(sweep, size, package, o)
    kind = "decode" if sweep == "decode-prompt" else "train"
    began, (all_before, own_before) = time.monotonic(), processor_seconds()
    if package == "shadowpeft":
        found = (ours_decode if kind == "decode" else ours_train)(base, o)
    else:
        found = peer(package, kind, base, o)
    if not found:
        return None
    all_after, own_after = processor_seconds()
    others = (all_after - all_before - (own_after - own_before)) / (time.monotonic() - began)
    kept = ("tokens_per_second", "peak_rss_bytes") if kind == "train" else ("ms_per_token", "peak_rss_bytes")
    return dict(sweep=sweep, size=size, package=package, other_cores=round(others, 2), **{key: found[key] for key in kept})


def better(row, old):
    """The quicker of two runs: what other work on the machine costs only adds."""
    if not old:
        return row
    if "ms_per_token" in row:
        return min(row, old, key=lambda r: r["ms_per_token"])
    return max(row, old, key=lambda r: r["tokens_per_second"])


def sweep_all(o, facts, rows, sweeps, sizes, packages):
    with tempfile.TemporaryDirectory() as work:
        base = make_base(facts["shape"], Path(work)).resolve()
        for sweep in sweeps:
            for size in (x for x in SIZES[sweep] if not sizes or x in sizes):
                for package in packages:
                    row = measure(sweep, size, package, base, o)
                    if row:
                        rows[sweep, size, package] = better(row, rows.get((sweep, size, package)))
                        print(json.dumps(row), file=sys.stderr, flush=True)


def facts_of(shape, o):
    done = subprocess.run([ROOT / "build" / "shadowpeft", "--version"], check=True, capture_output=True, text=True)
    versions = [done.stdout.strip(), *(f"{p} {version(p)}" for p in ("torch", "transformers", "shadow-peft", "peft"))]
    return dict(shape=shape, dtype=o["dtype"], threads=o["threads"], cpu=cpu_model(), versions=", ".join(versions))


def shape_words(name):
    s = SHAPES[name]
    return f"{name} ({s['num_hidden_layers']} layers, d {s['hidden_size']}, vocabulary {s['vocab_size']:,})"


def cell(row, key):
    if not row:
        return "-"
    value = row[key] / (2**30 if key == "peak_rss_bytes" else 1)
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def print_table(rows, sweep):
    packages = [p for p in NAMES if any(r["sweep"] == sweep and r["package"] == p for r in rows.values())]
    if not packages:
        return
    columns = [("ms_per_token", "ms/token")] if sweep == "decode-prompt" else [("tokens_per_second", "tokens/s"), ("peak_rss_bytes", "GiB")]
    heads = [f"{NAMES[p]}, {unit}" for _, unit in columns for p in packages]
    print(f"\n{HEADS[sweep]}:\n\n| | " + " | ".join(heads) + " |\n|--:|" + "--:|" * len(heads))
    for size in SIZES[sweep]:
        print(f"| {size:,} | " + " | ".join(cell(rows.get((sweep, size, p)), key) for key, _ in columns for p in packages) + " |")


def panel(rows, sweep, key, title, x_label, y_label, log=False):
    scale = 2**30 if key == "peak_rss_bytes" else 1
    lines = {NAMES[p]: [(r["size"], r[key] / scale) for r in rows.values() if (r["sweep"], r["package"]) == (sweep, p)] for p in NAMES}
    return plot.panel(title, x_label, y_label, lines, log)


def draw(facts, rows):
    tokens = f"tokens of a sequence ({STEP_TOKENS:,} a step)"
    batch = f"sequences in a batch ({ROW_TOKENS} tokens each)"
    panels = [
        panel(rows, "train-seq", "tokens_per_second", "Training", tokens, "tokens/s"),
        panel(rows, "train-batch", "tokens_per_second", "Training", batch, "tokens/s"),
        panel(rows, "train-batch", "peak_rss_bytes", "Training, peak memory", batch, "GiB"),
        panel(rows, "decode-prompt", "ms_per_token", "Decoding", "tokens of the prompt", "ms/token", log=True),
    ]
    title = f"Shape {shape_words(facts['shape'])}, {facts['dtype']}"
    subtitle = f"{facts['threads']} threads of {facts['cpu']}; {facts['versions']}"
    return plot.figure(title, subtitle, list(NAMES.values()), panels)


def read(file, facts=None):
    """Facts and rows of an earlier run; with `facts` it must be one of the same kind."""
    stored = json.loads(file.read_text())
    if facts and stored["facts"] != facts:
        sys.exit(f"{file}: measured under other conditions: {stored['facts']}, now {facts}")
    return stored["facts"], {(r["sweep"], r["size"], r["package"]): r for r in stored["rows"]}


def arguments():
    parser = argparse.ArgumentParser(prog="bench/sizes", description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--only", choices=SIZES, action="append", help="this sweep; may be repeated")
    parser.add_argument("--package", choices=NAMES, action="append", help="this package; may be repeated")
    parser.add_argument("--size", type=int, action="append", help="of the sweep, this one; may be repeated")
    parser.add_argument("--steps", type=int, default=2, help="training steps timed, of small ones more (2)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--append", action="store_true", help="keep what --json's file has already, of two runs the quicker")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="stored", help="measure nothing: numbers of an earlier --json")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw them there")
    args = parser.parse_args()
    if args.append and not args.json:
        parser.error("--append goes with --json")
    return args


def main():
    args = arguments()
    if args.stored:
        facts, rows = read(args.stored)
    else:
        o = dict(device="cpu", threads=args.threads, dtype=args.dtype, steps=args.steps, warmup_steps=1)
        o["our_dtype"] = "bf16" if args.dtype == "bfloat16" else "f32"
        facts, rows = facts_of(args.shape, o), {}
        if args.append and args.json.exists():
            facts, rows = read(args.json, facts)
        sweep_all(o, facts, rows, args.only or SIZES, args.size, args.package or NAMES)
    if args.json:
        args.json.write_text(json.dumps(dict(facts=facts, rows=list(rows.values())), indent=1) + "\n")
    print(f"{shape_words(facts['shape'])}, {facts['dtype']}, {facts['threads']} threads of {facts['cpu']}; {facts['versions']}")
    for sweep in SIZES:
        print_table(rows, sweep)
    if args.svg:
        args.svg.write_text(draw(facts, rows))


if __name__ == "__main__":
    main()
