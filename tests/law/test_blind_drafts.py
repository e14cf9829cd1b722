"""Drafts that do not see the image of their target: which tokens are accepted, and the distribution of the answers."""

from collections import Counter
from contextlib import closing
from functools import cache, partial
from itertools import product

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.models.encoder_decoder import make_engine
from strategies.speculative import Speculative
from tests.chances import VOCAB, chi_square
from tests.models import MAX_POSITIONS, tiny_model
from tests.scale import scaled
from tests.vision import blind, decode, engine, prompt_with, tiny, traced

COLOURS, FORMS = range(10, 16), range(16, 20)
FRAME = [3, 4, 5, -6, -4, 4, 6, 7, 8, 9, 5, -6, -4, 6, 8, 5]  # of 16 tokens, −6 is a colour and −4 a form
BEGINNING = [20, 21]


def caption(*values: int) -> list[int]:
    left = list(values)
    return [left.pop(0) if token < 0 else token for token in FRAME]


@cache
def trained() -> Engine:
    """Return a draft model that has learnt captions without their images: half a second of training."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=24, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=MAX_POSITIONS, pad_token_id=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    every = torch.tensor([[*BEGINNING, *caption(*values)] for values in product(COLOURS, FORMS, COLOURS, FORMS)])
    for _ in range(60):
        rows = every[torch.randint(len(every), (64,))]
        loss = functional.cross_entropy(model(rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    made = Engine(model.eval(), MAX_POSITIONS)
    made.blind = True
    return made


def test_grammar_is_accepted_and_content_as_often_as_it_is_guessed() -> None:
    """A target that sees the image knows one colour of 6 and one form of 4; a draft model knows the grammar alone."""
    target = make_engine(tiny(24, text=tiny_model("llama", vocab=24)), MAX_POSITIONS)
    tried, accepted = Counter[int](), Counter[int]()
    scenes, strategy = list(product(COLOURS, FORMS, COLOURS, FORMS)), Speculative(gamma=3, temperature=1.0)
    for number, scene in enumerate(scenes[::7]):
        given = caption(*scene)
        found = traced(strategy, target, prompt_with(0, BEGINNING, [], 24), draft=trained(), new=len(given), eos=None,
                       given=given, stream=PhiloxStream("captions", number))
        assert found.tokens == given
        for tree in found.trees:
            start = sum(found.steps.tokens[:tree.step])
            for place in range(start, min(start + len(tree.path) + 1, start + len(tree.tokens), len(given))):
                tried[FRAME[place]] += 1
                accepted[FRAME[place]] += place - start < len(tree.path)
    colour, form = (accepted[kind] / tried[kind] for kind in (-6, -4))
    grammar = sum(n for kind, n in accepted.items() if kind > 0) / sum(n for kind, n in tried.items() if kind > 0)
    assert grammar > 0.97
    assert abs(colour - 1 / 6) < 0.06
    assert abs(form - 1 / 4) < 0.07
    assert abs((12 * grammar + 2 * colour + 2 * form) / 16 - 0.802) < 0.03


@torch.inference_mode()
def test_the_distribution_is_that_of_the_target_with_its_image() -> None:
    target, small, draws = engine(2, VOCAB), blind(1, VOCAB), scaled(300, 600)
    seen, other = (prompt_with(seed, [3, 4], [3], VOCAB) for seed in (0, 1))
    strategy = Speculative(gamma=2, temperature=1.5)
    sequences = run_batched([target, small], [
        partial(decode, strategy, target, prompt_with(0, [3, 4], [3], VOCAB), draft=small, new=3, eos=None,
                stream=PhiloxStream("images", draw)) for draw in range(draws)], 64)

    def following(prompt: list[int], sequence: tuple[int, ...]) -> list[float]:
        with closing(Session(target)) as session:
            session.follow([*prompt, *sequence])
            return (session.read().logits[0] / 1.5).softmax(-1).tolist()
    assert chi_square(sequences, partial(following, seen)) > 1e-3
    assert chi_square(sequences, partial(following, other)) < 1e-9
