"""The checkers of `task_file`, which compare answers with those of a user's file.

Importing this module imports `evaluate` (seconds).
"""

import re
from contextlib import suppress

import regex

from harness.plugins.task_file import GROUPED, number
from harness.scoring.metrics import CodePasses, Gold, SampleMetric

NUMBER = re.compile(rf"(?<![\w.])[-−]?\$?(?:(?:{GROUPED}|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+(?!\w))?")
LETTER = (
    re.compile(r"(?i:answer\s*(?:is|:)|choose|option)\s*\W{0,3}([A-Z])\b"),  # The answer is (B). **Answer:** B
    re.compile(r"^\W{0,3}([A-Z])(?:[).:,]|\W*$)", re.MULTILINE),  # B) Paris, or a line that is B alone
    re.compile(r"\(([A-Z])\)"),
    re.compile(r"\b([B-HJ-Z]|[AI](?!'|\u2019|\s+(?!is\b)[a-z]))\b"),  # a letter that is no article or pronoun
)
FENCED = re.compile(r"^```[^\n]*\n(.*?)(?:^```|\Z)", re.MULTILINE | re.DOTALL)
SECONDS = 1.0  # time limit of a user's pattern on one answer


class CheckedAnswer(SampleMetric):
    """Scores the last answer: `correct`, 0 or 1; no score if the checker is `none`.

    Gold is `{"checker": name, "answer": [alternative, ...]}`; for `code` it also has a `prompt` and an `entry_point`.
    White space at the ends of answers is ignored, letter case is not.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return `correct`, and for code `timeout`."""
        if gold["checker"] == "none":
            return {}
        if gold["checker"] == "code":
            text = answers[-1] if gold["prompt"] else program(answers[-1])
            code = CodePasses()
            scores = code.sample([text], _tests(gold))
            self.reason = code.reason
            return {"correct": scores["pass"], "timeout": scores["timeout"]}
        return {"correct": float(any(fits(gold["checker"], answers[-1], wanted) for wanted in gold["answer"]))}


def fits(checker: str, text: str, wanted: str) -> bool:
    """Return whether an answer matches the expected one; raises `TimeoutError` if a pattern takes over a second."""
    if checker == "contains":
        return wanted in text
    if checker == "regex":
        return regex.search(wanted, text, timeout=SECONDS) is not None
    if checker == "number":
        return final_answer(checker, text) == str(number(wanted))
    return final_answer(checker, text) == wanted.strip()


def final_answer(checker: str, text: str) -> str | None:
    """Extract the final answer: the last number, the chosen letter, or the whole text; None if there is none.

    The letter is the last one after "answer is", "answer:", "choose" or "option", otherwise the last one at the start
    of a line, in brackets, or alone.
    """
    if checker == "number":
        numbers = [match.group() for match in NUMBER.finditer(text)]
        with suppress(ArithmeticError):  # it may overflow
            return str(number(numbers[-1])) if numbers else None
        return None
    if checker == "choice":
        letters = next((one for pattern in LETTER if (one := pattern.findall(text))), [])
        return str(letters[-1]) if letters else None
    return text.strip() or None


def program(text: str) -> str:
    """Return the last fenced block of a chat answer, or the whole answer."""
    blocks: list[str] = FENCED.findall(text)
    return blocks[-1] if blocks else text


def _tests(gold: Gold) -> Gold:
    tests = "\n".join(gold["answer"])
    if not re.search(r"^def check\(", tests, re.MULTILINE):
        tests += "\n\ndef check(candidate):\n    pass\n"
    return {"prompt": gold["prompt"], "test": tests, "entry_point": gold["entry_point"]}
