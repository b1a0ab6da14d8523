"""Checkpoints go both ways between this project's command and the published Python packages, with equal logits.

    scripts/interop [NAME ...]     makes a Python environment and runs this
    python tests/interop/interop.py --command build/shadowpeft [NAME ...]

A NAME is a directory of tests/data/parity or one of wrap, projected, convert, trained; without one all of them run.
All numbers are in f32; an error is max|ours - theirs| / max|theirs| over the attended positions, and none may pass
the limit. Of each case with an adapter, whatever its dialect and its task (interop_adapters.py, interop_exports.py):

    fresh     the command makes an adapter of the case's configuration; Python loads it without a warning, finds the
              base's logits unchanged and saves the same tensors and configuration; Python gives it other values
              and saves it; the command loads that.
    resaved   the case's adapter, saved by Python, is loaded and saved by the command; Python loads that.
    exported  the command exports its shadow, and Transformers loads that, without shadow_peft where there is no
              hidden projection.
    imported  shadow_peft exports it, and the command loads that.

    wrap      a small model behind a large one's head: by itself, and as the shadow of an adapter of each dialect.
    projected a fresh model with a hidden projection.
    convert   adapters with one adapted layer, to the other dialect and back.
    trained   adapters that the command trains, classifiers on a base without a head among them, with their exports,
              tokenizer and labels.

What Python can not do, with files of its own no more than with ours, is skipped with the reason.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fixtures"))
import interop_adapters  # noqa: E402
import interop_convert  # noqa: E402
import interop_exports  # noqa: E402
import interop_models  # noqa: E402
import interop_trained  # noqa: E402
from interop_check import LIMIT, PARITY, ROOT, Checker  # noqa: E402

# What needs no case of tests/data/parity.
APART = dict(
    wrap=interop_models.wrap,
    projected=interop_models.projected,
    convert=interop_convert.convert,
    trained=interop_trained.trained,
)


def all_names():
    """Every case with an adapter and an input; then what stands apart."""
    cases = (path.parent.name for path in sorted(PARITY.glob("*/adapter")))
    return [name for name in cases if (PARITY / name / "input.safetensors").exists()] + list(APART)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--command", default=ROOT / "build" / "shadowpeft")
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    names = args.names or all_names()
    unknown = set(names) - set(all_names())
    if unknown:
        parser.error(f"no such case: {' '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)  # what the packages have to tell one another
    transformers.logging.disable_progress_bar()
    check = Checker(args.command)
    ways = (interop_adapters.fresh, interop_adapters.resaved, interop_exports.exported, interop_exports.imported)
    jobs = [(APART[name],) for name in names if name in APART]
    jobs = [(way, name) for name in names if name not in APART for way in ways] + jobs
    with tempfile.TemporaryDirectory() as top:
        for i, (way, *name) in enumerate(jobs):
            work = Path(top, str(i))
            work.mkdir()
            check.attempt(": ".join([*name, way.__name__]), way, *name, work)
        check.attempt("exported shadows", interop_exports.compare_plain, Path(top))
    print(f"largest error {check.worst:.1e}, limit {LIMIT:.0e}; {check.skipped} skipped")
    print(f"{check.passed} passed, {check.failed} failed")
    sys.exit(check.failed > 0)


if __name__ == "__main__":
    main()
