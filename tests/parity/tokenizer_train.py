#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares our BPE training, by the shared library, with Hugging Face `tokenizers`' BpeTrainer on the same texts.

    python tests/parity/tokenizer_train.py --library build/libshadowpeft.so FILE [FILE ...]

Every file is one text. The two tokenizer.json must be the same, byte for byte, for several vocabulary sizes, and load
with AutoTokenizer if `transformers` is installed. Prints the times.
"""

import argparse
import ctypes
import sys
import tempfile
import time
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tokenizer_real import Library

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Options(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("vocab_size", ctypes.c_int32),
        ("special_tokens", ctypes.POINTER(ctypes.c_char_p)),
    ]


def train_ours(library, files, size, specials, output):
    options = Options(ctypes.sizeof(Options), size, (ctypes.c_char_p * (len(specials) + 1))(*[s.encode() for s in specials]))
    names = (ctypes.c_char_p * len(files))(*[str(f).encode() for f in files])
    library.lib.sp_tokenizer_train_bpe.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p]
    library.check(library.lib.sp_tokenizer_train_bpe(
        library.context, names, len(files), ctypes.byref(options), str(output).encode()))


def train_theirs(files, size, specials, output):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level = dict(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(**byte_level)])
    tokenizer.post_processor = processors.ByteLevel(**byte_level)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[AddedToken(s, special=True, normalized=False) for s in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([f.read_bytes().decode("utf-8", errors="replace") for f in files], trainer)
    tokenizer.save(str(output))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", default="build/libshadowpeft.so")
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 1000, 4096])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    args = parser.parse_args()
    library = Library(args.library)
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = Path(scratch, "ours"), Path(scratch, "theirs.json")
        for size in args.sizes:
            for specials in (["<|endoftext|>"], ["<|endoftext|>", "<pad>", "a"]):
                start = time.perf_counter()
                train_ours(library, args.files, size, specials, ours)
                middle = time.perf_counter()
                train_theirs(args.files, size, specials, theirs)
                end = time.perf_counter()
                same = (ours / "tokenizer.json").read_bytes() == theirs.read_bytes()
                wrong += not same
                print("%d tokens, %d special: %s; %.2f s, theirs %.2f s" % (
                    size, len(specials), "equal" if same else "DIFFERS", middle - start, end - middle))
        try:
            from transformers import AutoTokenizer
        except ImportError:
            return wrong
        loaded = AutoTokenizer.from_pretrained(ours)
        print("AutoTokenizer: %s, EOS %r (%d)" % (type(loaded).__name__, loaded.eos_token, loaded.eos_token_id))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
