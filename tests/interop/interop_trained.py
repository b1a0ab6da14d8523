"""Adapters that the command trains, with the tokenizer and the labels that come along, in Python."""

import json
import shutil

import torch
import transformers
from interop_check import ROOT
from interop_exports import export
from interop_python import FILES, dialect_of, load, logits, mask_of, place
from safetensors.torch import load_file, save_file
from shadow_peft import ShadowConfig
from tokenizers import Tokenizer

TOKENIZER = ROOT / "tests" / "data" / "tiny_tokenizer"
LABELS = ["go", "look", "turn"]
TEXTS = [("go to the door", 0), ("look at the cup", 1), ("turn left now", 2), ("walk to the kitchen", 0)]
OPTIONS = "--max-steps 6 --learning-rate 2e-2 --lr-scheduler-type constant --per-device-train-batch-size 3".split()


def make_base(check, work):
    """A small causal LM, random, with a tokenizer; padding has an id that stands nowhere else."""
    tokens = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json")).get_vocab_size(True)
    config = dict(
        model_type="qwen3", vocab_size=tokens, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.2,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, tie_word_embeddings=True,
    )  # fmt: skip
    (work / "config.json").write_text(json.dumps(config))
    check.run(work, "init", "--config", "config.json", "--output", "base", "--seed", 2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, work / "base" / name)
    lines = [dict(text=text, label=LABELS[i], prompt=text, completion=f" {LABELS[i]}") for text, i in TEXTS]
    (work / "classes.jsonl").write_text("".join(json.dumps({k: x[k] for k in ("text", "label")}) + "\n" for x in lines))
    (work / "answers.jsonl").write_text(
        "".join(json.dumps({k: x[k] for k in ("prompt", "completion")}) + "\n" for x in lines)
    )
    ids = torch.randint(3, tokens, (3, 12), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, 7:] = mask[2, 10:] = 0
    ids[mask == 0] = 1
    save_file(dict(input_ids=ids, attention_mask=mask), work / "input.safetensors")


def classifier_base(directory):
    """
    What a user of the Python packages writes: a causal LM's checkpoint with a fresh head for the labels, which the
    adapter's then replaces. Saved, so that load() finds it.
    """
    names = dict(enumerate(LABELS))
    back = {name: i for i, name in names.items()}
    torch.manual_seed(8)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        directory / "base", num_labels=len(LABELS), id2label=names, label2id=back, dtype=torch.float32
    )
    (directory / "base").unlink()
    model.save_pretrained(directory / "base")


def check_labels(check, what, directory):
    """Our config names the labels in a key that Python leaves out of account; the exported classifier has them."""
    names = {str(i): name for i, name in enumerate(LABELS)}
    config = json.loads((directory / "adapter" / FILES["shadow_peft"][0]).read_text())
    wrong = [] if config.get("id2label") == names else [f"id2label: {config.get('id2label')}"]
    wrong += ["Python takes it"] if hasattr(ShadowConfig.from_pretrained(directory / "adapter"), "id2label") else []
    exported = transformers.AutoConfig.from_pretrained(directory / "exported").id2label
    wrong += [] if exported == dict(enumerate(LABELS)) else [f"exported: {exported}"]
    check.expect(f"{what}: its labels", wrong)


def train(check, work, dialect, task):
    what, data = f"trained {task} {dialect}", "classes" if task == "seq-cls" else "answers"
    here = place(work / what.replace(" ", "_"), work)
    rate = "--shadow-dropout" if dialect == "peft" else "--dropout"
    check.run(here, "train", "--base", "base", "--task", task, "--dialect", dialect, rate, 0, "--data",
              work / f"{data}.jsonl", "--output", "adapter", *OPTIONS)
    inputs = load_file(here / "input.safetensors")
    ours = check.forward(here, task=task)
    export(check, here, task)
    model_base = place(work / f"python_{here.name}", here)
    (model_base / "adapter").symlink_to((here / "adapter").resolve())
    if task == "seq-cls":
        classifier_base(model_base)
    theirs = logits(load(model_base, task), inputs)
    check.compare(what, zip((ours["logits"], ours["shadow_logits"]), theirs), mask_of(inputs, task))
    if task == "seq-cls" and dialect_of(here / "adapter") == "shadow_peft":
        check_labels(check, what, here)


def trained(check, work):
    """Classifiers on a base that has no head yet, and language models; their exports are left for compare_plain."""
    make_base(check, work)
    for task in ("causal-lm", "seq-cls"):
        for dialect in FILES:
            train(check, work, dialect, task)
