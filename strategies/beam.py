"""Beam search: keep the `width` likeliest continuations at every step and return the best finished one.

Rules and defaults are those of transformers' `generate(num_beams=…)`. `length_rule` sets the divisor of log p,
`length_penalty` is its exponent and `offset` Sockeye's β; `early_stopping` sets when a full pool of finished hypotheses
ends the search. With `finished=kept` there is no pool: a finished hypothesis keeps its place among the beams. Sample i
of a prompt is the i-th best hypothesis.
"""

from dataclasses import dataclass
from typing import ClassVar, cast

from harness.decoding.search import Beams, EarlyStopping, Hypothesis, LengthRule, Search, Slots, divisor, walk
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class Beam(Search):
    """`width=1` is `greedy`; with `finished=kept`, no length rule and as many beams as sequences it is exact."""

    width: int = knob(4, "beams", low=1, high=256, sweep=(1, 2, 4, 5, 8, 10), also="num_beams")
    length_penalty: float = knob(1.0, "exponent of the length rule; 0 does not divide", low=-5, high=5,
                                 sweep=(0.0, 0.6, 1.0, 2.0))
    early_stopping: str = knob("false", "when a full pool ends the search", choices=("false", "true", "never"),
                               sweep=("false", "true", "never"))
    length_rule: str = knob("power", "divisor of log p: power (transformers 5, fairseq) length^penalty, gnmt "
                            "((5 + length) / 6)^penalty, sockeye ((offset + length) / (offset + 1))^penalty, full "
                            "(older transformers) (prompt + length)^penalty, none 1",
                            choices=("power", "gnmt", "sockeye", "full", "none"),
                            sweep=("power", "gnmt", "full", "none"))
    offset: float = knob(0.0, "β of the sockeye rule", low=0, high=100, sweep=(0.0, 5.0))
    finished: str = knob("pooled", "a finished hypothesis goes to a pool, or is kept among the beams",
                         choices=("pooled", "kept"), sweep=("pooled", "kept"))

    paper: ClassVar[str] = "Lowerre 1976; rules of transformers 5"

    def __post_init__(self) -> None:
        """Refuse a stopping rule without a pool, and an offset that no length rule uses."""
        super().__post_init__()
        if self.finished == "kept" and self.early_stopping != "false":
            raise UserError("beam: early_stopping needs a pool; omit it, or use finished=pooled.")
        if self.offset and self.length_rule != "sockeye":
            raise UserError("beam: offset works with length_rule=sockeye only.")

    def search(self, session: Session, request: Request) -> list[Hypothesis]:
        """Return the finished hypotheses, best first; `score` is their log p."""
        rule = divisor(cast(LengthRule, self.length_rule), self.length_penalty, self.offset, len(request.prompt))
        kind = Slots if self.finished == "kept" else Beams
        beams = kind(self.width, rule, cast(EarlyStopping, self.early_stopping), request)
        walk(session, [beams])
        return beams.pool
