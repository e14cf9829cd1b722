"""The sublayers that a model skips when it drafts for itself."""

from harness.engine.hooks import Skip


def left_out(layers: int, share: float) -> int:
    """Return the number of skipped sublayers: `share` of those between the first and the last layer."""
    return round(share * 2 * max(0, layers - 2))


def spread(layers: int, share: float) -> Skip:
    """Skip as many attention as MLP sublayers (one more if the number is odd), each kind evenly spread."""
    inner, count = layers - 2, left_out(layers, share)
    attention, mlp = (count + 1) // 2, count // 2
    return Skip(frozenset(1 + (2 * i + 1) * inner // (2 * attention) for i in range(attention)),
                frozenset(1 + (2 * i + 1) * inner // (2 * mlp) for i in range(mlp)))
