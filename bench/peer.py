"""One measurement of a Python peer in a process of its own, as JSON on standard output; run by bench/compare.py.

    python bench/peer.py PACKAGE train|decode BASE OPTIONS_AS_JSON

PACKAGE is shadow_peft, peft or base (no adapter, decoding only). A line is printed as soon as decoding knows its first
token, and the JSON on the last one. The steps are those of a plain PyTorch loop: forward
with labels, backward, clipping, AdamW; the same random tokens every step, every token a label.
"""

import json
import resource
import sys
import time

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402


def now(device):
    """The clock, once the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.monotonic()


def load(package, base, dtype, device):
    return adapted(package, AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype)), dtype).to(device)


def adapted(package, model, dtype):
    if package == "shadow_peft":
        from shadow_peft import ShadowConfig, ShadowForCausalLM, get_shadow_model

        # Its modules start in f32 and do not meet a bf16 base halfway.
        return ShadowForCausalLM(get_shadow_model(model, ShadowConfig())).to(getattr(torch, dtype))
    if package == "peft":
        from peft import ShadowConfig, TaskType, get_peft_model

        return get_peft_model(model, ShadowConfig(task_type=TaskType.CAUSAL_LM))
    return model


def random_ids(model, rows, length):
    rng = torch.Generator().manual_seed(1)
    return torch.randint(0, model.config.vocab_size - 1, (rows, length), generator=rng)


def train(model, o):
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = random_ids(model, o["batch_size"], o["seq_len"]).to(o["device"])
    mask = torch.ones_like(ids)
    for step in range(o["warmup_steps"] + o["steps"]):
        if step == o["warmup_steps"]:
            began = now(o["device"])
        model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    seconds = (now(o["device"]) - began) / o["steps"]
    return dict(ms_per_step=1000 * seconds, tokens_per_second=ids.numel() / seconds)


@torch.no_grad()
def decode_without_cache(model, ids, new_tokens):
    times = []
    for _ in range(new_tokens + 1):
        began = now(ids.device.type)
        best = model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
        times.append(now(ids.device.type) - began)
        if len(times) == 1:
            print("{", flush=True)
    return times


@torch.no_grad()
def decode_with_cache(model, ids, new_tokens):
    times, past, fed = [], None, ids
    for _ in range(new_tokens + 1):
        began = now(ids.device.type)
        out = model(input_ids=fed, past_key_values=past, use_cache=True)
        past, fed = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
        times.append(now(ids.device.type) - began)
        if len(times) == 1:
            print("{", flush=True)
    return times


def decode(model, package, o):
    model.eval()
    ids = random_ids(model, 1, o["prompt_len"]).to(o["device"])
    run = decode_without_cache if package == "shadow_peft" else decode_with_cache
    times = run(model, ids, o["new_tokens"])
    return dict(ms_per_token=1000 * sum(times[1:]) / len(times[1:]), prefill_ms=1000 * times[0])


def main():
    package, kind, base, options = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
    torch.set_num_threads(options["threads"])
    model = load(package, base, options["dtype"], options["device"])
    result = train(model, options) if kind == "train" else decode(model, package, options)
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if options["device"] != "cpu":
        unused, total = torch.cuda.mem_get_info()
        result["device_memory_bytes"] = total - unused
        result["allocated_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
