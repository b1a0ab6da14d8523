#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares our tokenizer, by the shared library, with Hugging Face `tokenizers` on real tokenizer.json files.

    python tests/parity/tokenizer_real.py --library build/libshadowpeft.so DIR [DIR ...]

Every DIR is a model directory (or the path of a tokenizer.json). The corpus is made here: texts in several scripts, code, emoji,
control bytes, combining characters, special tokens in the text, broken UTF-8, very long words, runs of white space,
this repository's own files, and random mixtures of all of them from a fixed seed. For each text: ids with and without
special tokens; text of all ids and of random parts of them, with and without special tokens. Ends with status 1 at the
first tokenizer that differs, after printing how. --speed measures loading and encoding instead.
"""

import argparse
import ctypes
import random
import sys
import time
import unicodedata
from pathlib import Path

import tokenizers


class Library:
    """The calls of shadowpeft.h that are needed here."""

    def __init__(self, path):
        lib = ctypes.CDLL(str(path))
        lib.sp_context_new.restype = ctypes.c_void_p
        lib.sp_context_free.argtypes = [ctypes.c_void_p]
        lib.sp_last_error.restype = ctypes.c_char_p
        lib.sp_last_error.argtypes = [ctypes.c_void_p]
        lib.sp_tokenizer_load.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        lib.sp_tokenizer_free.argtypes = [ctypes.c_void_p]
        lib.sp_tokenizer_encode.argtypes = [
            ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p]
        lib.sp_tokenizer_decode.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p]
        lib.sp_ids_free.argtypes = [ctypes.c_void_p]
        lib.sp_string_free.argtypes = [ctypes.c_void_p]
        lib.sp_tokenizer_vocab_size.argtypes = [ctypes.c_void_p]
        lib.sp_tokenizer_token_id.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        lib.sp_tokenizer_token.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        lib.sp_tokenizer_token.restype = ctypes.c_char_p
        self.lib = lib
        self.context = lib.sp_context_new()

    def check(self, status):
        if status != 0:
            raise RuntimeError(self.lib.sp_last_error(self.context).decode("utf-8", "replace"))


class Ours:
    def __init__(self, library, path):
        self.library, self.lib = library, library.lib
        self.handle = ctypes.c_void_p()
        library.check(self.lib.sp_tokenizer_load(library.context, str(path).encode(), ctypes.byref(self.handle)))

    def close(self):
        self.lib.sp_tokenizer_free(self.handle)

    def encode(self, text, special):
        ids, count = ctypes.POINTER(ctypes.c_int32)(), ctypes.c_size_t()
        self.library.check(self.lib.sp_tokenizer_encode(
            self.handle, text, len(text), special, ctypes.byref(ids), ctypes.byref(count)))
        result = ids[: count.value]
        self.lib.sp_ids_free(ids)
        return result

    def decode(self, ids, skip):
        text, length = ctypes.c_void_p(), ctypes.c_size_t()
        array = (ctypes.c_int32 * max(len(ids), 1))(*ids)
        self.library.check(self.lib.sp_tokenizer_decode(
            self.handle, array, len(ids), skip, ctypes.byref(text), ctypes.byref(length)))
        result = ctypes.string_at(text, length.value)
        self.lib.sp_string_free(text)
        return result

    def vocab_size(self):
        return self.lib.sp_tokenizer_vocab_size(self.handle)

    def token_id(self, token):
        return self.lib.sp_tokenizer_token_id(self.handle, token.encode())

    def token(self, index):
        return self.lib.sp_tokenizer_token(self.handle, index)


PIECES = [
    b"The quick brown fox jumps over the lazy dog. It's 3,141.59 o'clock, don't WE'LL I'VE they'Re ",
    "我們今天去北京,明天去東京。這是一個測試!12345年 ".encode(),
    "これはテストです。カタカナ、ひらがな、漢字。がぎぐげご ".encode(),
    "안녕하세요 세계! 각 조합형 자모 ".encode(),
    "Привет, мир! Ёлка, йод. ΑΒΓ αβγ ς Σ ".encode(),
    "مرحبا بالعالم ١٢٣ שלום עולם नमस्ते दुनिया ไทย ".encode(),
    "Việt Nam, naïve café, Ångström Å Ω fi ½ ² ℌ ①②Ⓐ ".encode(),
    "e\u0301 a\u0323\u0302 o\u0308\u0304 \u0301x \u0344 \u1100\u1161\u11a8 \ud55c\u11ab q\u0307\u0323".encode(),
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ 🤷‍♂️ \U0001F9D1\u200D\U0001F680 ".encode(),
    b"int main(void) {\n\tfor (int i = 0; i < 10; i++)\n\t\tprintf(\"%d\\n\", i);\n\treturn 0;\n}\n",
    b"def f(x):\n    return x ** 2  # square\n\n\nclass A:\r\n    pass\r\n",
    bytes(range(0x20)) + b"\x7f",
    b"\x00\x00 \x01a\x00b",
    b"\xc2\x80\xc2\x85\xc2\xa0\xe1\x9a\x80\xe1\xa0\x8e\xe2\x80\x83\xe2\x80\x8b\xe2\x80\xa8\xe2\x80\xa9\xe3\x80\x80 \xef\xbb\xbf",
    b"\xff\xfe\xc3(\xe2\x82 \xf0\x9f\x98 \xed\xa0\x80 \xf4\x90\x80\x80 \xc0\xaf \xe0\x80\xaf \x80\xbf",
    b"\xf0\x9f", b"\xe2", b"\xc3", b"caf\xe9 ",
    b"   ", b"\n\n\n", b" \n \r\n\t\t ", b"\t", b"  x", b" ", b"\n", b"\r",
    b"a" * 300, b"ab" * 200, b"=" * 130, b"0123456789" * 20, "é".encode() * 90, "漢".encode() * 100,
    "▁".encode(), "▁▁ ▁a".encode(), "ġĠĊ".encode(),
    b"http://example.com/path?query=1&x=%20#frag user@mail.org ", b"'s't're've'm'll'd'S'T 'k \xc5\xbf ",
    b"<0x0A><0xff> <unk> <s> </s> [INST] ", b"$1,234.56 1e-10 0xDEADBEEF 1/2 \xc2\xbd \xe2\x85\xa7 ",
]


def special_texts(hf):
    tokens = sorted(hf.get_added_tokens_decoder().items())
    chosen = tokens[:8] + tokens[-8:] + tokens[len(tokens) // 2 : len(tokens) // 2 + 4]
    return [t.content.encode() for _, t in chosen]


def make_corpus(hf, seed, rounds):
    rng = random.Random(seed)
    pieces = PIECES + special_texts(hf)
    texts = [b""] + pieces
    texts += [b"a" * 5000, b" " * 3000, b"\n" * 2000, b" \n" * 1000, b"xyz" * 4000, "\u0301".encode() * 50]
    root = Path(__file__).resolve().parents[2]
    for name in ("include/shadowpeft/shadowpeft.h", "tests/parity/tokenizer_real.py", "docs/conventions.md"):
        if (root / name).exists():
            texts.append((root / name).read_bytes())
    for _ in range(rounds):
        text = b"".join(rng.choice(pieces) for _ in range(rng.randint(2, 9)))
        if rng.random() < 0.3:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + bytes(rng.randrange(256) for _ in range(rng.randint(1, 6))) + text[at:]
        if rng.random() < 0.3:
            at = rng.randrange(len(text) + 1)
            text = text[at:]
        texts.append(text)
    for _ in range(rounds):
        texts.append("".join(random_character(rng) for _ in range(rng.randint(1, 40))).encode())
    return texts


def random_character(rng):
    """One that Unicode has had since 3.2 with an unchanged category: later ones differ between the libraries' tables."""
    top = rng.choice([0x80, 0x250, 0x700, 0x3100, 0xD800, 0xFFFF, 0x1FFFF])
    while True:
        c = chr(rng.randrange(top))
        category = unicodedata.category(c)
        if category not in ("Cs", "Cn") and category == unicodedata.ucd_3_2_0.category(c):
            return c


def differ(what, text, ours, theirs):
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    print("  differs: %s of %r" % (what, text[:200]))
    print("    at %d: ours %r, theirs %r" % (at, ours[max(at - 3, 0) : at + 8], theirs[max(at - 3, 0) : at + 8]))


def compare(hf, ours, texts, rng):
    """How many results differ, counted up to a few. A text that makes the Python package panic is passed over."""
    wrong = 0
    for text in texts:
        try:
            wrong += compare_text(hf, ours, text, rng)
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
        if wrong > 5:
            break
    return wrong


def compare_text(hf, ours, text, rng):
    wrong = 0
    string = text.decode("utf-8", errors="replace")
    for special in (True, False):
        expected = hf.encode(string, add_special_tokens=special).ids
        found = ours.encode(text, special)
        if found != expected:
            wrong += 1
            differ("ids (special tokens: %s)" % special, text, found, expected)
    size = hf.get_vocab_size() + 3
    parts = [expected]
    for _ in range(3):
        start = rng.randrange(len(expected) + 1)
        parts.append(expected[start : start + rng.randint(1, 12)])
    parts.append([rng.randrange(size) for _ in range(rng.randint(0, 10))])
    for ids in parts:
        for skip in (True, False):
            expected_text = hf.decode(ids, skip_special_tokens=skip).encode()
            found_text = ours.decode(ids, skip)
            if found_text != expected_text:
                wrong += 1
                differ("text (skip special tokens: %s) of ids %r" % (skip, ids[:20]), text, found_text, expected_text)
    return wrong


def compare_vocab(hf, ours):
    vocab = hf.get_vocab()
    wrong = sum(ours.token_id(t) != i for t, i in vocab.items() if "\0" not in t)
    if wrong:
        print("  differs: the ids of %d tokens" % wrong)
    if ours.vocab_size() != max(vocab.values()) + 1:
        print("  differs: vocabulary of %d, theirs %d" % (ours.vocab_size(), max(vocab.values()) + 1))
        wrong += 1
    for i in range(-1, max(vocab.values()) + 2):
        token = hf.id_to_token(i) if i >= 0 else None
        if token is not None and "\0" in token:
            continue
        if ours.token(i) != (None if token is None else token.encode()):
            wrong += 1
    return wrong


def file_of(path):
    return path / "tokenizer.json" if path.is_dir() else path


def check(library, path, rounds, seed):
    hf = tokenizers.Tokenizer.from_file(str(file_of(path)))
    hf.no_truncation()
    hf.no_padding()
    ours = Ours(library, path)
    texts = make_corpus(hf, seed, rounds)
    wrong = compare_vocab(hf, ours) + compare(hf, ours, texts, random.Random(seed + 1))
    ours.close()
    print("%s: %d texts, %d bytes: %s" % (path, len(texts), sum(map(len, texts)), "DIFFERS" if wrong else "equal"))
    return wrong


def best(times, call):
    results = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        results.append(time.perf_counter() - start)
    return min(results)


def speed(library, path, text_path):
    file = str(file_of(path))
    data = text_path.read_bytes()
    string = data.decode("utf-8", errors="replace")
    load_hf = best(3, lambda: tokenizers.Tokenizer.from_file(file))
    load_ours = best(3, lambda: Ours(library, path).close())
    hf, ours = tokenizers.Tokenizer.from_file(file), Ours(library, path)
    encode_hf = best(3, lambda: hf.encode(string))
    encode_fast = best(3, lambda: hf.encode_batch_fast([string]))
    encode_ours = best(3, lambda: ours.encode(data, True))
    same = hf.encode(string).ids == ours.encode(data, True)
    mb = len(data) / 1e6
    print("%s: load %.0f ms (tokenizers %s: %.0f ms); encode %.1f MB/s (%.1f, encode_batch_fast %.1f); ids %s" % (
        path, load_ours * 1e3, tokenizers.__version__, load_hf * 1e3, mb / encode_ours, mb / encode_hf,
        mb / encode_fast, "equal" if same else "DIFFER"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", default="build/libshadowpeft.so")
    parser.add_argument("--rounds", type=int, default=400, help="random texts of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=Path, metavar="TEXT", help="measure on this file instead")
    parser.add_argument("paths", nargs="+", type=Path, metavar="DIR")
    args = parser.parse_args()
    library = Library(args.library)
    if args.speed:
        for path in args.paths:
            speed(library, path, args.speed)
        return 0
    return 1 if sum(check(library, path, args.rounds, args.seed) for path in args.paths) else 0


if __name__ == "__main__":
    sys.exit(main())
