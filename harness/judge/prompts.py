"""Prompts for the judge: the published MT-Bench templates, filled with questions, answers and reference answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from harness.errors import UserError
from harness.judge.verdicts import Mode
from harness.plugins.data import DataSource, Download, Row
from harness.plugins.task import Example, Message

NEEDS_REFERENCE = ("math", "reasoning", "coding")  # FastChat, common.py, NEED_REF_CATS
PROMPTS, REFERENCES = "judge_prompts.jsonl", "reference_answer_gpt-4.jsonl"
DATA = "https://raw.githubusercontent.com/lm-sys/FastChat/main/fastchat/llm_judge/data/"
Answers = Sequence[str]

ONE = {"single": {"question", "answer"}, "pairwise": {"question", "answer_a", "answer_b"}}
TWO = {"single": {"question_1", "answer_1", "question_2", "answer_2"},
       "pairwise": {"question_1", "answer_a_1", "answer_b_1", "question_2", "answer_a_2", "answer_b_2"}}
NAMES: dict[tuple[Mode, bool, int], str] = {
    ("single", False, 1): "single-v1", ("single", True, 1): "single-math-v1",
    ("single", False, 2): "single-v1-multi-turn", ("single", True, 2): "single-math-v1-multi-turn",
    ("pairwise", False, 1): "pair-v2", ("pairwise", True, 1): "pair-math-v1",
    ("pairwise", False, 2): "pair-v2-multi-turn", ("pairwise", True, 2): "pair-math-v1-multi-turn",
}
BLANKS = {name: (ONE if turn == 1 else TWO)[mode] | {f"ref_answer_{n}" for n in range(1, turn + 1) if reference}
          for (mode, reference, turn), name in NAMES.items()}


@dataclass(frozen=True)
class Prompts:
    """The templates by name (system prompt and text), and the reference answers by question number."""

    templates: Mapping[str, tuple[str, str]]
    references: Mapping[int, Answers]

    @classmethod
    def load(cls, data: DataSource, mode: Mode, examples: Sequence[Example]) -> "Prompts":
        """Load the templates and references for `examples`; raises `UserError` if something is missing or invalid."""
        rows = data.rows("mt_bench", PROMPTS, Download(DATA + PROMPTS),
                         {"name": str, "system_prompt": str, "prompt_template": str}, key="name", check=_template)
        templates = {row["name"]: (row["system_prompt"], row["prompt_template"]) for row in rows}
        with_reference = [one for one in examples if one.category in NEEDS_REFERENCE]
        needed = {NAMES[mode, one in with_reference, turn] for one in examples for turn in turns(one)}
        if absent := sorted(needed - set(templates)):
            raise UserError(f"{data.origins['mt_bench']} has no prompt '{absent[0]}'; download "
                            f"{DATA}{PROMPTS} again.")
        references = dict[int, Answers]()
        if with_reference:
            rows = data.rows("mt_bench", REFERENCES, Download(f"{DATA}mt_bench/reference_answer/gpt-4.jsonl"),
                             {"question_id": int, "choices": list}, key="question_id", check=_reference)
            references = {row["question_id"]: row["choices"][0]["turns"] for row in rows}
        if lacking := [one.id for one in with_reference if len(references.get(_number(one), ())) < len(one.turns)]:
            raise UserError(f"{data.origins['mt_bench']} has no reference answer for {lacking[0]}, which is needed to "
                            f"judge {', '.join(NEEDS_REFERENCE)}.")
        return cls(templates, references)

    def messages(self, mode: Mode, example: Example, turn: int, *answers: Answers) -> list[Message]:
        """Return the prompt for one turn of one answer, or of two; the first is assistant A's."""
        has_reference = example.category in NEEDS_REFERENCE
        system, template = self.templates[NAMES[mode, has_reference, turn]]
        blanks = dict[str, str]()
        for name, texts in {"question": example.turns, **dict(zip(("answer",) if len(answers) == 1 else
                                                                  ("answer_a", "answer_b"), answers, strict=True)),
                            **({"ref_answer": self.references[_number(example)]} if has_reference else {})}.items():
            blanks |= {f"{name}_{n}": text for n, text in enumerate(texts, start=1)} | {name: texts[0]}
        return [{"role": "system", "content": system}, {"role": "user", "content": template.format(**blanks)}]


def turns(example: Example) -> tuple[int, ...]:
    """Return the turns to judge: the first, and the second if there are exactly two."""
    return (1, 2) if len(example.turns) == 2 else (1,)


def _number(example: Example) -> int:
    last = example.id.rpartition("/")[2]
    return int(last) if last.isdecimal() else -1


def _template(row: Row) -> str | None:
    """Return what is wrong with a template, None if it is valid or unused."""
    wanted = BLANKS.get(row["name"])
    try:
        blanks = {name for _, name, _, _ in Formatter().parse(row["prompt_template"]) if name is not None}
    except ValueError as error:
        return f"the prompt_template cannot be filled ({error})"
    if wanted is None or blanks == wanted:
        return None
    return f"the prompt_template of '{row['name']}' must have the blanks {', '.join(sorted(wanted))}"


def _reference(row: Row) -> str | None:
    first = row["choices"][0] if row["choices"] else None
    texts = first.get("turns") if isinstance(first, dict) else None
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        return None
    return "the first of its choices must have 'turns', a list of texts"
