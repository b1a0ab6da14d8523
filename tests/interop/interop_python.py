"""Adapters as Python holds them, in either dialect: loaded from a case's directory, run, changed, saved.

A directory has base, input.safetensors, adapter and, of an explicit shadow, shadow, as those of tests/data/parity.
How the published packages load such a directory is written down where the fixtures are made; this uses that.
"""

import contextlib
import io
import json
import warnings
from pathlib import Path

import fixture_adapter
import fixture_peft
import torch
from safetensors.torch import load_file

# The files of an adapter: dialect -> (config, files with tensors).
FILES = {
    "shadow_peft": ("shadow_config.json", ("shadow_adapter.safetensors", "shadow_modules.safetensors")),
    "peft": ("adapter_config.json", ("adapter_model.safetensors",)),
}


def dialect_of(adapter):
    return next(name for name, (config, _) in FILES.items() if (Path(adapter) / config).exists())


def place(directory, case, *names):
    """Makes `directory` with links to what `case` has of `names`: base, shadow and input unless others are named."""
    directory.mkdir()
    for name in names or ("base", "shadow", "input.safetensors"):
        if (case / name).exists():
            (directory / name).symlink_to((case / name).resolve())
    return directory


def load(directory, task="causal-lm"):
    """What Python warns of while it loads is an error: a key that is missing or that it does not know, a config."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", FutureWarning)  # what the packages have to tell one another
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")  # of the base, not of the adapter
        if dialect_of(directory / "adapter") == "peft":
            return fixture_peft.load(directory).eval()
        return fixture_adapter.load(directory, torch.float32, 0.05, task).eval()


@torch.no_grad()
def logits(model, inputs):
    """The base's, with the shadow injected, and the shadow's."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if hasattr(model, "base_model") and hasattr(model, "peft_config"):
        return fixture_peft.both_logits(model, ids, mask)
    out = model(input_ids=ids, attention_mask=mask)
    return out.logits, out.shadow_logits


def mask_of(inputs, task="causal-lm"):
    """Where logits count."""
    return inputs["attention_mask"].bool().unsqueeze(-1) if task == "causal-lm" else 1


def parameters(model, task):
    """Everything that Python saves with the adapter, by name."""
    if hasattr(model, "peft_config"):
        return fixture_peft.saved_parameters(model)
    named = dict(model.peft_model.named_parameters())
    keys = model.peft_model.adapter_state_dict().keys()
    return {**{key: named[key] for key in keys}, **fixture_adapter.trained_heads(model, task)}


@torch.no_grad()
def change(model, task, seed=5):
    """Other values, so that every part of the adapter takes part in the logits."""
    rng = torch.Generator().manual_seed(seed)
    for _, p in sorted(parameters(model, task).items()):
        p.add_(0.2 * torch.randn(p.shape, generator=rng))


def save(model, directory, name):
    """As the Python package saves it, under `directory`/`name`."""
    with contextlib.chdir(directory):
        model.save_pretrained(name)


# ------------------------------------------------------------------ the files themselves


def config_of(adapter):
    """The config without what may differ: lists are sets, versions go on, labels are our addition."""
    config = json.loads((Path(adapter) / FILES[dialect_of(adapter)][0]).read_text())
    for key in ("id2label", "peft_version"):
        config.pop(key, None)
    return {key: sorted(set(value)) if isinstance(value, list) else value for key, value in config.items()}


def config_differences(ours, theirs):
    ours, theirs = config_of(ours), config_of(theirs)
    missing = object()
    keys = sorted(k for k in {*ours, *theirs} if ours.get(k, missing) != theirs.get(k, missing))
    return [f"{key}: {ours.get(key, 'absent')} for {theirs.get(key, 'absent')}" for key in keys]


def tensors_of(path):
    """Of a safetensors file or an adapter's directory; bf16 as the same values in f32, which is what we write."""
    path = Path(path)
    paths = [path] if path.is_file() else [path / name for name in FILES[dialect_of(path)][1]]
    return {key: value.float() for file in paths if file.exists() for key, value in load_file(file).items()}


def tensor_differences(ours, theirs, but=()):
    """Names of tensors that one side lacks or whose values differ in a bit; those with a word of `but` aside."""
    a, b = tensors_of(ours), tensors_of(theirs)
    names = sorted(f"only in {'ours' if key in a else 'theirs'}: {key}" for key in a.keys() ^ b.keys())
    values = [f"another value: {key}" for key in sorted(a.keys() & b.keys()) if not torch.equal(a[key], b[key])]
    return [line for line in names + values if not any(word in line for word in but)]


def differences(ours, theirs):
    """What two adapter directories differ in: config and tensors."""
    return config_differences(ours, theirs) + tensor_differences(ours, theirs)
