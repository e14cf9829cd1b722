"""What a sample computed, without regard to the machine: sublayers, floating-point operations, and bytes read."""

from harness.store.computed import Computed, Sizes
from harness.store.schema import Record

NAN = float("nan")
PARTS = ("attention", "mlp", "fills", "logits")
COLUMNS = ("sublayers", "all_sublayers", "flops", "weight_bytes", "kv_bytes", "keys", "all_keys", "kv")
"""Sums of a sample over the steps after the first of each turn, in the table of samples."""
UNKNOWN = dict.fromkeys(COLUMNS, NAN)


def sums(record: Record, sizes: Sizes | None) -> dict[str, float]:
    """Return what a sample computed after the first step of each turn; NaN if that is unknown.

    A multiplication and an addition are two operations: 2 for each weight and token, and for each key 4 for each number
    of a query, with which scores and the weighted sum of values are computed.
    """
    if sizes is None or record.status != "ok" or not all(turn.computed for turn in record.turns):
        return UNKNOWN
    found = [_sums(turn.computed, sum(turn.steps.positions[1:]), sizes) for turn in record.turns if turn.computed]
    return {name: sum(each[name] for each in found) for name in COLUMNS}


def _sums(computed: Computed, positions: int, sizes: Sizes) -> dict[str, float]:
    weights = (sizes.attention, sizes.mlp, sizes.fill, sizes.head)
    later = {name: values[1] for name, values in computed if values}
    kv = later.get("kv", later["keys"])
    used = sum(size * later[name] for name, size in zip(PARTS, weights, strict=True))
    loaded = sum(size * later[f"{name}_read"] for name, size in zip(PARTS, weights, strict=True))
    return {"sublayers": later["attention"] + later["mlp"], "all_sublayers": 2.0 * sizes.layers * positions,
            "flops": 2 * used + 4 * sizes.query * later["keys"], "weight_bytes": loaded * sizes.number_bytes,
            "kv_bytes": 2 * sizes.key * sizes.number_bytes * kv,
            "keys": later["keys"], "all_keys": later["all_keys"], "kv": kv}
