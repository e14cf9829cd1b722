"""The results of `verify`: one per test, with its verdict and evidence, and the report that holds them."""

from collections.abc import Sequence

from pydantic import Field

from harness.stats.multiple import holm
from harness.store.stored import Stored

TIE = 1e-3       # maximum difference of logits whose order float32 rounding may change
ALPHA = 1e-3     # probability that a report without errors rejects any distribution


class FirstDifference(Stored):
    """The first token of an answer that differs from greedy's, at index `at` of its turn, and the cause.

    `margin` is the difference of the two tokens' logits, None if one answer had ended. `off` is the logit gap of the
    first wrong token to the likeliest in a float32 forward pass without cache, None if no token is wrong. Between two
    servers both are of log-probs, and `said` describes the difference.
    """

    task: str
    example: str
    turn: int
    at: int
    margin: float | None
    off: float | None
    cause: str
    said: str = ""


class StrategyResult(Stored):
    """The result of one strategy at one temperature: a verdict, whether it passes, and the evidence.

    `same` of `total` answers equal greedy's; `prefix` is the shortest matching prefix (tokens) of the others. `tau` is
    tokens per step after the first. `p_value` tests the distribution, `adjusted` is Holm's for the whole report. A test
    of a server has a `name`, and `remarks` on what it found.
    """

    strategy: str
    name: str = ""
    temperature: str
    verdict: str
    ok: bool
    total: int
    same: int | None = None
    prefix: int | None = None
    tau: float | None = None
    partings: list[FirstDifference] = Field(default_factory=list)
    again: str | None = None
    p_value: float | None = None
    adjusted: float | None = None
    tests: dict[str, float] = Field(default_factory=dict)
    shares: dict[str, dict[str, tuple[float, float]]] = Field(default_factory=dict)
    impossible: int = 0
    edge: int = 0
    failed: int = 0
    error: str | None = None
    remarks: list[str] = Field(default_factory=list)


class Report(Stored):
    """All results, the set-up they hold for, and the strategies that could not be tested, with the reason.

    `about` names the servers that were compared.
    """

    model: str
    draft: str | None
    dtype: str
    backend: str = "transformers"
    warnings: list[str] = Field(default_factory=list)
    concurrency: int
    seed: int
    tie: float = TIE
    alpha: float = ALPHA
    tokens: int
    about: str = ""
    findings: list[StrategyResult]
    skipped: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether every tested guarantee holds."""
        return all(finding.ok for finding in self.findings)


def adjusted(findings: Sequence[StrategyResult]) -> list[StrategyResult]:
    """Add Holm's p-values to the results, and reject distributions whose p-value is below `ALPHA`."""
    tested = [i for i, finding in enumerate(findings) if finding.p_value is not None]
    done = list(findings)
    for i, value in zip(tested, holm([findings[i].p_value or 0.0 for i in tested]), strict=True):
        bad = value < ALPHA
        verdict = "impossible tokens" if bad and findings[i].impossible else "distribution rejected"
        done[i] = findings[i].model_copy(update={"adjusted": value, "ok": findings[i].ok and not bad,
                                                 **({"verdict": verdict} if bad else {})})
    return done
