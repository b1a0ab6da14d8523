"""Attention of the GPU backend beside PyTorch's kernels for it, cuDNN's and flash attention's, in milliseconds a call.

usage: python bench/attention.py PATH/TO/gpu_ops   (a build with -DSHADOWPEFT_CUDA=ON; PyTorch with CUDA)

Shapes are those of `gpu_ops --time`, which gives our times: bf16, causal, grouped heads. PyTorch's are of its
scaled_dot_product_attention with one backend allowed; its decoding has no cache to write to and knows its length.
Each number is the least of some rounds of calls queued one behind the other.
"""

import re
import subprocess
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# Sequences, tokens of each, query and key heads; the head size is 128. Decoding: tokens in the cache.
TRAINING = {"0.6B train": (16, 512, 16, 8), "8B train": (8, 512, 32, 8), "long": (1, 8192, 16, 8)}
DECODING = {"0.6B decode": (16, 8), "8B decode": (32, 8)}
PASTS = (128, 1024, 4096)
BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
CALLS, ROUNDS = 24, 5


def milliseconds(call):
    call()
    best = float("inf")
    for _ in range(ROUNDS):
        begin, end = torch.cuda.Event(True), torch.cuda.Event(True)
        begin.record()
        for _ in range(CALLS):
            call()
        end.record()
        torch.cuda.synchronize()
        best = min(best, begin.elapsed_time(end) / CALLS)
    return best


def random(*shape):
    return torch.randn(*shape, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)


def attend(q, k, v, causal):
    return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def training(count, tokens, heads, kv_heads):
    q, k, v = random(count, heads, tokens), random(count, kv_heads, tokens), random(count, kv_heads, tokens)
    with torch.no_grad():
        forward = milliseconds(lambda: attend(q, k, v, True))
    o = attend(q, k, v, True)
    d_o = torch.randn_like(o)
    backward = milliseconds(lambda: torch.autograd.grad(o, (q, k, v), d_o, retain_graph=True))
    return {"attention": forward, "attention_backward": backward}


@torch.no_grad()
def decoding(past, heads, kv_heads):
    q, k, v = random(1, heads, 1), random(1, kv_heads, past + 1), random(1, kv_heads, past + 1)
    return milliseconds(lambda: attend(q, k, v, False))


def measured_here(gpu_ops):
    """{(shape, operation): ms}"""
    run = [gpu_ops, "--time", "--only", "attention", "cuda"]
    lines = subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()
    found = (re.match(r"(.{12}) (attention\w*(?: \d+)?) +([\d.]+) ms", line) for line in lines)
    return {(m[1].strip(), m[2]): float(m[3]) for m in found if m}


def peers():
    """{(shape, operation): {backend: ms}}"""
    all = {}
    for name, backend in BACKENDS.items():
        with sdpa_kernel(backend):
            for shape, sizes in TRAINING.items():
                for operation, ms in training(*sizes).items():
                    all.setdefault((shape, operation), {})[name] = ms
            for shape, heads in DECODING.items():
                for past in PASTS:
                    all.setdefault((shape, f"attention_cached {past}"), {})[name] = decoding(past, *heads)
    return all


def main():
    ours, theirs = measured_here(sys.argv[1]), peers()
    cudnn = torch.backends.cudnn.version()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {cudnn}\n")
    print("| shape | operation | shadowpeft | cuDNN | flash |\n|---|---|--:|--:|--:|")
    for (shape, operation), ms in theirs.items():
        mine = ours.get((shape, operation))
        print(f"| {shape} | {operation} | {mine or float('nan'):.4f} | {ms['cuDNN']:.4f} | {ms['flash']:.4f} |")


if __name__ == "__main__":
    main() if len(sys.argv) == 2 else sys.exit(__doc__)
