"""Create the datastore of the strategies rest and suffix_automaton.

`python -m strategies.tools.rest_datastore --model nano --out store.npz` creates one of the embedded training corpus;
`--texts` names a text file, or a folder of them, instead.
"""

import argparse
from pathlib import Path

from harness import nano
from harness.errors import program
from harness.models.loading import load
from strategies.drafters import texts
from strategies.drafters.store import Store


def main() -> None:
    """Create a datastore."""
    parser = argparse.ArgumentParser(description="Create the datastore of the strategies rest and suffix_automaton.")
    parser.add_argument("--model", default=nano.NAMES[0], help="model with the tokenizer: nano, a folder or a hub id")
    parser.add_argument("--texts", type=Path, help="a text file or a folder of them; default: the embedded corpus")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    options = parser.parse_args()
    model = load(options.model)
    corpus = texts.given(options.texts) if options.texts else texts.corpus()
    store = Store.of(model.tokenizer(corpus).input_ids, model.vocab)
    store.save(options.out)
    print(f"{options.out}: {len(store.tokens)} tokens of {len(corpus)} texts")


if __name__ == "__main__":
    program(main)
