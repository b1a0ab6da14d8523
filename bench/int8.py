#!/usr/bin/env python3
"""How far logits are from those of the unquantised base with --quantize int8, on the random models of the tests.

usage: bench/int8.py COMMAND            (needs numpy and safetensors)

Prints for every model the relative L2 distance of all its logits, their cosine, and the share of attended tokens
whose likeliest next token is the same. Logits are computed in f32.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

CASES = pathlib.Path(__file__).resolve().parent.parent / "tests/data/parity"
NAMES = "gemma2 gpt2 hunyuan llama mistral olmo2 opt phi3 qwen2 qwen3".split()


def logits(command, case, scratch, quantize):
    out = scratch / "out.safetensors"
    subprocess.run([command, "forward", "--base", case / "base", "--input", case / "input.safetensors", "--output",
                    out, "--dtype", "f32", "--quantize", quantize, "--quiet"], check=True)
    return load_file(out)["logits"].astype(np.float64)


def main():
    command = sys.argv[1]
    print(f"{'model':10} {'relative L2':>12} {'cosine':>10} {'same token':>11}")
    with tempfile.TemporaryDirectory() as scratch:
        for name in NAMES:
            case = CASES / name
            plain, int8 = (logits(command, case, pathlib.Path(scratch), q) for q in ("none", "int8"))
            attended = np.abs(plain).sum(-1) > 0
            x, y = plain[attended], int8[attended]
            relative = np.linalg.norm(x - y) / np.linalg.norm(x)
            cosine = (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
            same = (x.argmax(-1) == y.argmax(-1)).mean()
            print(f"{name:10} {relative:12.4f} {cosine:10.6f} {100 * same:10.1f}%")


if __name__ == "__main__":
    main()
