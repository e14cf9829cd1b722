"""Time decoding with this checkout of the project against another one, such as that before a change of the engine.

`python -m benchmarks.revisions OTHER [--rounds 7]`: every round decodes the same prompts with nano, in a new process of
each checkout, and the first of the two changes from round to round. Prints the time of this one divided by that of the
other, the median over the rounds with its quartiles, and whether all tokens are the same.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.timing import quartiles

HERE = Path(__file__).parent.parent
SPECS = ("greedy", "top_p", "beam", "prompt_lookup", "speculative")
DECODE = """
import json, sys, time
import torch
from benchmarks.contenders import ours
from harness.models.loading import load
from harness.nano.corpus import problems

torch.set_num_threads(1)
target, draft = load("nano"), load("nano-draft")
prompts = [target.tokenizer(problem.turns[0])["input_ids"] for problem in problems("math", "test", 6)]
found = {}
for spec in sys.argv[1:]:
    for size in (1, 6):
        decode = ours(spec, prompts, target, draft, 64, size)
        decode()
        start = time.perf_counter()
        tokens = [list(map(int, answer)) for answer in decode()]
        found[f"{spec}, batch size {size}"] = time.perf_counter() - start, tokens
print(json.dumps(found))
"""


def decoded(folder: Path) -> dict[str, Any]:
    """Return the seconds and the tokens of each strategy and batch size with the checkout in `folder`."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", DECODE, *SPECS], cwd=folder, check=True, text=True,
                          stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"})
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Time both checkouts in turn, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if not (options.other / "harness").is_dir():
        parser.error(f"{options.other} is no checkout of the project.")
    folders = [HERE, options.other.resolve()]
    rounds = list[tuple[dict[str, Any], dict[str, Any]]]()
    for number in range(options.rounds):
        first = number % 2
        found = {folder: decoded(folder) for folder in (folders[first], folders[1 - first])}
        rounds.append((found[folders[0]], found[folders[1]]))
    for name in rounds[0][0]:
        low, middle, high = quartiles([here[name][0] / there[name][0] for here, there in rounds])
        same = all(here[name][1] == there[name][1] for here, there in rounds)
        print(f"{name}: {middle:.3f} [{low:.3f}, {high:.3f}] of the time, {'the same' if same else 'OTHER'} tokens")


if __name__ == "__main__":
    main()
