"""Print the table of docs/heads.md on Medusa-2: a model trained with its heads, against heads alone.

    python -m benchmarks.medusa2 [FOLDER]

FOLDER is results/medusa2 by default. Each of its folders has the card of a head, `head.json`, and `summary.csv` of a
run of greedy, `medusa:nodes=10` and `typical_acceptance:over=medusa` with it.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from benchmarks.readme import table

RESULTS = Path(__file__).resolve().parents[1] / "results" / "medusa2"
SHOWN = ("quality", "tau_pooled", "speedup")


def medusa2_table(folder: Path) -> str:
    """Return a row for each training: perplexity, right tokens by depth, scores and tau as means over tasks."""
    rows = []
    for place in sorted(path.parent for path in folder.glob("*/head.json")):
        card, summary = json.loads((place / "head.json").read_text()), pd.read_csv(place / "summary.csv")
        means = summary.groupby("name")[list(SHOWN)].mean().to_dict("index")
        before, after = card["trained"].get("perplexity before and after", [None, None])
        rows.append([place.name, f"{before:.2f} → {after:.2f}" if after else "–",
                     " ".join(f"{ranks[0]:.2f}" for ranks in card["ranks"]), f"{means['greedy']['quality']:.2f}",
                     *(f"{means[name][figure]:.2f}" for name, figure in (
                         ("medusa", "tau_pooled"), ("medusa", "speedup"), ("typical_acceptance", "tau_pooled"),
                         ("typical_acceptance", "quality")))])
    return table(["training", "perplexity", "right by depth", "greedy's score", "tau", "speed-up", "tau, typical",
                  "score, typical"], rows)


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    if not any(place.glob("*/head.json")):
        sys.exit(f"{place} has no folder with head.json and summary.csv.")
    print(medusa2_table(place))
