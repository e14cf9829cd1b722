"""`show` takes a name, and its kind before it."""

from tests.program import call


def test_the_kind_may_stand_before_the_name() -> None:
    for kind, name in (("task", "mbpp"), ("strategy", "greedy")):
        assert call("show", kind, name).stdout == call("show", name).stdout
    for words, sentence in ((["strategy", "gsm8k"], "There is no strategy 'gsm8k'."), (["tsak", "mbpp"],
                            "show describes one strategy, task or study: write show NAME, or its kind before ")):
        done = call("show", *words)
        assert (done.exit_code, done.stderr.startswith(f"Error: {sentence}")) == (2, True)
