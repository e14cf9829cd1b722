"""Metrics of answers that are JSON: whether they fit their schema, and whether they say what is expected.

Importing this module imports `evaluate` (seconds), so tasks import it when they score.
"""

import json
from collections.abc import Iterator
from typing import Any

from harness.scoring.json_schema import fits, same
from harness.scoring.metrics import Gold, SampleMetric

Path = tuple[str | int, ...]


class JsonAnswer(SampleMetric):
    """Scores the last answer: `valid`, and if a value is expected `exact` and `fields`.

    `valid` is 1 for JSON that fits the schema, with nothing else around it but white space. `exact` is 1 if the value
    equals the expected one; the order of properties is irrelevant. `fields` is the share of the expected texts,
    numbers, truth values and nulls that the answer has at the same place. Gold is `{"schema": ..., "answer": ...}`,
    either of which may be missing.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return the scores of one answer."""
        self.reason = ""
        try:
            value, parsed = parse(answers[-1]), True
        except (ValueError, RecursionError) as error:
            value, parsed, self.reason = None, False, f"the answer is not JSON ({error})"
        valid = parsed and fits(value, gold.get("schema", True))
        if parsed and not valid:
            self.reason = "the answer does not fit the schema"
        scores = {"valid": float(valid)}
        if "answer" in gold:
            wanted, found = dict(leaves(gold["answer"])), dict(leaves(value)) if parsed else {}
            right = sum(place in found and same(found[place], leaf) for place, leaf in wanted.items())
            scores |= {"exact": float(parsed and same(value, gold["answer"])), "fields": right / len(wanted)}
        return scores


def parse(text: str) -> Any:
    """Return the value of a text that is JSON; raises `ValueError` for others, such as NaN or a key given twice."""
    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is given twice")
        return dict(pairs)
    return json.loads(text, parse_constant=constant, object_pairs_hook=once)


def leaves(value: Any, place: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the place and the value of everything that is no object or list, and of empty ones."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [leaf for key, part in parts for leaf in leaves(part, (*place, key))]
    yield from below or [(place, value)]
