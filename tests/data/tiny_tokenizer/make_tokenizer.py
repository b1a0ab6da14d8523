#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tokenizer.json and tokenizer_config.json beside this script: a byte-level BPE of 300 tokens that puts
<s> before a text, for tests that need some tokenizer. Needs Hugging Face `tokenizers`.

Prints the ids of the texts that tests/unit/test_dataset.c expects.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEXT = ["the cup is on the table", "go to the kitchen", "pick up the red cup", "turn to the left"] * 4
SAMPLES = ["go to the kitchen", " go(kitchen)", "the cup", "", "é", "stop</s>", "pick up the red cup and turn left"]


def main():
    here = Path(__file__).resolve().parent
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    tokenizer.save(str(here / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (here / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    for text in SAMPLES:
        for special in (True, False):
            print("%-40r %-5s %s" % (text, special, tokenizer.encode(text, add_special_tokens=special).ids))


if __name__ == "__main__":
    main()
