"""Mistakes planted one at a time in a copy of the project, each of which the quick tests named beside it must catch.

    python -m tests.mutations [WORD…]      only those whose file or mistake contains a word

Prints a line a mistake, killed or survived, and exits with 1 when one survived. A few seconds each.
"""

import os
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import pytest

from tests.mistakes.decoding import DECODING
from tests.mistakes.measuring import MEASURING
from tests.mistakes.models import MODELS
from tests.mistakes.mutation import Mutation

ROOT = Path(__file__).resolve().parents[1]
QUICKLY = ("-n", "0", "-m", "quick", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
LARGE = ("torch", "transformers.models.llama.modeling_llama", "scipy.stats", "pandas", "evaluate", "hypothesis")
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "demo", "reports", "*.egg-info")

MUTATIONS = (*DECODING, *MODELS, *MEASURING)


def outcome(mutation: Mutation, copy: Path) -> str:
    """`killed` or `survived`, or what else pytest said; the copy is as it was afterwards."""
    file = copy / mutation.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        return "its snippet is gone: write it anew"
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        return {0: "survived", 1: "killed"}.get(code := run(mutation.tests.split(), copy), f"pytest ended with {code}")
    finally:
        file.write_text(text, encoding="utf-8")


def run(tests: list[str], copy: Path) -> int:
    """The exit code of the quick ones of some tests, run in a fork: it finds large libraries imported already."""
    child = os.fork()
    if not child:
        code = 70  # whatever happens here must not reach the code below, which is the parent's
        try:
            os.chdir(copy)
            sys.dont_write_bytecode, sys.path[0] = True, str(copy)
            for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
                del sys.modules[name]
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            code = pytest.main([*QUICKLY, *tests])
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(words: list[str]) -> int:
    """Try all mutations, or those with one of `words`; the exit code."""
    chosen = [each for each in MUTATIONS if not words or any(word in each.why + each.file for word in words)]
    missed = 0
    for library in LARGE:
        import_module(library)
    with tempfile.TemporaryDirectory(prefix="decodebench-mutations-") as folder:
        copy = Path(shutil.copytree(ROOT, Path(folder, "project"), ignore=LEFT_OUT))
        for mutation in chosen:
            said = outcome(mutation, copy)
            missed += said != "killed"
            print(f"{said:<10}{mutation.file:<36}{mutation.why}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} killed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
