"""What the forwards of an answer computed, and the sizes of the model's parts, as a run stores them."""

from harness.store.stored import Stored


class Computed(Stored):
    """What the target's forwards computed for one turn: two sums each, of its first step and of all later ones.

    The sums are those of `harness.engine.compute.Compute`, which counts drafts of the model for itself apart. Older
    runs do not have `kv`, and none of them counted keys by their bytes.
    """

    attention: tuple[float, float]
    mlp: tuple[float, float]
    fills: tuple[float, float]
    logits: tuple[float, float]
    keys: tuple[float, float]
    all_keys: tuple[float, float]
    attention_read: tuple[float, float]
    mlp_read: tuple[float, float]
    fills_read: tuple[float, float]
    logits_read: tuple[float, float]
    kv: tuple[float, float] | None = None


class Sizes(Stored):
    """The sizes of a model's parts: weights of the `attention` and of the `mlp` of one layer, and of the output layer.

    `fill` are the weights that make the keys and values of one layer. A query of all heads has `query` numbers, a key
    `key`; every number has `number_bytes` bytes.
    """

    layers: int
    attention: int
    mlp: int
    fill: int
    head: int
    query: int
    key: int
    number_bytes: int
