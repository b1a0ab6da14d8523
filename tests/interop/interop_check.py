"""Running the command, comparing numbers, and the tally."""

import os
import subprocess
from pathlib import Path

from safetensors.torch import load_file

LIMIT = 1e-4
ROOT = Path(__file__).resolve().parent.parent.parent
PARITY = ROOT / "tests" / "data" / "parity"
# Threads of the command that wait must not keep the cores from others.
ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "passive"}


class Skip(Exception):
    """Python itself can not do it; the message says why."""


def difference(ours, theirs, keep=1):
    """max|ours - theirs| / max|theirs| over what `keep` leaves; infinite where a value is no number."""
    if ours.shape != theirs.shape:
        return float("inf")
    error = float(((ours - theirs) * keep).abs().max() / (theirs * keep).abs().max())
    return error if error == error else float("inf")


class Checker:
    def __init__(self, command):
        self.command = str(Path(command).resolve())
        self.passed = self.failed = self.skipped = 0
        self.worst = 0.0

    def run(self, directory, *args):
        """The command, in `directory`."""
        args = [str(x) for x in args]
        done = subprocess.run([self.command, *args], cwd=directory, env=ENVIRONMENT, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"shadowpeft {' '.join(args)}: {done.stderr.strip()}")

    def forward(self, directory, base="base", adapter="adapter", **options):
        """The tensors that the command gives for `directory`/input.safetensors, in f32."""
        given = [x for k, v in {"adapter": adapter, **options}.items() if v is not None for x in (f"--{k}", v)]
        files = ["--input", "input.safetensors", "--output", "ours.safetensors"]
        self.run(directory, "forward", "--base", base, *given, "--dtype", "f32", *files)
        return load_file(Path(directory) / "ours.safetensors")

    def report(self, what, good, found):
        self.passed += good
        self.failed += not good
        print(f"{what:60s} {found}{'' if good else '  FAILED'}", flush=True)

    def compare(self, what, pairs, keep=1, limit=LIMIT):
        """Pairs of ours and theirs; the line has the largest difference."""
        error = max(difference(ours, theirs, keep) for ours, theirs in pairs)
        self.worst = max(self.worst, error)
        self.report(what, error <= limit, f"{error:.1e}")

    def expect(self, what, wrong):
        """`wrong`: what is not as it should be, empty where all is."""
        self.report(what, not wrong, "; ".join(wrong) or "equal")

    def attempt(self, what, way, *args):
        """One way: what it raises is a failure of its own, and the other ways still run."""
        try:
            way(self, *args)
        except Skip as reason:
            self.skipped += 1
            print(f"{what:60s} skipped: {reason}", flush=True)
        except Exception as error:  # noqa: BLE001
            self.report(what, False, f"{type(error).__name__}: {error}")
