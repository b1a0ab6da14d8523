"""Checkpoints go both ways between this project's command and the published Python packages, with equal logits.

    scripts/interop            makes a Python environment and runs this
    python tests/interop/interop.py --command build/shadowpeft [CASE ...]

Every CASE is a directory of tests/data/parity. All numbers are in f32; an error is max|ours - theirs| / max|theirs|
over the attended positions, and none may pass LIMIT. The ways:

    made      the command makes a fresh adapter; Python loads it, gives it random values and saves it; the command
              loads that. Both sides' logits and shadow logits.
    exported  an adapter from Python; the command exports its shadow; AutoModelForCausalLM loads that, without
              shadow_peft where the shadow has the base's hidden size. Against the adapter's own shadow_only logits.
    trained   the command trains an adapter, and Python loads it.
    projected the command makes a causal_lm_with_hidden_projection, Python loads and saves it, the command loads that.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from shadow_peft import AutoModelForCausalLMWithHiddenProjection, ShadowForCausalLM, prepare_shadow_model

LIMIT = 1e-4
ROOT = Path(__file__).resolve().parent.parent.parent
PARITY = ROOT / "tests" / "data" / "parity"
CASES = (
    "llama mistral qwen2 qwen3 gemma gemma2 gemma3 gpt2 opt hunyuan phi3 olmo2 llama_tied qwen3_window "
    "explicit_qwen3 explicit_small explicit_mixed explicit_gpt2 explicit_gemma3 projected_qwen3"
).split()

# What a user without shadow_peft writes.
PLAIN = """
import sys, torch, transformers
from safetensors.torch import load_file, save_file
transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="eager")
assert "shadow_peft" not in sys.modules
inputs = load_file(sys.argv[2])
with torch.no_grad():
    out = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
save_file(dict(logits=out.logits.contiguous()), sys.argv[3])
"""


class Checker:
    def __init__(self, command):
        self.command = str(Path(command).resolve())
        self.worst = 0.0
        self.failed = 0

    def run(self, *args):
        done = subprocess.run([self.command, *map(str, args)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, args))}: {done.stderr}")

    def forward(self, work, inputs, **options):
        given = [x for k, v in options.items() if v is not None for x in (f"--{k}", v)]
        self.run("forward", *given, "--dtype", "f32", "--input", inputs, "--output", work / "ours.safetensors")
        return load_file(work / "ours.safetensors")

    def compare(self, what, keep, ours, theirs):
        error = float(((ours - theirs) * keep).abs().max() / (theirs * keep).abs().max())
        self.worst = max(self.worst, error)
        good = error <= LIMIT
        self.failed += not good
        print(f"{what:48s} {error:.1e}{'' if good else '  FAILED'}", flush=True)


def mask_of(inputs):
    return inputs["attention_mask"].bool().unsqueeze(-1)


def load_base(directory):
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )


def load_shadow(directory):
    """A case's explicit shadow, as get_shadow_model takes it."""
    if directory is None:
        return None
    if json.loads((directory / "config.json").read_text())["model_type"] == "causal_lm_with_hidden_projection":
        return AutoModelForCausalLMWithHiddenProjection.from_pretrained(directory, dtype=torch.float32)
    return prepare_shadow_model(load_base(directory))


def load_adapter(base, adapter, shadow):
    return ShadowForCausalLM.from_pretrained(load_base(base), adapter, shadow_model=load_shadow(shadow)).eval()


@torch.no_grad()
def python_logits(model, inputs):
    out = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    return out.logits, out.shadow_logits


def check_adapter(check, what, base, adapter, shadow, inputs, work, given=None):
    """One adapter directory in Python and in the command; `given`: what the command needs to be told of the shadow."""
    tensors = load_file(inputs)
    model = load_adapter(base, adapter, shadow)
    theirs = python_logits(model, tensors)
    ours = check.forward(work, inputs, base=base, adapter=adapter, shadow=given)
    check.compare(f"{what}: logits", mask_of(tensors), ours["logits"], theirs[0])
    check.compare(f"{what}: shadow logits", mask_of(tensors), ours["shadow_logits"], theirs[1])
    return model


def made(check, name, work):
    case = PARITY / name
    shadow = case / "shadow" if (case / "shadow").exists() else None
    base, inputs, explicit = case / "base", case / "input.safetensors", ["--shadow", shadow] if shadow else []
    check.run("init", "--base", base, *explicit, "--output", work / "fresh", "--seed", 11)
    model = check_adapter(check, f"{name}: ours in Python", base, work / "fresh", shadow, inputs, work)
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for part in ("shadow_injection_model", "shadow_update_model"):
            for p in getattr(model.peft_model, part).parameters():
                p.copy_(0.2 * torch.randn(p.shape, generator=rng))
    model.save_pretrained(work / "changed")
    check_adapter(check, f"{name}: Python's in ours", base, work / "changed", shadow, inputs, work, given=shadow)


def exported(check, name, work):
    case = PARITY / name
    shadow = case / "shadow" if (case / "shadow").exists() else None
    explicit = ["--shadow", shadow] if shadow else []
    inputs, tensors = case / "input.safetensors", load_file(case / "input.safetensors")
    check.run("export", "--base", case / "base", "--adapter", case / "adapter", *explicit, "--output",
              work / "exported", "--dtype", "f32")
    config = json.loads((work / "exported" / "config.json").read_text())
    if config["model_type"] == "causal_lm_with_hidden_projection":
        with torch.no_grad():
            model = load_base(work / "exported").eval()
            logits = model(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"]).logits
    else:
        out = work / "plain.safetensors"
        subprocess.run([sys.executable, "-c", PLAIN, work / "exported", inputs, out], check=True)
        logits = load_file(out)["logits"]
    want = load_file(case / "expected.safetensors")["logits_shadow_only"]
    check.compare(f"{name}: exported shadow in Python", mask_of(tensors), want, logits)


def trained(check, work):
    example = ROOT / "examples" / "robot_intent"
    check.run("train", "--base", example / "base", "--data", example / "data" / "dev.jsonl", "--output",
              work / "trained", "--max-steps", 5, "--learning-rate", 1e-2, "--dropout", 0)
    ids = torch.randint(0, 1000, (2, 24), generator=torch.Generator().manual_seed(3))
    save_file(dict(input_ids=ids, attention_mask=torch.ones_like(ids)), work / "in.safetensors")
    check_adapter(check, "trained", example / "base", work / "trained", None, work / "in.safetensors", work)


def projected(check, work):
    case = PARITY / "base_projected"
    tensors = load_file(case / "input.safetensors")
    check.run("init", "--config", case / "base" / "config.json", "--output", work / "made", "--seed", 9)
    for what, directory in (("ours in Python", work / "made"), ("Python's in ours", work / "saved")):
        model = AutoModelForCausalLMWithHiddenProjection.from_pretrained(work / "made", attn_implementation="eager")
        model.eval().save_pretrained(work / "saved")
        with torch.no_grad():
            out = model(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"])
        ours = check.forward(work, case / "input.safetensors", base=directory)
        check.compare(f"projected: {what}", mask_of(tensors), ours["logits"], out.logits)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--command", default=ROOT / "build" / "shadowpeft")
    parser.add_argument("cases", nargs="*", default=CASES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    check = Checker(args.command)
    jobs = [(way, name) for name in args.cases for way in (made, exported)]
    for way, *name in [*jobs, (trained,), (projected,)]:
        with tempfile.TemporaryDirectory() as work:
            way(check, *name, Path(work))
    print(f"largest error {check.worst:.1e}, limit {LIMIT:.0e}; {check.failed} failed")
    sys.exit(check.failed > 0)


if __name__ == "__main__":
    main()
