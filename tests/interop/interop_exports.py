"""Detached shadows: ours in Transformers, shadow_peft's in ours."""

import json
import subprocess
import sys
from pathlib import Path

import fixture_models
import torch
from interop_adapters import read_case, require_base
from interop_check import PARITY, ROOT, Skip
from interop_python import dialect_of, load, mask_of, place, tensors_of
from plain_load import TEXT
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

PROJECTED = "causal_lm_with_hidden_projection"


def export(check, directory, task, shadow=None):
    """
    The command's export of `directory`/adapter, beside what compare_plain wants to know: `want.safetensors` has the
    logits of the adapter itself in the mode shadow_only.
    """
    ours = check.forward(directory, task=task, shadow=shadow, mode="shadow_only")["logits"]
    options = ["--shadow", shadow] if shadow else []
    check.run(directory, "export", "--base", "base", "--adapter", "adapter", *options, "--task", task, "--output",
              "exported", "--dtype", "f32")
    save_file(dict(logits=ours), directory / "want.safetensors")
    return ours


def model_type(directory):
    return json.loads((directory / "exported" / "config.json").read_text())["model_type"]


def exported(check, name, work):
    """A plain one is left for compare_plain, which loads all of them in one process."""
    info, case = read_case(name), PARITY / name
    task = info.get("task", "causal-lm")
    here = place(work / name, case, "base", "shadow", "adapter", "input.safetensors")
    if task == "seq-cls" and has_projection(here):
        raise Skip("there is no class for a classifier with a hidden projection")
    ours = export(check, here, task, "shadow" if (here / "shadow").exists() else None)
    inputs = load_file(here / "input.safetensors")
    want = load_file(case / "expected.safetensors")["logits_shadow_only"]
    check.compare(f"{name}: shadow_only", [(ours, want)], mask_of(inputs, task))
    if model_type(here) == PROJECTED:
        with torch.no_grad():
            model = fixture_models.load_base(here / "exported", torch.float32).eval()
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        check.compare(f"{name}: exported, in shadow_peft", [(ours, logits)], mask_of(inputs, task))


def has_projection(directory):
    return any("projection" in key for key in tensors_of(directory / "adapter"))


def compare_plain(check, top):
    """Every plain export that the other ways have left under `top`, in a process without shadow_peft."""
    left = [path.parent for path in Path(top).glob("*/*/exported") if model_type(path.parent) != PROJECTED]
    if left:
        subprocess.run([sys.executable, ROOT / "tests" / "interop" / "plain_load.py", *left], check=True)
    for directory in sorted(left, key=lambda path: path.name):
        check.attempt(f"{directory.name}: exported, in Transformers", compare_one, directory)


def compare_one(check, directory):
    what = f"{directory.name}: exported, in Transformers"
    if (directory / "plain.txt").exists():
        error = (directory / "plain.txt").read_text()
        if "not a multiple of the number of attention heads" in error:
            raise Skip("its LlamaConfig refuses such a number of heads, whatever head_dim is")
        raise RuntimeError(error)
    inputs, found = load_file(directory / "input.safetensors"), load_file(directory / "plain.safetensors")
    want = load_file(directory / "want.safetensors")["logits"]
    check.compare(what, [(want, found["logits"])], mask_of(inputs) if want.dim() == 3 else 1)
    if "ids" in found:
        tokenizer = Tokenizer.from_file(str(directory / "base" / "tokenizer.json"))
        equal = tokenizer.encode(TEXT).ids == found["ids"].tolist()
        check.expect(f"{directory.name}: its tokenizer", [] if equal else ["other ids"])


def family(directory, name):
    if not (directory / name).exists():
        return None
    config = json.loads((directory / name / "config.json").read_text())
    return config.get("shadow_model_config", config)["model_type"]


def imported(check, name, work):
    """shadow_peft's own export; whether that computes what the adapter does is its affair."""
    case, task = PARITY / name, read_case(name).get("task", "causal-lm")
    if dialect_of(case / "adapter") == "peft":
        return
    require_base(name)
    here = place(work / name, case, "base", "shadow", "adapter", "input.safetensors")
    inputs = load_file(here / "input.safetensors")
    if family(here, "shadow") not in (None, family(here, "base")):
        raise Skip("shadow_peft's export_shadow puts the shadow into a class of the base's family")
    try:
        model = load(here, task).peft_model.export_shadow().eval()
        model.save_pretrained(here / "theirs")
        with torch.no_grad():
            want = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    except Exception as error:
        raise Skip(f"shadow_peft's export_shadow: {type(error).__name__}: {error}".split("\n")[0]) from error
    ours = check.forward(here, base="theirs", adapter=None)["logits"]
    check.compare(f"{name}: exported by shadow_peft, in ours", [(ours, want)], mask_of(inputs, task))
