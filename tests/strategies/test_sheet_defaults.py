"""Defaults, sweeps and variants of the strategies that change the text, as their papers and their code have them."""

from typing import Any

import pytest

from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Strategy

HEATS = (0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5, 2.0)
CUTS = (3e-4, 6e-4, 9e-4, 2e-3, 4e-3)
ALPHAS = (0.0, 0.6, 1.0, 2.0)
# of each knob the default, and values that a sweep tries among others
KNOWN: dict[str, dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "temperature": {"temperature": (1.0, HEATS)},
    "top_k": {"k": (10, (5, 10, 20, 50, 100)), "temperature": (1.0, HEATS)},
    "top_p": {"p": (0.95, (0.8, 0.9, 0.92, 0.95, 0.98)), "temperature": (1.0, HEATS)},
    "min_p": {"share": (0.1, (0.01, 0.05, 0.1, 0.3))},
    "typical": {"mass": (0.95, (0.2, 0.9, 0.92, 0.95))},
    "epsilon": {"least": (3e-4, CUTS)},
    "eta": {"least": (3e-4, CUTS)},
    "top_nsigma": {"n": (1.0, (0.3, 1.0, 1.5))},
    "top_h": {"share": (0.4, (0.4,))},
    "mirostat": {"target": (3.0, (2.5, 3.0, 4.0, 5.0)), "rate": (1.0, (1.0,)), "fitted": (100, (100,))},
    "p_less": {"norm": (False, (False, True)), "temperature": (1.0, (0.5, 0.7, 1.0, 1.5, 2.0))},
    "min_k": {"tau": (3.0, (0.0, 1.0, 3.0, 10.0))},
    "top_a": {"share": (0.2, (0.2, 0.5, 1.0))},
    "tail_free": {"z": (0.95, (0.25, 0.5, 0.9, 0.95))},
    "quadratic": {"factor": (0.2, (0.2,)), "curve": (1.0, (1.0, 2.0))},
    "dynamic_temperature": {"spread": (0.5, (0.25, 0.5, 1.0)), "exponent": (1.0, (0.5, 1.0, 2.0))},
    "entropy_temperature": {"theta": (1.0, (0.1, 0.5, 1.0)), "base": (0.8, (0.8,))},
    "xtc": {"probability": (0.5, (0.1, 0.3, 0.5, 1.0)), "threshold": (0.1, (0.05, 0.1, 0.15, 0.2)),
            "protect": (True, (True, False))},
    "adaptive_p": {"target": (0.5, (0.3, 0.5, 0.7)), "decay": (0.9, (0.9,)), "guard": (0.05, (0.02, 0.05))},
    "arithmetic_sampling": {"n": (8, ()), "variant": ("paper", ("paper", "systematic", "antithetic"))},
    "beam": {"width": (4, (2, 4, 5, 8, 10)), "length_penalty": (1.0, ALPHAS), "early_stopping": ("false", ()),
             "offset": (0.0, ())},
    "beam_sample": {"width": (4, (2, 4, 5, 8, 10)), "length_penalty": (1.0, ALPHAS)},
    "diverse_beam": {"width": (4, (4, 8)), "groups": (2, (2, 4)), "diversity": (0.5, (0.2, 0.5, 0.8, 1.0)),
                     "discount": (1.0, (0.0, 1.0)), "variant": ("paper", ())},
    "stochastic_beam": {"temperature": (1.0, (0.1, 0.3, 0.8))},
    "contrastive_search": {"k": (4, (3, 5, 8, 10)), "alpha": (0.6, (0.1, 0.6, 0.8))},
    "momentum": {"k": (5, (3, 5, 10)), "alpha": (0.2, (0.05, 0.2, 0.4)), "resistance": ("linear", ("blocking",))},
    "fsd": {"k": (3, (3, 5)), "alpha": (0.65, (0.1, 0.2, 0.4, 0.55, 0.65)), "n": (3, (3,)), "beta": (0.9, (0.9,)),
            "variant": ("official", ("official", "paper"))},
    "fsd_vec": {"k": (3, (3, 5)), "alpha": (0.45, (0.1, 0.2, 0.4, 0.45, 0.6)), "n": (2, (2,))},
    "superposed": {"k": (3, (2, 3, 4, 5, 10)), "m": (0, ()), "temperature": (0.06, (0.04, 0.06, 0.12, 0.2)),
                   "alpha": (0.54, (0.3, 0.54, 0.7))},
    "contrastive_decoding": {"width": (5, (1, 5)), "alpha": (0.1, (0.05, 0.1, 0.2)), "beta": (1.0, (0.25, 0.5, 1.0)),
                             "tau": (0.5, (0.5, 1.0, 1.5)), "context": ("last", ("last", "all"))},
    "instructive": {"epsilon": (0.3, (0.1, 0.2, 0.3, 0.4, 0.5)), "dropped": (0.6, ()),
                    "noise": ("opposite", ("none", "shuffled", "random", "opposite"))},
    "decore": {"heads": (50, tuple(range(10, 101, 10))), "weight": ("entropy", ("entropy", "constant", "gain")),
               "alpha": (0.5, ()), "relative": (False, ()), "mask": ("uniform", ("uniform", "zero")),
               "mask_prefill": (False, (False, True))},
    "dola": {"alpha": (0.1, (0.1,)), "norm": (False, (False, True)), "layers": ("low", ("low", "high")),
             "variant": ("official", ("official", "paper"))},
    "sled": {"alpha": (2.0, (1.75, 2.0, 2.5)), "k": (10, (5, 10, 75)), "layers": ("all", ("all",)),
             "norm": (False, (False, True))},
    "delta_layers": {"layers": (3, (2, 3)), "ahead": (1.0, (0.0, 1.0)), "alpha": (0.1, (0.1,))},
    "speculative_reasoning": {"judge": ("logp", ("logp", "score", "entropy", "keywords")), "threshold": (None, ()),
                              "unit": ("paragraph", ("paragraph", "line")), "longest": (512, (512,)), "first": (0, ()),
                              "temperature": (0.0, (0.6,)), "p": (1.0, (0.95,))},
    "deco": {"alpha": (0.6, (0.1, 0.6, 1.0)), "tau": (0.9, (0.9,)), "k": (20, (20,))},
    "knn_lm": {"k": (1024, (1024,)), "lam": (0.25, (0.25, 0.4, 0.8)), "spread": (1.0, (1.0, 10.0, 100.0)),
               "probes": (32, (8, 32))},
    "mlp_memory": {"lam": (0.25, (0.0, 0.1, 0.25, 0.4))},
    "icn": {"rounds": (4, (4, 10)), "picks": (1, (1, 10)), "listed": (True, (True, False))},
    "conditional_beam": {"candidates": (10, (50, 100))},
    "uid_beam": {"strength": (0.5, (0.0, 0.1, 0.5, 1.0, 5.0, 10.0)),
                 "regulariser": ("greedy", ("greedy", "variance", "local", "max", "squared"))},
    "dry": {"multiplier": (0.8, (0.4, 0.8, 1.6)), "base": (1.75, (1.5, 1.75, 2.0)), "allowed": (2, (2, 3, 4)),
            "last": (0, (64, 0)), "breakers": ('\\n;:;";*', ())},
    "thinking_budget": {"tokens": (1024, (0, 64, 256, 1024)), "start": ("<think>", ()), "end": ("</think>", ())},
    "loop_breaker": {"max_pattern": (32, (32,)), "min_pattern": (1, (1,)), "min_count": (4, (3, 4)),
                     "then": ("stop", ("stop", "cut", "escape"))},
    "banned_strings": {"cut": ("first", ("first", "last", "all")), "tries": (16, ()), "ignore_case": (True, ())},
    "grid_beam": {"width": (5, (5, 10)), "variant": ("official", ("official", "counted"))},
    "dba": {"width": (10, (5, 10, 20, 30))},
    "neurologic": {"width": (20, ()), "prune": (50, (50, 500_000)), "tolerance": (2, (0, 1, 2, 3)), "beta": (0.0, ()),
                   "length_penalty": (0.2, (0.1, 0.2))},
    "neurologic_astar": {"alpha": (0.25, (0.0, 0.05, 0.175, 0.25, 0.45)), "lookahead": (5, (1, 3, 5, 10)),
                         "rollout": ("greedy", ("greedy", "beam", "sample")), "rollouts": (4, ())},
    "self_consistency": {"n": (40, (5, 10, 20, 40))},
    "weighted_vote": {"n": (40, (5, 10, 20, 40)), "power": (0.5, (0.5,)), "keep": (100.0, (10.0, 90.0)),
                      "top": (20, ()), "window": (16, (16, 2048))},
    "deepconf": {"n": (256, (256,)), "warmup": (16, (16,)), "keep": (90.0, (10.0, 90.0)), "top": (20, ()),
                 "window": (16, (16, 2048))},
    "cot_decoding": {"k": (10, (10,)), "skip": (0, ())},
    "power_sampling": {"alpha": (4.0, (1.0, 2.0, 4.0)), "moves": (10, (0, 2, 10)), "block": (192, (32, 192)),
                       "variant": ("paper", ("paper", "official"))},
    "power_rollouts": {"alpha": (4.0, (1.0, 2.0, 4.0)), "candidates": (8, (8, 32)), "rollouts": (8, (8,)),
                       "horizon": (192, (192,))},
    "ffn_skip": {"threshold": (0.98, ()), "share": (0.25, (0.1, 0.25, 0.35, 0.5)),
                 "order": ("alike", ("alike", "random"))},
    "early_exit": {"lam": (0.9, (0.5, 0.7, 0.9, 0.95, 0.99, 1.1)), "probe": ("softmax", ("softmax", "gap", "state")),
                   "first": (1, (1, 2)), "every": (1, (1, 2, 4)), "decay": (0.0, (0.0, 4.0)),
                   "keys": ("fill", ("fill", "full"))},
    "exit_draft": {"exit": (0.25, (0.25, 0.5, 0.75)), "gamma": (6, (2, 4, 6))},
    "first": {"source": ("routers", ("routers", "profile", "random")), "threshold": (0.5, (0.0, 0.3, 0.5, 0.7)),
              "share": (0.2, (0.0, 0.1, 0.2, 0.3))},
    "lac_skip": {"alpha": (0.8, (0.0, 0.05, 0.1, 0.2, 0.8)), "mode": ("exit", ("exit", "prompt"))},
    "core_neurons": {"alpha": (0.4, (0.2, 0.4, 0.6)), "beta": (0.25, (0.1, 0.25, 0.5, 0.75, 1.0)),
                     "first": (1, (1, 2))},
    "skip_decode": {"least": (6, (4, 6, 8)), "warm": (1, (1, 2)), "horizon": (64, (64,))},
    "trlm_rerank": {"n": (16, (16,)), "mix": (0.0, (0.0, 1.0))},
    "clamp": {"alpha": (0.25, (0.0, 0.1, 0.25, 0.5, 1.0)), "mode": ("add", ("add", "project")),
              "layer": (None, (2, 5, 8)), "since": ("answer", ("prompt", "answer"))},
    "dynamic_evaluation": {"rate": (0.01, (0.0, 1e-3, 1e-2, 3e-2)), "decay": (0.0, (0.0, 0.02)),
                           "segment": (64, (16, 32, 64)), "own": (0, (0, 16)),
                           "parts": ("all", ("all", "last", "norms"))},
    "hidden_state_search": {"rate": (3e-3, (0.0, 1e-3, 3e-3, 1e-2)), "window": (32, (16, 32, 64)),
                            "steps": (1, (1, 3))},
    "seal": {"width": (15, (1, 5, 15)), "length": (10, (5, 10)), "alpha": (2.0, (1.0, 2.0)), "beta": (0.8, (0.0, 0.8))},
    "extended_decoding": {"window": (2, (0, 2)), "advance": (1, (0, 1))},
    "read_twice": {"copies": (2, (1, 2, 3)), "question_first": (True, (True, False))},
    "kv_quant": {"bits": (2, (2, 4, 8)), "group": (32, (16, 32, 64)), "residual": (128, (0, 32, 128)),
                 "keys": ("channel", ("channel", "token"))},
    "infllm": {"sinks": (128, (4, 128)), "window": (4096, (128, 4096)), "unit": (128, (16, 32, 128)),
               "reps": (4, (1, 4)), "top": (16, (2, 4, 8, 16)), "block": (512, (512,))},
    "kv_prediction": {"inputs": ("own", ("own", "all"))},
    "pie": {"mode": ("turned", ("turned", "conflict", "stale"))},
    "extended_mind": {"k": (12, (0, 1, 3, 12)), "floor": (-1.0, (0.0, 0.25)), "context": (3072, ()),
                      "stride": (512, ()), "layers": ("all", ("all", "upper", "last"))},
    "h2o": {"heavy": (0.1, (0.05, 0.1, 0.2, 0.4)), "recent": (0.1, (0.05, 0.1, 0.2, 0.4)),
            "norm": ("sum", ("sum", "mean")), "share": ("sum", ())},
    "alisa": {"budget": (256, (64, 128, 256, 1024)), "local": (0.5, (0.5,))},
    "tova": {"budget": (512, (64, 128, 256, 1024))},
    "snapkv": {"cap": (320, (64, 128, 256, 1024)), "win": (64, (8, 16, 32, 64)), "kernel": (5, (1, 5, 7, 21)),
               "pool": ("avg", ()), "shape": ("flat", ("flat", "pyramid")), "beta": (20, ())},
    "quest": {"budget": (256, (64, 128, 256, 1024)), "page": (16, (4, 8, 16, 32)), "dense": (2, (0, 2)),
              "variant": ("paper", ("paper", "frontier"))},
}
VARIANTS = {  # where papers and their code part
    "constrained_beam": ("repaired", "official"), "contrastive_decoding": ("paper", "official", "cd2"),
    "diverse_beam": ("paper", "official"),
    "dola": ("paper", "official"), "fsd": ("paper", "official"), "grid_beam": ("official", "counted"),
    "neurologic": ("paper", "official"), "neurologic_astar": ("paper", "official"),
    "power_sampling": ("paper", "official"), "quest": ("paper", "frontier")}
OTHERS = {"momentum": ("resistance", ("linear", "blocking")), "decore": ("mask", ("uniform", "zero"))}


@pytest.mark.parametrize("name", KNOWN)
def test_defaults_and_sweeps(name: str) -> None:
    cls = STRATEGIES.get(name)
    for key, (default, values) in KNOWN[name].items():
        assert getattr(cls, key) == default, key
        assert set(values) <= set(cls.knobs()[key].sweep), key


@pytest.mark.parametrize("name", sorted(STRATEGIES.built_in()))
def test_a_sweep_tries_what_is_allowed(name: str) -> None:
    for key, about in STRATEGIES.get(name).knobs().items():
        assert len(set(about.sweep)) == len(about.sweep), key
        assert not [value for value in about.sweep if about.problem(value)], key


@pytest.mark.parametrize(("name", "key", "values"), [
    *((name, "variant", values) for name, values in VARIANTS.items()),
    *((name, *others) for name, others in OTHERS.items())])
def test_whose_rules_are_followed_is_part_of_the_identity(name: str, key: str, values: tuple[str, ...]) -> None:
    made: list[Strategy] = [STRATEGIES.build(f"{name}:{key}={value}") for value in values]
    for strategy, value in zip(made, values, strict=True):
        assert f"{key}={value}" in strategy.spec().partition(":")[2].split(",")
    assert len({strategy.spec() for strategy in made}) == len(values)
