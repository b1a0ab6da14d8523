"""From one dialect to the other by the command: the other package then computes what the first did."""

import fixture_adapter
import fixture_peft
import torch
from fixture_families import case, gemma, gpt2, shadow
from fixture_models import write_base
from fixture_more_cases import tiny_llama, tiny_qwen3
from fixture_peft_cases import peft_case
from fixture_seqcls import label, make_input
from interop_python import dialect_of, load, logits, mask_of, place, tensor_differences
from safetensors.torch import load_file, save_file

OTHER = dict(shadow_peft="peft", peft="shadow_peft")


def cases():
    """Two decoder layers: shadow_peft adapts the second alone, and so does PEFT where it is told to."""
    two = dict(num_hidden_layers=2)
    lengths = dict(lengths=(9, 7, 6))
    classes = dict(lengths=(9, 7, 1, 6), task="seq-cls")
    less = dict(num_hidden_layers=2, hidden_size=12, num_attention_heads=2)
    names = ["negative", "neutral", "positive"]
    one = ["1"]
    return [
        case("llama", tiny_llama(**two), shadow(), **lengths),
        case("qwen3", tiny_qwen3(**two, tie_word_embeddings=True), shadow(layers=2, num_attention_heads=2), **lengths),
        case("gpt2", gpt2(n_layer=2), shadow(), **lengths),
        case("gemma", gemma(**two), shadow(), pad="left", **lengths),
        case("explicit", tiny_llama(**two), shadow(), explicit=tiny_qwen3(**less), **lengths),
        case("classes", label(tiny_llama(**two), names), shadow(), **classes),
        peft_case("llama", tiny_llama(**two), target_modules=one),
        peft_case("qwen3", tiny_qwen3(**two, tie_word_embeddings=True), r=3, update_hidden_size=7, target_modules=one),
        peft_case("gpt2", gpt2(n_layer=2), target_modules=["h.1"]),
        peft_case("gemma", gemma(**two), target_modules=one, shadow_num_hidden_layers=2),
        peft_case("explicit", tiny_llama(**two), shadow_model="shadow", target_modules=one,
                  more=dict(explicit=tiny_qwen3(**less))),
        peft_case("classes", label(tiny_llama(**two), names), target_modules=one, more=classes),
    ]


def write(spec, directory, seed):
    """Base, shadow, adapter with random values, input."""
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    write_base(spec, directory / "base", rng)
    if spec.get("peft"):
        fixture_peft.write_adapter(spec, directory, rng)
    else:
        fixture_adapter.write_adapter(spec, directory / "base", directory / "adapter", rng)
    inputs = make_input(spec, rng)
    save_file({k: inputs[k] for k in ("input_ids", "attention_mask")}, directory / "input.safetensors")


def turn(check, what, source, directory, task, want):
    """`source`/adapter in the other dialect at `directory`/adapter, which gives `want` in Python and in ours."""
    inputs = load_file(source / "input.safetensors")
    explicit = ["--shadow", "shadow"] if (source / "shadow").exists() else []
    to = OTHER[dialect_of(source / "adapter")]
    place(directory, source)
    check.run(source, "convert", "--base", "base", "--adapter", "adapter", *explicit, "--task", task, "--to", to,
              "--output", directory / "adapter")
    theirs = logits(load(directory, task), inputs)
    ours = check.forward(directory, task=task)
    pairs = [*zip(theirs, want), *zip((ours["logits"], ours["shadow_logits"]), want)]
    check.compare(f"{what} to {to}", pairs, mask_of(inputs, task))


def convert(check, work):
    """
    There and back; on the way the numbers are those of the package that the adapter came from. The update of the
    one layer, which feeds nothing, is fresh after each turn.
    """
    for seed, spec in enumerate(cases()):
        task = spec.get("task", "causal-lm")
        given = work / str(seed)
        given.mkdir()
        write(spec, given, seed)
        dialect = dialect_of(given / "adapter")
        what = f"convert: {spec['name'].removeprefix('peft_')} of {dialect}"
        want = logits(load(given, task), load_file(given / "input.safetensors"))
        turn(check, what, given, work / f"{seed}_there", task, want)
        turn(check, f"{what}, and back", work / f"{seed}_there", work / f"{seed}_back", task, want)
        wrong = tensor_differences(given / "adapter", work / f"{seed}_back" / "adapter", but=["update"])
        check.expect(f"{what}: there and back", wrong)
