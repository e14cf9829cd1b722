"""Drafts of the lower layers, verified by the upper ones: exact logits, counts by layer, and perfect drafts."""

from collections import Counter
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.hooks import decoder_layers
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request
from strategies.exit_draft import ExitDraft, layers_below
from tests import models
from tests.models import prompts
from tests.scale import scaled
from tests.self_drafting import PROMPTS, deep, greedy, nano, steps

OUTPUTS = ("o_proj", "out_proj", "down_proj", "fc2", "c_proj")


def own_model(arch: str = "llama") -> Engine:
    """The same model, to which a test may add hooks."""
    model = deepcopy(deep(arch).model)
    model.get_decoder()._forward_hooks.clear()
    return Engine(model, models.MAX_POSITIONS)


def outputs(engine: Engine) -> list[list[nn.Module]]:
    """The last product of the attention and of the MLP of each layer."""
    return [[[module for name, module in part.named_modules() if name.split(".")[-1] in OUTPUTS or not name][-1]
             for part in (layer.attention, layer.mlp[-1])] for layer in decoder_layers(engine.model)]


def flat(blocks: list[list[int]]) -> list[int]:
    return [token for block in blocks for token in block]


def test_the_exit_is_a_share_of_the_layers() -> None:
    assert [layers_below(layers, 0.25) for layers in (1, 2, 6, 10, 30, 32)] == [0, 1, 2, 3, 8, 8]
    assert [layers_below(10, share) for share in (0.0, 0.5, 1.0)] == [1, 5, 9]


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt", "qwen2"])
@torch.inference_mode()
def test_upper_layers_give_the_logits_of_the_whole_model(arch: str) -> None:
    """And the keys of accepted tokens are those of the whole model, in all layers."""
    on, texts = deep(arch), prompts(3, 97, 5)

    def job(text: list[int], gamma: int) -> tuple[torch.Tensor, torch.Tensor]:
        whole, both = Session(on), Session(on)
        for session in (whole, both):
            session.follow(text[:-1])
            session.read()
        chain = ExitDraft(exit=0.5, gamma=gamma).drafter(both, Request(tuple(text), 99, PhiloxStream(0)))
        tree = chain.draft(text, None, 99)  # type: ignore[arg-type]  # only drafters that learn look at the last step
        for session in (whole, both):
            session.follow(text)
        found = both.read(tree, chain.verifying).logits
        torch.testing.assert_close(found, whole.read(tree).logits, rtol=1e-4, atol=1e-4)
        for session in (whole, both):
            session.keep(range(len(tree)))
        for mine, right in zip(*(on.cache.contents(session.row.index, len(text) + gamma)
                                 for session in (both, whole)), strict=True):
            torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-4)
        chain.end()
        assert session.row not in chain.resume.kept(on.parts)
        both.close()
        whole.close()
        return found

    jobs = [partial(job, text, 2 + number) for number, text in enumerate(texts)]
    alone, together = [go() for go in jobs], run_batched([on], jobs)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.25, 0.8])
def test_each_layer_computes_each_token_once(share: float) -> None:
    """Counted in the model, and by the session; `layer_skip` computes what its drafts ran again."""
    on, seen = own_model(), Counter[tuple[int, int]]()

    def count(key: tuple[int, int], module: nn.Module, args: tuple[torch.Tensor]) -> None:
        seen[key] += args[0].shape[1]
    for number, parts in enumerate(outputs(on)):
        for kind, part in enumerate(parts):
            part.register_forward_pre_hook(partial(count, (number, kind)))
    session, blocks = steps(ExitDraft(exit=share, gamma=4), PROMPTS[0], 24, on)
    answer = flat(blocks)
    assert answer == greedy(PROMPTS[0], len(answer), deep())
    work, drafts = session.work, session.draft_work
    assert set(seen.values()) == {work.positions}
    behind = work.positions - len(PROMPTS[0])
    assert drafts.positions in (behind, behind - 1), "drafts and what they follow; the last token may have no draft"
    computed = [each.compute.numbers() for each in (work, drafts)]
    assert sum(each["attention"] for each in computed) == sum(seen[number, 0] for number in range(6))
    assert sum(each["mlp"] for each in computed) == sum(seen[number, 1] for number in range(6))
    assert computed[1]["mlp"] == layers_below(6, share) * drafts.positions

    seen.clear()
    session, _ = steps(STRATEGIES.build("layer_skip:share=0.5,theta=0,gamma=4,adapt=false"), PROMPTS[0], 24, on)
    assert seen[0, 1] == session.work.positions + session.draft_work.positions


def test_upper_layers_that_add_nothing_accept_every_draft() -> None:
    """Golden: tau is gamma + 1, and the draft forwards of a step are as many."""
    on = own_model()
    for parts in outputs(on)[2:]:
        for part in parts:
            for weight in part.parameters():
                torch.nn.init.zeros_(weight)
    session, blocks = steps(ExitDraft(exit=0.3, gamma=4), PROMPTS[0], 31, on)
    assert [len(block) for block in blocks] == [1, 5, 5, 5, 5, 5, 5]
    assert (session.work.drafted, session.work.accepted, session.work.forwards) == (24, 24, 7)
    assert (session.draft_work.forwards, session.draft_work.positions) == (30, 30)


def test_the_whole_model_verifies_where_a_policy_moves_the_cache() -> None:
    """A window that drops tokens between draft and verification changes the same tokens as without drafts."""
    window = "window:window=9,whole=false"
    plain, drafting = (STRATEGIES.build(f"{spec}+{window}") for spec in ("greedy", "exit_draft:exit=0.5,gamma=1"))
    for prompt in prompts(scaled(2, 4), 97, 5):
        wanted = flat(steps(plain, prompt, 20, deep())[1])
        session, blocks = steps(drafting, prompt, 20, deep())
        assert flat(blocks)[:20] == wanted
        assert session.draft_work.forwards
        assert session.draft_work.compute.numbers()["mlp"] == 3 * session.draft_work.forwards


def test_more_layers_of_nano_guess_better() -> None:
    engine, prompt = nano()
    wanted, shares = greedy(prompt, scaled(24, 48), engine), []
    for share in (0.2, 0.5, 0.8):
        session, blocks = steps(ExitDraft(exit=share, gamma=3), prompt, len(wanted), engine)
        assert flat(blocks)[:len(wanted)] == wanted
        shares.append(session.work.accepted / session.work.drafted)
    assert shares == sorted(shares)
    assert shares[2] > shares[0] + 0.2
