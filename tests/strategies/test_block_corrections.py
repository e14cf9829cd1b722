"""What block drafters add to their logits by the tokens that were drafted before."""

import random
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness.engine.engine import Engine
from harness.heads.network import Recipe, TargetParts, settings_of
from harness.laboratory import corpus
from harness.laboratory.corpus import Answer
from harness.laboratory.training import train
from harness.models.loading import Model
from strategies.dflash2 import BlockConvolution, DFlash2Settings
from tests.decode import engine
from tests.heads import kinds, untrained
from tests.models import tiny_model

VOCAB, SIZE, LENGTH = 24, 32, 40
FIRST, SECOND = (random.Random(seed).sample(range(VOCAB), VOCAB) for seed in (0, 2))


@pytest.mark.parametrize("kind", ["dspark", "domino", "dflash2"])
def test_an_untrained_correction_changes_nothing(kind: str) -> None:
    """A block with the same weights gives the same logits."""
    target = engine(tiny_model("llama"))
    head = untrained(kind, target).network
    same = {name: getattr(head.settings, name) for name in ("block", "sample_from_anchor")}
    plain = kinds()["dflash"](head.target, settings_of(kinds()["dflash"], same))
    plain.load_state_dict({name: head.state_dict()[name] for name in plain.state_dict()})
    states, tokens = torch.randn(1, 20, 64 * len(head.reads)), torch.randint(3, 97, (1, 20))
    for depth, (features, rows) in enumerate(zip(head(states, tokens), plain(states, tokens), strict=True)):
        assert torch.equal(head.logits(depth, features), plain.logits(depth, rows))


def test_a_convolution_mixes_rows_of_the_same_block_before_and_after_a_sublayer() -> None:
    """Computed row by row, with two channels that share their factors and two others that share theirs."""
    settings = DFlash2Settings(block=3, kernel=2, group=2)
    conv = BlockConvolution(4, settings)
    x = torch.randn(1, 6, 4)
    assert torch.equal(conv(x, lambda read: 2 * read), 2 * x)
    with torch.no_grad():
        torch.nn.init.normal_(conv.base)
        torch.nn.init.normal_(conv.projection.weight)
        shift = conv.projection(x).view(6, 2, 2, 2)  # row, before or after, rows back, group

        def mixed(rows: torch.Tensor, side: int) -> torch.Tensor:
            found = torch.zeros(6, 4)
            for row in range(6):
                for channel in range(4):
                    for back in (0, 1) if row % 3 else (0,):
                        factor = conv.base[side, back, channel] + shift[row, side, back, channel // 2]
                        found[row, channel] += factor * rows[row - back, channel]
            return found
        torch.testing.assert_close(conv(x, torch.exp)[0], mixed(mixed(x[0], 0).exp(), 1))


def test_the_selector_changes_the_logits_of_the_likeliest_tokens_only() -> None:
    head = untrained("dflash2", engine(tiny_model("llama")), top=3, rank=8).network
    torch.nn.init.normal_(head.markov_out.weight)
    features = torch.randn(2, 64 + 8)
    row, previous = features[:, :64], features[:, 64:]
    base, found = head.target.logits(row), head.logits(1, features)
    fit = (previous * head.selector(row)) @ head.markov_out.weight.T
    best = torch.zeros_like(base, dtype=torch.bool).scatter(1, base.topk(3).indices, value=True)
    torch.testing.assert_close(found, torch.where(best, base + fit, base))


def two_ways() -> Engine:
    """A model that continues token x by FIRST[x] or SECOND[x], with equal chances: its blocks add nothing."""
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=SIZE, intermediate_size=SIZE, num_hidden_layers=1,
                         num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False)
    found = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        found.model.layers[0].self_attn.o_proj.weight.zero_()
        found.model.layers[0].mlp.down_proj.weight.zero_()
        found.model.embed_tokens.weight.copy_(torch.eye(VOCAB, SIZE))
        found.lm_head.weight.zero_()
        for following in (FIRST, SECOND):
            found.lm_head.weight[torch.tensor(following)] += 3 * torch.eye(VOCAB, SIZE)
    return Engine(found, 64)


def walk(rng: random.Random) -> list[int]:
    found = [rng.randrange(VOCAB)]
    while len(found) < LENGTH:
        found.append(rng.choice((FIRST, SECOND))[found[-1]])
    return found


@pytest.mark.parametrize(("kind", "low", "high"), [
    ("dflash", 0.4, 0.52), ("dspark", 0.95, 1), ("domino", 0.95, 1), ("dflash2", 0.95, 1)])
def test_drafts_that_see_the_one_before_follow_a_language_of_pairs(kind: str, low: float, high: float,
                                                                   tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                   ) -> None:
    """The second draft is accepted with the mass that both distributions share.

    Two pairs of tokens can follow the first draft, of which one does follow it: without seeing it, half is shared.
    """
    assert all(len({FIRST[FIRST[x]], SECOND[FIRST[x]], FIRST[SECOND[x]], SECOND[SECOND[x]]}) == 4 for x in range(VOCAB))
    rng, target, folder = random.Random(1), two_ways(), tmp_path / "walks"
    corpus.write(folder, (Answer(tokens[:2], tokens[2:]) for tokens in (walk(rng) for _ in range(120))), 10**9)
    torch.manual_seed(0)
    settings = {"block": 3, "layers": 1, "heads": 2, "mlp": 32}
    network = kinds()[kind](TargetParts.of(target), settings_of(kinds()[kind], settings))
    corpus.record(folder, Model("", target, None, frozenset(), ""), dict.fromkeys(["hidden", *network.reads]))
    walks = corpus.read(folder, network.reads)
    monkeypatch.setattr(kinds()[kind], "recipe", Recipe(rate=4e-3, text=0, target=1))
    train(network, walks, walks, 300, size=30)
    batch = walks.batch(range(len(walks)), torch.device("cpu"))
    with torch.no_grad():
        q = network.logits(1, network(batch.states, batch.tokens)[1])[:, :4].softmax(-1)
        p = network.target.logits(batch.hidden[:, 2::network.stride][:, :4]).softmax(-1)
    assert low < float(torch.minimum(p, q).sum(-1).mean()) <= high
