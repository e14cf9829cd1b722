"""A network that imitates a datastore: from the key of a token it predicts what the neighbours would vote for."""

import json
from pathlib import Path
from weakref import WeakKeyDictionary

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from harness.engine.engine import Engine
from harness.errors import Unsupported, UserError
from harness.heads.network import TargetParts
from harness.store.files import replace_file
from strategies.parts.keys import Passage, made_by

COMMAND = "python -m strategies.tools.mlp_memory --model NAME --out FILE"
_loaded = WeakKeyDictionary[Engine, dict[str, "Imitation"]]()


class Block(nn.Module):
    """A residual MLP, which at first changes nothing."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.RMSNorm(width), nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Return states (…, D) of states."""
        found: Tensor = states + self.down(functional.gelu(self.up(self.norm(states))))
        return found


class Imitation(nn.Module):
    """`blocks` MLPs of `inner` neurons between keys and the output layer of the model, which is not trained."""

    def __init__(self, target: TargetParts, blocks: int, inner: int) -> None:
        super().__init__()
        self.target = target
        self.blocks = nn.ModuleList(Block(target.hidden, inner) for _ in range(blocks))
        self.norm = nn.RMSNorm(target.hidden)

    def forward(self, keys: Tensor) -> Tensor:
        """Return log-probabilities (N, V) in float32 of keys (N, D) in float32."""
        for block in self.blocks:
            keys = block(keys)
        return self.target.logits(self.norm(keys).to(self.target.head.weight.dtype)).float().log_softmax(-1)

    @property
    def size(self) -> int:
        """The bytes of its weights."""
        return sum(weight.nbytes for weight in self.parameters())

    def save(self, path: Path, start: Passage, keys: Tensor) -> None:
        """Write a safetensors file with the keys (positions, D) of a passage, which show whose keys it reads."""
        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.state_dict().items()}
        replace_file(path, save(weights | {"keys": keys.float().contiguous()}, {"start": json.dumps(start)}))


def load(name: str, engine: Engine) -> Imitation:
    """Load what `save` wrote, once for each model; raises `UserError` for another file, `Unsupported` for other models.
    """
    known = _loaded.setdefault(engine, {})
    if name not in known:
        try:
            with safe_open(name, "pt") as file:
                start = Passage(*json.loads((file.metadata() or {})["start"]))
                weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no dictionary
            keys = weights.pop("keys")
            blocks, inner = sum(key.endswith("up.bias") for key in weights), len(weights["blocks.0.up.bias"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"mlp_memory: {name} is no memory: train one with {COMMAND}") from error
        if max(start.tokens) >= engine.vocab or not made_by(engine, start, keys):
            raise Unsupported(f"the memory {name} was trained for another model: train one with {COMMAND} and give "
                              "mlp_memory:memory=FILE")
        network = Imitation(TargetParts.of(engine), blocks, inner)
        network.load_state_dict({key: weight.to(engine.device) for key, weight in weights.items()}, assign=True)
        known[name] = network.eval().requires_grad_(False)
    return known[name]
