"""Adapters of both dialects and tasks, case by case, both ways."""

import json

import fixture_models
import torch
from interop_check import PARITY, Skip
from interop_python import (
    change,
    dialect_of,
    differences,
    load,
    logits,
    mask_of,
    place,
    save,
    tensor_differences,
)
from safetensors.torch import load_file

# ShadowConfig's and peft.ShadowConfig's fields whose options have their names.
FIELDS = dict(
    shadow_peft=(
        "num_shadow_layers injection_hidden_size gate_hidden_size alpha dropout shadow_intermediate_size "
        "shadow_num_attention_heads shadow_num_key_value_heads shadow_head_dim"
    ).split(),
    peft=(
        "r update_hidden_size shadow_alpha shadow_dropout shadow_num_hidden_layers shadow_hidden_size "
        "shadow_num_attention_heads shadow_intermediate_size"
    ).split(),
)


def read_case(name):
    return json.loads((PARITY / name / "case.json").read_text())


def init_options(name):
    """The options of init that make an adapter of the case's shape."""
    case, info = PARITY / name, read_case(name)
    dialect = dialect_of(case / "adapter")
    config = json.loads(next((case / "adapter").glob("*config.json")).read_text())
    given = {f: config[f] for f in FIELDS[dialect] if config[f] is not None}
    options = [x for k, v in given.items() for x in ("--" + k.replace("_", "-"), v)]
    options += ["--dialect", dialect, "--task", info.get("task", "causal-lm")]
    if (case / "shadow").exists():
        options += ["--shadow", "shadow"]
    if info.get("remove_embed_tokens"):
        options += ["--remove-embed-tokens"]
    if info.get("modules_to_save"):
        options += ["--modules-to-save", ",".join(info["modules_to_save"])]
    if dialect == "peft":
        options += ["--layers-to-transform", f"{info['blocks'][0]}-{info['blocks'][-1]}"]
        options += [] if config["share_embeddings"] else ["--no-share-embeddings"]
    return options


@torch.no_grad()
def base_logits(directory, inputs, task):
    model = fixture_models.load_base(directory / "base", torch.float32, task).eval()
    return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits


def check_logits(check, what, directory, task, shadow=None):
    """`directory`/adapter in Python and in the command, which may need to be told of the shadow; returns Python's."""
    inputs = load_file(directory / "input.safetensors")
    model = load(directory, task)
    theirs = logits(model, inputs)
    ours = check.forward(directory, task=task, shadow=shadow)
    check.compare(what, zip((ours["logits"], ours["shadow_logits"]), theirs), mask_of(inputs, task))
    return model, theirs


def require_base(name):
    """The case has the text tower alone of a model with images."""
    if "text_config" in json.loads((PARITY / name / "base" / "config.json").read_text()):
        raise Skip("Transformers loads no base of which only the text tower is there")


def fresh(check, name, work):
    """Ours in Python, which finds every tensor and saves the same again; then, changed there, in ours."""
    require_base(name)
    task = read_case(name).get("task", "causal-lm")
    made = place(work / "made", PARITY / name)
    inputs = load_file(made / "input.safetensors")
    check.run(made, "init", "--base", "base", *init_options(name), "--output", "adapter", "--seed", 11)
    model, theirs = check_logits(check, f"{name}: a fresh one in Python", made, task)
    base = base_logits(made, inputs, task)
    check.compare(f"{name}: it leaves the base as it is", [(theirs[0], base)], mask_of(inputs, task), limit=0)
    save(model, made, "again")
    check.expect(f"{name}: Python saves the same", differences(made / "adapter", made / "again"))
    changed = place(work / "changed", PARITY / name)
    change(model, task)
    save(model, changed, "adapter")
    explicit = "shadow" if (changed / "shadow").exists() else None
    check_logits(check, f"{name}: changed by Python, in ours", changed, task, explicit)


def resaved(check, name, work):
    """The case's adapter, which Python saved, in ours; saved by ours, in Python again."""
    require_base(name)
    task, case = read_case(name).get("task", "causal-lm"), PARITY / name
    again, inputs = place(work / "again", case), load_file(case / "input.safetensors")
    explicit = ["--shadow", "shadow"] if (again / "shadow").exists() else []
    (again / "given").symlink_to((case / "adapter").resolve())
    dialect = dialect_of(case / "adapter")
    options = ["--task", task, "--adapter", "given", *explicit, "--to", dialect, "--output", "adapter"]
    check.run(again, "convert", "--base", "base", *options)
    check.expect(f"{name}: Python's, its tensors in ours", tensor_differences(again / "adapter", again / "given"))
    _, theirs = check_logits(check, f"{name}: Python's, saved by ours", again, task)
    expected = load_file(case / "expected.safetensors")
    want = expected["logits"], expected["shadow_logits"]
    check.compare(f"{name}: its logits in Python as before", zip(theirs, want), mask_of(inputs, task))
