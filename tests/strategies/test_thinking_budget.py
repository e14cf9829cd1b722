"""Thinking budget: exactly as many tokens as allowed, then message and end marker, whatever decodes."""

import pytest

from harness.errors import Unsupported, UserError
from harness.plugins.registry import STRATEGIES
from strategies.greedy import Greedy
from strategies.thinking_budget import Sections, ThinkingBudget
from tests.letters import Letters

# `<` begins to think (w, w, w …) and `/>` ends it; then the answer is xy, and it thinks again
FOREVER = Letters("^<>/mwxy", {"^": "<", "<": "w", "w": "w", "m": "w", "/": "w", ">": "x", "x": "y", "y": "<"})
SHORT = Letters("^<>/mwvxy", {"^": "<", "<": "w", "w": "v", "v": "/", "/": ">", ">": "x", "x": "y", "y": "<"})
WILD = Letters("^<>/mwxy", dict.fromkeys("^<>/mwxy", "wx"))  # a draft that is mostly wrong
SPEC = "+thinking_budget:start=<,end=/>"


@pytest.mark.parametrize(("knobs", "expected"), [
    ("tokens=3", "<www/>xy<www/>xy<www"), ("tokens=0", "</>xy</>xy</>xy</>xy"), ("tokens=1", "<w/>xy<w/>xy<w/>xy<w"),
    ("tokens=3,message=mm", "<wwwmm/>xy<wwwmm/>xy"), ("tokens=0,message=m", "<m/>xy<m/>xy<m/>xy<m"),
    ("tokens=none", "<wwwwwwwwwwwwwwwwwww"), ("tokens=19", "<wwwwwwwwwwwwwwwwwww")])
def test_a_section_ends_after_its_budget(knobs: str, expected: str) -> None:
    for inner in ("greedy", "beam:width=1", "beam:width=3", "top_p", "speculative:gamma=4", "prompt_lookup", "jacobi",
                  "speculative:gamma=3,temperature=0.01"):
        draft = WILD if "speculative" in inner else None
        assert FOREVER.written(f"{inner}{SPEC},{knobs}", "^", 20, draft) == expected, inner
    assert FOREVER.written(f"speculative{SPEC},{knobs}", "^", 20, FOREVER) == expected, "a draft that is always right"


def test_a_section_that_the_model_ends_is_left_alone() -> None:
    for tokens in (2, 4, 50):  # at 2 the marker is forced where the model writes it anyway
        assert SHORT.written(f"greedy{SPEC},tokens={tokens}", "^", 12) == "<wv/>xy<wv/>"
    assert SHORT.written(f"greedy{SPEC},tokens=2,message=m", "^", 12) == "<wvm/>xy<wvm"
    assert SHORT.written(f"greedy{SPEC},tokens=3,message=m", "^", 12) == "<wv/m/>xy<wv", \
        "half a marker of its own counts as thought"


@pytest.mark.parametrize(("prompt", "expected"), [
    ("^<", "www/>xy<ww"), ("^<ww", "w/>xy<www/"), ("^<wwww", "/>xy<www/>"), ("^<wwwwww", "/>xy<www/>"),
    ("^<w/>x", "y<www/>xy<"), ("<x<w", "ww/>xy<www"), ("^<www/", "/>xy<www/>")])
def test_a_section_may_begin_in_the_prompt(prompt: str, expected: str) -> None:
    """Its tokens there count; a marker that the prompt talks about before does not."""
    assert FOREVER.written(f"greedy{SPEC},tokens=3", prompt, 10) == expected


def test_a_second_marker_does_not_renew_the_budget() -> None:
    model = Letters("^<>/wx", {"^": "<", "<": "w", "w": "<", ">": "x", "x": "x"})
    assert model.written(f"greedy{SPEC},tokens=4", "^", 12) == "<w<w</>xxxxx"


def test_markers_that_overlap_themselves_are_found() -> None:
    sections = Sections([1], [2, 2, 3], [], 5, 0)
    assert sections.begun([1, 2, 2, 2, 3]) is None
    assert sections.begun([1, 2, 2, 3, 1]) == 5
    assert sections.due([1, 9, 9, 9, 9]) is None
    assert [sections.due([1, 9, 9, 9, 9, 9, *forced]) for forced in ([], [2], [2, 2])] == [2, 2, 3]
    double = Sections([1, 1], [2], [], 0, 0)
    assert double.due([1]) is None
    assert double.due([1, 1]) == 2


def test_a_banned_marker_is_forced_all_the_same() -> None:
    """Penalties of the wrapped strategy come after it, and none may leave a row without a token."""
    for inner in ("greedy+no_repeat_ngram:n=1", "top_p+frequency_penalty:frequency=2", "greedy+dry:allowed=1"):
        assert FOREVER.written(f"{inner}{SPEC},tokens=1", "^", 4).startswith("<w/>")


def test_errors() -> None:
    for options in ({"start": "<t>", "end": "<t>"}, {"end": ""}):
        with pytest.raises(UserError, match="two different markers"):
            ThinkingBudget(over=Greedy(), **options)
    with pytest.raises(UserError, match="must not contain a marker"):
        ThinkingBudget(over=Greedy(), message="stop </think> now")
    with pytest.raises(Unsupported, match="--backend transformers"):
        STRATEGIES.build("thinking_budget").native(lambda strategy: None)
