"""Strategies over strategies: how they are written, what they need, and what they are told of the text."""

from dataclasses import dataclass

import pytest

from harness.errors import Unsupported, UserError
from harness.models.loading import load
from harness.models.prompts import request_text, warm_up
from harness.models.stop_rule import StopRule
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Over, Request, knob
from harness.report.tables import labels
from strategies.contrastive_search import ContrastiveSearch
from strategies.greedy import Greedy
from strategies.speculative import Speculative


@dataclass(frozen=True)
class Twice(Over):
    """Over another one."""

    times: int = knob(2, "how often", low=1)
    family = "test"
    paper = "none"


def test_identity_is_that_of_both_and_needs_are_those_of_both() -> None:
    over = Twice(over=ContrastiveSearch(), times=3)
    assert over.spec() == ContrastiveSearch().spec() + "+test_over:times=3"
    assert over.values() == {"times": 3}
    assert over.needs == {"hidden"}
    assert Twice(over=Speculative()).needs == {"draft"}
    assert not Twice(over=Greedy()).needs
    assert Twice(over=Twice(over=Greedy())).spec() == "greedy+test_over:times=2+test_over:times=2"


def test_a_strategy_that_does_not_go_over_another_is_refused() -> None:
    with pytest.raises(UserError, match=r"'greedy' cannot wrap another one: write 'greedy' instead of 'top_p\+greedy'"):
        STRATEGIES.build("top_p+greedy")


def test_labels_name_the_knobs_that_differ_in_each_part() -> None:
    assert labels(["a:k=1+b:n=1,m=2", "a:k=2+b:n=1,m=3", "a:k=1"]) == {
        "a:k=1+b:n=1,m=2": "a:k=1+b:m=2", "a:k=2+b:n=1,m=3": "a:k=2+b:m=3", "a:k=1": "a"}


def test_a_request_contains_the_text_of_the_prompt() -> None:
    model = load("nano")
    request, rule = warm_up(model)
    told = request.as_text
    assert tuple(told.encode(told.prompt)) == request.prompt
    assert told.decode(told.tokens(" a red lamp")) == " a red lamp"
    chat = request_text(model, [{"role": "user", "content": "Hello"}], rule, lambda text: None, (("lamp",),))
    assert told.encode("Hello") != chat.encode(chat.prompt)
    assert (chat.answer("x"), chat.wanted) == (None, (("lamp",),))
    with pytest.raises(Unsupported, match="only its token ids are known"):
        Request((1,), 1, request.stream).as_text  # noqa: B018


def test_what_is_decoded_ends_before_a_stop_string() -> None:
    model = load("nano")
    rule = StopRule(model.tokenizer, [5], frozenset(), ("\nQuestion:",))
    told = request_text(model, "Answer:", rule, lambda text: text)
    assert told.decode(told.tokens(" 12 shells\nQuestion: what")) == " 12 shells"
