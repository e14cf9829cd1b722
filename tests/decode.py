"""Run a strategy on a tiny model, as the runner does, without a run folder."""

from collections.abc import Sequence
from functools import cache
from json import dumps
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from zlib import crc32

import torch

from harness.backends.transformers import open_session
from harness.engine.canvas_settings import CanvasSettings
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream, Stream
from harness.engine.session import Work
from harness.heads.network import TargetParts
from harness.plugins.prompt_parts import PLAIN, Edit, PromptParts, Span
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, RequestText, Strategy
from strategies.drafters.store import Store
from strategies.parts.imitation import Imitation
from strategies.parts.parallel_filter import WIDTH, Filter
from strategies.parts.routers import Routers
from strategies.tools.knn_datastore import made
from tests.heads import attach
from tests.models import EOS, HEADS, HIDDEN, LAYERS, MAX_POSITIONS, PAD, prompts, tiny_model
from tests.pair import tokenizer

torch.set_num_threads(1)
spelled = cache(tokenizer)
FEWER = {"best_of_n": "n=4", "mbr": "n=4", "self_consistency": "n=4", "trlm_rerank": "n=4", "weighted_vote": "n=4",
         "deepconf": "n=6,warmup=3,window=4", "cot_decoding": "k=3", "ngram_pool": "n=2,n_min=1",
         "streaming": "sinks=2,window=9", "window": "window=9", "recomputed_window": "sinks=2,window=9,chunk=4",
         "kv_quant": "bits=2,group=4,residual=4", "extended_mind": "k=3,last=6,context=16,stride=8",
         "h2o": "heavy=0.3,recent=0.2", "tova": "budget=9", "snapkv": "win=2,cap=6,kernel=3,shape=pyramid",
         "quest": "budget=8,page=2,dense=0", "alisa": "budget=6,steps=2",
         "infllm": "sinks=2,window=6,unit=3,reps=2,top=2,block=4",
         "hidden_state_search": "rate=0.1,window=4,slots=6,own=True",
         "power_sampling": "moves=3,block=8", "power_rollouts": "candidates=3,rollouts=2,horizon=4",
         "neurologic": "width=8", "neurologic_astar": "width=4"}
if LAYERS == 1:  # a line through the embeddings leads to PAD
    FEWER["delta_layers"] = "ahead=0"


@cache
def built(name: str, vocab: int = 97, more: str = "") -> Strategy:
    """Build the strategy at its defaults, with fewer samples and beams, short n-grams, and the files that it needs."""
    more = ",".join(filter(None, (FEWER.get(name, ""), more)))
    path = Path(mkdtemp(prefix="decodebench-store-")) / "store"
    if name == "rest":
        Store.of([prompt[::-1] for prompt in prompts(8, vocab, 1)], vocab).save(path)
        more = f"store={path},{more}"
    if name == "knn_lm":
        made(engine(tiny_model("llama", vocab=vocab)), prompts(20, vocab, 1), path)
        more = f"store={path},{more}"
    if name == "mlp_memory":
        own = engine(tiny_model("llama", vocab=vocab))
        store = made(own, prompts(20, vocab, 1))
        network = Imitation(TargetParts.of(own), 2, 16)
        network.save(path, store.start, torch.from_numpy(store.keys[:store.start.positions]))
        more = f"memory={path},{more}"
    if name == "decore":
        path.write_text(dumps({f"{layer}-{head}": 1 + head for layer in range(LAYERS) for head in range(HEADS)}))
        more = f"heads=3,scores={path},{more}"
    if name == "clamp":
        path.write_text(dumps([{"site": "hidden:1", "vector": [(-1) ** i for i in range(HIDDEN)]}]))
        more = f"file={path},{more}"
    if name == "first":
        layers = tuple(range(LAYERS))
        Routers(torch.zeros(LAYERS, HIDDEN), torch.tensor([(-1.0) ** i for i in layers]), layers, "").save(path)
        more = f"file={path},{more}"
    if name == "learn2pd":
        Filter(torch.eye(WIDTH), torch.zeros(WIDTH), 4 * torch.eye(WIDTH), torch.zeros(WIDTH)).save(path)
        more = f"file={path},{more}"
    if name == "seal":
        path.write_text("\n".join(" ".join(f"t{token}" for token in prompt * 2) for prompt in prompts(8, vocab, 1)))
        more = f"corpus={path},width=4,length=5,{more}"
    if name == "grammar":
        more = f"regex=([a-z][0-9])*,{more}"
    if name == "banned_strings":
        more = f"strings=t7;t9 t1,{more}"
    return STRATEGIES.build(f"{name}:{more}")


def engine(model: Any) -> Engine:
    """Create an engine over a tiny model, with untrained heads; PAD is its mask."""
    made = attach(Engine(model, MAX_POSITIONS))
    made.canvas = CanvasSettings(PAD)
    return made


def words(prompt: Sequence[int], vocab: int) -> RequestText:
    """Return a prompt as text: token 5 is `t5`, any other word is hashed to a token.

    To grammars, which need the bytes of tokens, each is one byte. The first word is an edit.
    """
    def ids(text: str) -> list[int]:
        return [int(word[1:]) if word[1:].isdigit() else 3 + crc32(word.encode()) % (vocab - 3)
                for word in text.split()]

    def text(tokens: Sequence[int]) -> str:
        return " ".join(f"t{token}" for token in tokens if token != EOS)
    first, _, rest = text(prompt).partition(" ")
    parts = PromptParts(rest, (Edit(Span(0, 0), f"{first} "),)) if rest else PLAIN
    return RequestText(text(prompt), ids, ids, text, lambda answer: answer[-1:] or None,
                       wanted=(("t9", "t11 t12"), ("t20",)), banned=("t7",), tokenizer=spelled(), parts=parts)


def decode(strategy: Strategy, target: Engine, prompt: list[int], *, draft: Engine | None = None, new: int = 30,
           sample: int = 0, eos: int | None = EOS, stream: Stream | None = None) -> list[int]:
    """Return the tokens of `strategy` after `prompt`, cut after EOS and at `new` tokens."""
    return traced(strategy, target, prompt, draft=draft, new=new, sample=sample, eos=eos, stream=stream)[0]


def traced(strategy: Strategy, target: Engine, prompt: list[int], *, draft: Engine | None = None, new: int = 30,
           sample: int = 0, eos: int | None = EOS, stream: Stream | None = None) -> tuple[list[int], Work, Work]:
    """Return the tokens, and the work counts of target and draft."""
    session = open_session(strategy, [target, *([draft] if draft else [])])
    vocab = int(target.model.config.get_text_config().vocab_size)
    request = Request(tuple(prompt), new, stream or PhiloxStream(0, *prompt, sample),
                      frozenset() if eos is None else frozenset({eos}), sample, text=words(prompt, vocab))
    tokens: list[int] = []
    try:
        for step in strategy.generate(session, request):
            tokens += step
            if eos in tokens or len(tokens) >= new:
                break
    finally:
        session.close()
    tokens = tokens[:new]
    return tokens[:tokens.index(eos) + 1] if eos in tokens else tokens, session.work, session.draft_work
