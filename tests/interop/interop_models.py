"""Models with a hidden projection, by themselves and as an adapter's shadow: wrapped and fresh ones."""

import torch
from interop_adapters import base_logits, check_logits
from interop_check import PARITY, ROOT
from interop_python import change, differences, place, save, tensor_differences
from safetensors.torch import load_file, save_file
from shadow_peft import AutoModelForCausalLMWithHiddenProjection

PAIRS = ROOT / "tests" / "data" / "wrap"


def check_model(check, what, directory, name):
    """`directory`/name by itself: in ours and in Python, which saves the same again."""
    inputs = load_file(directory / "input.safetensors")
    model = AutoModelForCausalLMWithHiddenProjection.from_pretrained(
        directory / name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        out = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    ours = check.forward(directory, base=name, adapter=None)["logits"]
    check.compare(what, [(ours, out.logits)], inputs["attention_mask"].unsqueeze(-1))
    again = directory / f"{name}_again"
    model.save_pretrained(again)
    weights = "model.safetensors"
    check.expect(f"{what}: Python saves the same", tensor_differences(directory / name / weights, again / weights))
    return model


def check_shadow(check, what, work, dialect):
    """work/shadow as the explicit shadow of a fresh adapter for work/base; then Python's values for it in ours."""
    options = ["--dialect", dialect, "--output", "adapter", "--seed", 4]
    check.run(work, "init", "--base", "base", "--shadow", "shadow", *options)
    model, theirs = check_logits(check, f"{what}: shadow of a fresh one", work, "causal-lm")
    inputs = load_file(work / "input.safetensors")
    base = base_logits(work, inputs, "causal-lm")
    mask = inputs["attention_mask"].unsqueeze(-1)
    check.compare(f"{what}: it leaves the base as it is", [(theirs[0], base)], mask, limit=0)
    save(model, work, "again")
    check.expect(f"{what}: Python saves the same", differences(work / "adapter", work / "again"))
    changed = place(work / "changed", work)
    change(model, "causal-lm")
    save(model, changed, "adapter")
    check_logits(check, f"{what}: changed by Python, in ours", changed, "causal-lm", "shadow")


def wrap(check, work):
    """Ours in Python and Python's in ours, each by itself and as the shadow of an adapter of each dialect."""
    for pair in sorted(path for path in PAIRS.iterdir() if path.is_dir()):
        here = place(work / pair.name, pair, "small", "large", "wrapped")
        stored = load_file(pair / "expected.safetensors")
        save_file({k: stored[k] for k in ("input_ids", "attention_mask")}, here / "input.safetensors")
        check.run(here, "wrap", "--shadow", "small", "--base", "large", "--output", "ours")
        for whose, name in (("ours", "ours"), ("Python's", "wrapped")):
            check_model(check, f"wrap {pair.name}: {whose}", here, name)
            for dialect in ("shadow_peft", "peft"):
                shadow = place(here / f"{name}_{dialect}", here, "input.safetensors")
                (shadow / "base").symlink_to((pair / "large").resolve())
                (shadow / "shadow").symlink_to((here / name).resolve())
                check_shadow(check, f"wrap {pair.name}: {whose}, {dialect}", shadow, dialect)


def projected(check, work):
    """A fresh one of ours in Python, and as Python saves it in ours."""
    here = place(work / "projected", PARITY / "base_projected", "base", "input.safetensors")
    check.run(here, "init", "--config", "base/config.json", "--output", "made", "--seed", 9)
    model = check_model(check, "projected: ours", here, "made")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    model.save_pretrained(here / "saved")
    check_model(check, "projected: Python's", here, "saved")
