"""HumanEval with many more tests for each function (HumanEval+), from a file that you provide.

A row has the fields of HumanEval; its test contains inputs and expected results:

    {"task_id": "HumanEval/0", "entry_point": "double",
     "prompt": "def double(number):\\n    \\"\\"\\" Return twice the number. \\"\\"\\"\\n",
     "canonical_solution": "    return 2 * number\\n",
     "test": "import numpy as np\\ndef check(candidate):\\n    inputs = [[2], [0.1]]\\n    results = [4, 0.2]..."}

`DIR/humaneval_plus/HumanEvalPlus.jsonl`, perhaps gzipped, is the release of EvalPlus, or the rows of
evalplus/humanevalplus on the hub. Prompt, stop strings and the limit of 3 s for all tests of a function are those of
`humaneval_plus` in lm-evaluation-harness; EvalPlus itself has a limit per test. Tests may use NumPy.
"""

from dataclasses import dataclass

from harness.plugins.data import DataSource
from harness.plugins.task import Example
from tasks.humaneval import FIELDS, HumanEval, functions, problem


@dataclass(frozen=True)
class HumanEvalPlus(HumanEval):
    """164 problems with stricter tests; the headline is the share of completions that pass."""

    version = 1
    source = "Liu et al. 2023, arXiv:2305.01210; evalplus, Apache-2.0"
    as_chat = ""

    def examples(self, data: DataSource) -> list[Example]:
        """Return the problems in published order."""
        return functions(data.rows("humaneval_plus", "HumanEvalPlus.jsonl.gz", None, FIELDS, key="task_id",
                                   check=problem))
