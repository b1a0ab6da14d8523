"""Loads an adapter that this project's command wrote into Python's shadow_peft, and writes what Python computes.

    pip install torch==2.13.0 shadow-peft transformers safetensors
    python tests/parity/interop_check.py --base DIR --adapter DIR --input IN.safetensors --output OUT.safetensors

Reads input_ids and, where there is one, attention_mask (I64 [B, S]); computes in f32; writes logits and
shadow_logits (F32 [B, S, V], zeros at padding), the same file as `shadowpeft forward` writes. With
--compare OURS.safetensors it also prints the largest difference relative to the largest logit and exits 1
above 1e-4.
"""

import argparse
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from shadow_peft import ShadowForCausalLM

LIMIT = 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("base", "adapter", "input", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--compare", help="a file that `shadowpeft forward` wrote from the same input")
    args = parser.parse_args()
    base = transformers.AutoModelForCausalLM.from_pretrained(
        args.base, dtype=torch.float32, attn_implementation="eager"
    )
    model = ShadowForCausalLM.from_pretrained(base, args.adapter).float().eval()
    inputs = load_file(args.input)
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask)
    keep = mask.bool().unsqueeze(-1)
    results = dict(logits=(out.logits * keep).contiguous(), shadow_logits=(out.shadow_logits * keep).contiguous())
    save_file(results, args.output)
    if args.compare:
        ours = load_file(args.compare)
        errors = {k: float((ours[k] - v).abs().max() / v.abs().max()) for k, v in results.items()}
        print(" ".join(f"{k}={e:.1e}" for k, e in errors.items()))
        sys.exit(any(not e <= LIMIT for e in errors.values()))


if __name__ == "__main__":
    main()
