"""Linear maps from the keys and values of a small model to those of a large one, for all of its layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import DynamicCache

from harness.engine.engine import Engine
from harness.errors import UserError
from harness.models.loading import fingerprint
from harness.store.files import replace_file
from strategies.drafters.texts import corpus

RIDGE = 1e-3      # of the mean variance of an input
OF_A_KIND = 20    # texts of each kind of the embedded corpus
COMMAND = "python -m strategies.tools.kv_prediction --model NAME --draft NAME --out FILE"
Contents = list[tuple[Tensor, Tensor]]  # keys and values of each layer
INPUTS = ("own", "all")
_known = WeakKeyDictionary[Engine, WeakKeyDictionary[Engine, dict[str, "KvMap"]]]()


@dataclass(frozen=True, eq=False)
class KvMap:
    """Maps (layers, 2, D + 1, D') of keys and of values; the last row is the bias.

    Each reads D keys or values of a token: those of the draft model's layer i · n // m for layer i of the target, which
    have n and m layers, or all keys and values of the draft model.
    """

    maps: Tensor

    def predict(self, target: Engine, draft: Engine, contents: Contents) -> Contents:
        """Return the target's keys and values of tokens from the draft model's, both from position 0 on."""
        count, found = contents[0][0].shape[1], Contents()
        places = torch.arange(count, device=target.device)[None]
        config = target.model.config.get_text_config()
        heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        inputs = _inputs(unrotated(draft, contents), len(self.maps), self.maps.shape[-2] - 1)
        for layer, weights in enumerate(self.maps.to(target.device, torch.float32)):
            keys, values = ((rows.to(target.device, torch.float32) @ weight[:-1] + weight[-1]).to(target.dtype)
                            .view(count, heads, -1).transpose(0, 1)
                            for rows, weight in zip(inputs[layer], weights, strict=True))
            found.append((target.rotary.turned(layer, keys[None], places)[0], values))
        return found

    def save(self, path: Path, target: Engine, draft: Engine) -> None:
        """Write a safetensors file that names both models by the fingerprints of their weights."""
        replace_file(path, save({"maps": self.maps.float().cpu().contiguous()}, _identities(target, draft)))

    @classmethod
    def load(cls, path: Path, target: Engine, draft: Engine) -> "KvMap":
        """Load a file that `save` wrote; raises `UserError` for any other, or one of other models."""
        try:
            with safe_open(path, "pt") as file:
                about, maps = file.metadata() or {}, file.get_tensor("maps")
        except (OSError, SafetensorError) as error:
            raise UserError(f"kv_prediction: {path} holds no map: make one with {COMMAND}") from error
        if about != _identities(target, draft):
            raise UserError(f"kv_prediction: the map {path} belongs to other models: make one with {COMMAND}")
        return cls(maps)


def _identities(target: Engine, draft: Engine) -> dict[str, str]:
    return {name: fingerprint(engine.model, rounded=True) for name, engine in (("target", target), ("draft", draft))}


def known(file: str, inputs: str, target: Engine, draft: Engine, encode: Callable[[str], Sequence[int]]) -> KvMap:
    """Return the map of a file, or without one that fitted to the embedded corpus, once for each pair of models."""
    maps = _known.setdefault(target, WeakKeyDictionary()).setdefault(draft, {})
    if (key := file or inputs) not in maps:
        maps[key] = KvMap.load(Path(file), target, draft) if file else fitted(
            target, draft, [encode(text) for text in corpus(count=OF_A_KIND, split="dev")], inputs)
    return maps[key]


@torch.inference_mode()
def fitted(target: Engine, draft: Engine, texts: Sequence[Sequence[int]], inputs: str = INPUTS[0],
           ridge: float = RIDGE) -> KvMap:
    """Fit all maps by ridge regression on texts (token ids); raises `UserError` without one of two tokens.

    `inputs` are those of INPUTS. These forwards are not part of a run, so the engines do not count them.
    """
    limit, total = min(target.max_len, draft.max_len), None
    for tokens in (tokens[:limit] for tokens in texts if len(tokens) > 1):
        small, outputs = unrotated(draft, read(draft, tokens)), _stacked(unrotated(target, read(target, tokens)))
        width = small[0][0].shape[1]
        found = _stacked(_inputs(small, len(outputs), width if inputs == "own" else 2 * width * len(small)))
        rows = torch.cat([found, torch.ones_like(found[..., :1]), outputs], -1)
        products = rows[..., :found.shape[-1] + 1].transpose(-1, -2) @ rows
        total = products if total is None else total + products  # of each map (D + 1, D + 1 + D')
    if total is None:
        raise UserError("kv_prediction: no text has two tokens; use longer texts.")
    size = total.shape[-2]
    squares = total[..., :size]
    count, means = squares[..., -1:, -1:], squares[..., -1:, :] / squares[..., -1:, -1:]
    variance = squares.diagonal(dim1=-2, dim2=-1)[..., :-1] / count[..., 0] - means[..., 0, :-1].square()
    penalty = torch.eye(size, dtype=total.dtype) * (ridge * count * variance.mean(-1)[..., None, None])
    penalty[..., -1, -1] = 0
    return KvMap(torch.linalg.solve(squares + penalty, total[..., size:]).float())


def read(engine: Engine, tokens: Sequence[int]) -> Contents:
    """Return the keys and values of a text by one forward without the engine's cache."""
    cache = DynamicCache()
    engine.model(input_ids=torch.tensor([list(tokens)], device=engine.device), use_cache=True, logits_to_keep=1,
                 **{engine.cache_argument: cache})
    return [(layer.keys[0], layer.values[0]) for layer in cache.layers]


def unrotated(engine: Engine, contents: Contents) -> Contents:
    """Return the keys as before their rotation, and the values, (T, heads · dim) each, layer by layer."""
    back = -torch.arange(contents[0][0].shape[1], device=engine.device)[None]
    return [(engine.rotary.turned(layer, keys[None], back)[0].transpose(0, 1).flatten(1),
             values.transpose(0, 1).flatten(1)) for layer, (keys, values) in enumerate(contents)]


def _inputs(flat: Contents, layers: int, size: int) -> Contents:
    """Return (T, `size`) the inputs of the maps of keys and values, for each of the target's layers.

    `flat` are the draft model's states from `unrotated`.
    """
    if size == flat[0][0].shape[1]:
        return [flat[layer * len(flat) // layers] for layer in range(layers)]
    whole = torch.cat([rows for layer in flat for rows in layer], 1)
    return [(whole, whole)] * layers


def _stacked(states: Contents) -> Tensor:
    """Return states (layers, 2, T, D) in float64 on the CPU."""
    return torch.stack([torch.stack(layer).double().cpu() for layer in states])
