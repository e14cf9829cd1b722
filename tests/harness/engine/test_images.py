"""Images in prompts: their tokens, the features that are read at them, and what is counted."""

from contextlib import closing

import pytest
import torch

from harness.engine.batching import run_batched
from harness.engine.images import Picture, image_tokens, without_images
from harness.engine.kept_prefix import pin
from harness.engine.session import Session
from harness.models.encoder_decoder import make_engine
from harness.models.images import image_rows
from harness.models.prompts import common_prefix
from strategies.greedy import Greedy
from strategies.speculative import Speculative
from tests.models import MAX_POSITIONS
from tests.vision import COUNT, blind, decode, engine, pixels, prompt_with, tiny, traced

BEFORE, AFTER = [5, 11, 3], [7, 20, 9, 41]


def test_image_tokens_are_equal_within_an_image_only() -> None:
    one, same, other = (image_tokens(9, Picture(name, lambda: pixels(0)), 3) for name in "aab")
    assert one == same
    assert one != other
    assert one[0] != one[1]
    assert 9 not in one
    assert {tuple(one): 1}[tuple(same)] == 1
    assert tuple(other) not in {tuple(one): 1}
    assert torch.tensor(one).tolist() == [9, 9, 9]
    assert without_images([1, *one, 2, 99], 97) == [1, 2]
    prompts = [[1, *one, 5], [1, *other, 5], [1, *same, 7]]
    assert common_prefix(prompts) == [1]
    assert common_prefix(prompts[::2]) == [1, *one]


@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_that_of_generate(seed: int) -> None:
    target, prompt = engine(), prompt_with(seed, BEFORE, AFTER)
    found = decode(Greedy(), target, prompt, new=20)
    ids = torch.tensor([[int(token) for token in prompt]])
    expected = target.model.generate(ids, pixel_values=pixels(seed), attention_mask=torch.ones_like(ids),
                                     max_new_tokens=20, do_sample=False)[0, len(prompt):].tolist()
    assert found == expected


def test_answers_depend_on_the_image() -> None:
    answers = {tuple(decode(Greedy(), engine(), prompt_with(seed, BEFORE, AFTER), eos=None)) for seed in range(4)}
    assert len(answers) > 1


def test_trees_below_an_image_are_read_as_plain_sequences() -> None:
    rows, plain = image_rows(engine())
    assert torch.allclose(rows, plain, atol=1e-4)


def test_a_cut_prompt_and_one_that_is_read_in_pieces() -> None:
    """Features belong to tokens, so any part of an image may be computed in any forward."""
    prompt = prompt_with(1, BEFORE, AFTER)
    with closing(Session(engine())) as whole, closing(Session(engine())) as pieces:
        whole.follow(prompt)
        expected = whole.read().logits
        for end in range(1, len(prompt) + 1):
            pieces.follow(prompt[:end])
            found = pieces.read().logits
        assert torch.allclose(found, expected, atol=1e-4)
        forked = pieces.fork()
        forked.follow([*prompt[:-1], 8])
        pieces.follow([*prompt[:-1], 8])
        assert torch.allclose(forked.read().logits, pieces.read().logits, atol=1e-4)


@torch.inference_mode()  # of all sequences: they take turns, and each would end the mode of another
def test_sequences_side_by_side() -> None:
    target, prompts = engine(), [prompt_with(seed, BEFORE[:seed], AFTER) for seed in range(3)] + [[*BEFORE, *AFTER]]
    alone = [decode(Greedy(), target, prompt) for prompt in prompts]
    before = target.encodings, target.encoded
    assert run_batched([target], [lambda prompt=prompt: decode(Greedy(), target, prompt) for prompt in prompts],
                       4) == alone
    assert (target.encodings - before[0], target.encoded - before[1]) == (1, 3 * COUNT)


def test_features_are_computed_once_for_each_request() -> None:
    target, prompt = engine(), prompt_with(0, BEFORE, AFTER)
    before = target.encodings, target.positions
    with closing(Session(target)) as session:
        for tokens in (prompt, [*prompt, 8], [*BEFORE, 9], prompt):
            session.follow(tokens)
            session.read()
    assert target.encodings - before[0] == 1
    prompt = prompt_with(0, BEFORE, AFTER)
    answer = traced(Greedy(), target, prompt, new=5, eos=None)
    assert target.encodings - before[0] == 2  # each strategy computes its own
    assert answer.steps.positions == [len(prompt), 1, 1, 1, 1]
    assert prompt[len(BEFORE)].picture.features is None  # type: ignore[attr-defined]


def test_two_images_share_no_prefix() -> None:
    target, shared = make_engine(tiny(), MAX_POSITIONS), prompt_with(0, BEFORE, [])
    pin(target, shared)
    other = prompt_with(1, BEFORE, AFTER)
    with closing(Session(target)) as session, closing(Session(engine())) as fresh:
        session.follow(prompt_with(0, BEFORE, AFTER))
        assert session.work.shared == len(BEFORE) + COUNT
        session.follow([])
        session.follow(other)
        assert session.work.shared == 2 * len(BEFORE) + COUNT
        fresh.follow(other)
        assert torch.allclose(session.read().logits, fresh.read().logits, atol=1e-4)
    target.unpin()


def test_a_draft_model_reads_the_text_alone() -> None:
    prompt = prompt_with(2, BEFORE, AFTER)
    with closing(Session(blind())) as draft:
        draft.follow([*prompt, 8])
        assert draft.tokens == [*BEFORE, *AFTER, 8]
    answer = traced(Speculative(gamma=3), engine(), prompt, draft=blind())
    assert answer.tokens == decode(Greedy(), engine(), prompt)
    assert answer.steps.drafted[1] > 0
