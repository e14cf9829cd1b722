"""The embedded model family: a generated corpus, a tokenizer, a trainer and the shipped weights."""

from pathlib import Path

NAMES = NANO, DRAFT, LONG, SEQ2SEQ = ("nano", "nano-draft", "nano-long", "nano-seq2seq")
CAUSAL = (NANO, DRAFT, LONG)  # write from left to right
PACKED_FILE = "packed.safetensors"
PACKED = (SEQ2SEQ,)  # with a configuration, and weights in few bits (`harness.nano.packed`)
TRAINED = 400  # tokens of the longest texts that nano was trained on
LONG_CONFIG = {  # of nano-long, where it differs from nano's
    "max_position_embeddings": 3200,
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0,
                        "original_max_position_embeddings": TRAINED},
}


def weights(name: str) -> Path:
    """Return the folder of the shipped model `name`; raises ValueError for a name that is not in NAMES.

    That of `nano-long` has no whole model, but what is added to the weights of `nano` (`harness.nano.change`), and
    those of `PACKED` have no tokenizer, because it is that of `nano`.
    """
    if name not in NAMES:
        raise ValueError(f"There is no shipped model called {name!r}; the shipped models are {', '.join(NAMES)}.")
    return Path(__file__).parent / "weights" / name


def heads() -> dict[str, Path]:
    """Return the folders of the heads that ship for `nano`, by names as `nano/eagle3`."""
    folders = sorted(card.parent for card in (Path(__file__).parent / "heads").glob("*/head.json"))
    return {f"{NAMES[0]}/{folder.name}": folder for folder in folders}
