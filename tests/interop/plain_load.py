"""What a user writes who has Transformers alone: loads exported shadows, without shadow_peft.

    python plain_load.py DIR ...

Each DIR has exported (the model) and input.safetensors; logits go into DIR/plain.safetensors, and with a tokenizer
the ids of TEXT; where it fails, what was raised into DIR/plain.txt.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

TEXT = "turn left, then go to the kitchen"


@torch.no_grad()
def run(directory):
    model_type = json.loads((directory / "exported" / "config.json").read_text())["architectures"][0]
    classifier = model_type.endswith("ForSequenceClassification")
    auto = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModelForCausalLM
    model, info = auto.from_pretrained(
        directory / "exported", dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], (directory, info)
    inputs = load_file(directory / "input.safetensors")
    out = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
    results = dict(logits=out.logits.contiguous())
    if (directory / "exported" / "tokenizer.json").exists():
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory / "exported")
        results["ids"] = torch.tensor(tokenizer(TEXT)["input_ids"])
    save_file(results, directory / "plain.safetensors")


if __name__ == "__main__":
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        try:
            run(Path(name))
        except Exception as error:  # noqa: BLE001
            Path(name, "plain.txt").write_text(f"{type(error).__name__}: {error}")
    assert "shadow_peft" not in sys.modules and "peft" not in sys.modules
