"""The tables below the summary: text metrics, several samples per prompt, and rank correlation of log p and score."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
from rich.text import Text

from harness.measure.summary import run_labels
from harness.measure.texts import answers_of, sample_table, text_table, utility_table
from harness.report.names import of_strategy
from harness.report.tables import Column, markdown_row, row_labels, with_short_tasks, with_task_names
from harness.report.terminal import FittedTable, Head, figures
from harness.stats.mauve import ENOUGH
from harness.store.folder import Store
from harness.store.schema import Sample


@dataclass(frozen=True)
class Kind:
    """A kind of table: its file name, title, explanation (`about`) and columns; `short` are those for a terminal.

    `make` computes its rows.
    """

    name: str
    title: str
    about: str
    make: Callable[..., pd.DataFrame]
    short: tuple[str, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Section:
    """A table with its rows, of one or several runs, and its notes.

    Rows have a `task` and a `label`, and are grouped by `task`, and by `part` if there is this column.
    """

    kind: Kind
    rows: pd.DataFrame
    notes: tuple[str, ...] = ()

    def filled_columns(self, rows: pd.DataFrame) -> list[Column]:
        """Return the columns with a value in at least one row."""
        return [column for column in self.kind.columns if column.key in rows and rows[column.key].notna().any()]

    def groups(self, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield groups of rows, each with its title."""
        for name, group in rows.groupby(["task", *(["part"] if "part" in rows else [])], sort=False):
            yield ": ".join(map(str, name)), group


TEXTS = Kind(
    "texts", "Texts", "The first answer to each prompt, and the references if there are any. Closer to the references "
    "is better, a lower perplexity or a higher diversity is not. Units are words.", text_table,
    ("rep_4", "diversity", "self_bleu_4", "coherence", "perplexity", "mauve"), (
        Column("texts", "texts", "Number of texts.", "count"),
        Column("rep_2", "rep-2", "Repeated 2-grams: 1 - unique / all, each summed over the texts.", digits=3),
        Column("rep_3", "rep-3", "Repeated 3-grams.", digits=3),
        Column("rep_4", "rep-4", "Repeated 4-grams.", digits=3),
        Column("diversity", "diversity", "Product of 1 - rep-n for n = 2, 3, 4.", digits=3),
        Column("distinct_1", "distinct-1", "Unique words over all texts / words. It falls with longer texts.",
               digits=3),
        Column("distinct_2", "distinct-2", "Unique 2-grams over all texts / 2-grams.", digits=3),
        Column("self_bleu_4", "self-BLEU-4", "Mean BLEU-4 of a text with all others as references: lower is more "
               "diverse.", digits=3),
        Column("zipf", "Zipf", "Minus the slope of log frequency over log rank of the words."),
        Column("loops", "loops", "Texts that end in a repeated loop.", "share"),
        Column("copied", "copied", "8-grams that also occur in the prompt.", "share"),
        Column("coherence", "coherence", "Mean log probability of a token after the prompt under the scorer, in nats, "
               "in the mean over texts. Repetition raises it."),
        Column("cosine", "cosine", "Cosine similarity of the scorer's mean hidden states in prompt and text."),
        Column("perplexity", "gen-ppl", "exp of minus the mean log probability of a token under the scorer, over all "
               "tokens."),
        Column("perplexity_macro", "gen-ppl macro", "Mean over texts of each text's perplexity under the scorer."),
        Column("mauve", "MAUVE", "Similarity to the references by the scorer's hidden states, 0 to 1: mean over five "
               "seeds of k-means.", digits=3),
        Column("mauve_spread", "MAUVE ±", "Standard deviation over these seeds.", digits=3),
        Column("surprise", "bits/tok", "Bits per token of the answers under the evaluated model."),
        Column("greedy", "likeliest", "Tokens that are the evaluated model's likeliest.", "share"),
        Column("entropy", "entropy", "Mean entropy of the evaluated model's distribution of a token, in nats."),
        Column("uneven", "unevenness", "Variance of -log p over the tokens of a text: 0 if all are equally likely."),
        Column("rep", "rep/ℓ", "Share of positions whose likeliest token is among the last 16, 32, 128 or 512 tokens "
               "(mean of the four).", digits=3),
        Column("tokens", "tokens", "Mean number of tokens.", "count"),
        Column("eos", "EOS", "Texts that ended with EOS.", "share"),
        Column("truncated", "truncated", "Texts that reached the token or context limit.", "share"),
    ))
SAMPLES = Kind(
    "samples", "Several samples", "Differences between the answers to one prompt, as means over prompts.", sample_table,
    ("samples", "unique", "unique_texts", "distinct_2", "oracle_1", "oracle_k"), (
        Column("samples", "samples", "Answers to each prompt.", "count"),
        Column("prompts", "prompts", "Prompts with this number of answers.", "count"),
        Column("unique", "unique", "Unique final answers, as extracted by the task, / answers.", digits=3),
        Column("unique_texts", "unique texts", "Unique texts / answers.", digits=3),
        Column("distinct_2", "distinct-2", "Unique 2-grams / 2-grams of the answers to a prompt.", digits=3),
        Column("div_2", "div-2", "Unique 2-grams / words of the answers to a prompt.", digits=3),
        Column("self_bleu_4", "self-BLEU-4", "Mean BLEU-4 of an answer with the other answers to the prompt as "
               "references.", digits=3),
        Column("hamming", "Hamming", "Share of token positions in which two answers to a prompt differ.", "share"),
        Column("oracle_1", "oracle@1", "Mean score of one answer.", digits=3),
        Column("oracle_k", "oracle@k", "Mean over prompts of the best score among all its answers.", digits=3),
    ))
UTILITY = Kind(
    "utility", "Likelihood and utility", "Rank correlation of an answer's mean log probability per token under the "
    "evaluated model and its score: near 1, a search for likely answers finds good ones; near 0 or below, it does not.",
    utility_table, ("answers", "logp_token", "quality", "tau", "rho", "tau_within"), (
        Column("answers", "answers", "Scored answers that are not empty.", "count"),
        Column("logp", "log p", "Mean log probability of an answer, in nats."),
        Column("logp_token", "log p/tok", "Mean log probability of a token, in the mean over answers."),
        Column("reference_logp", "reference", "The same for the references."),
        Column("quality", "quality", "Mean score of these answers.", digits=3),
        Column("tau", "τ-b", "Kendall's rank correlation over answers."),
        Column("rho", "ρ", "Spearman's rank correlation over answers."),
        Column("tau_whole", "τ-b whole", "Kendall's, with the log probability of the whole answer."),
        Column("tau_within", "τ-b within", "Kendall's among the different answers to one prompt, in the mean over "
               "prompts."),
        Column("prompts", "prompts", "Number of these prompts.", "count"),
    ))


def sections(stores: Sequence[Store], several: Sequence[bool] | None = None) -> list[Section]:
    """Return the non-empty tables about texts of one or several runs.

    `several` lists for each run whether it has several samples per prompt, and is computed if it is None. Answers are
    loaded only of runs with several samples or text metrics; others have no such table.
    """
    if several is None:
        several = [any(record.sample for record in store.parts_of_records(Sample)) for store in stores]
    tables, answers = [], [answers_of(store) if more or store.text_metrics() else {}
                           for store, more in zip(stores, several, strict=True)]
    for kind in (TEXTS, SAMPLES, UTILITY):
        frames = [kind.make(store, run_answers) for store, run_answers in zip(stores, answers, strict=True)]
        if len(stores) > 1:
            for frame, label in zip(frames, run_labels(stores), strict=True):
                frame.insert(0, "run", label)
        if filled := [frame for frame in frames if len(frame)]:
            rows = pd.concat(filled, ignore_index=True)
            rows = rows.assign(label=row_labels(rows))
            tables.append(Section(kind, rows, tuple(_notes(stores, rows)) if kind is TEXTS else ()))
    return tables


def _notes(stores: Sequence[Store], rows: pd.DataFrame) -> Iterator[str]:
    """Yield notes on the scorer, and on figures of too few or too short texts."""
    for scorer, own in dict.fromkeys((texts.scorer, texts.own) for store in stores if (texts := store.text_metrics())):
        yield f"scored by {scorer}, the evaluated model, which rates its own texts as likely (--scorer names another)" \
            if own else f"scored by {scorer}"
    rows = with_short_tasks(rows)
    few = rows.dropna(subset=["mauve"]).groupby("task", sort=False)["texts"].min()
    yield from (f"{task}: MAUVE of {count} texts is biased and noisy; it needs {ENOUGH:,}"
                for task, count in few.items() if count < ENOUGH)
    short = rows[rows["too_short"] > 0]
    yield from (f"{row['label']} on {row['task']}: {row['too_short']} of {row['texts']} texts have fewer than four "
                "words and are left out of n-gram figures" for _, row in short.iterrows())


def csv(section: Section) -> str:
    """Return a table as CSV, with six significant digits; unknown values are empty."""
    return section.rows.drop(columns="label").to_csv(index=False, lineterminator="\n", float_format="%.6g")


def markdown(tables: Sequence[Section]) -> str:
    """Return a GitHub table per kind and task with its filled columns, followed by its notes."""
    lines = []
    for section in tables:
        for name, rows in section.groups(with_task_names(section.rows)):
            columns = section.filled_columns(rows)
            lines += ["", f"### {name}: {section.kind.title}", "", section.kind.about, "",
                      markdown_row(["strategy", *(column.title for column in columns)]),
                      markdown_row(["---", *("---:" for _ in columns)])]
            lines += [markdown_row([f"`{row['label']}`", *(column.text(row) for column in columns)])
                      for _, row in rows.iterrows()]
        lines += ["", *(f"- {note}" for note in section.notes)] if section.notes else []
    return "\n".join([*lines, ""]) if lines else ""


def terminal(section: Section) -> FittedTable:
    """Return the main columns of a table grouped by task, for a terminal."""
    shown = [column for column in section.filled_columns(section.rows) if column.key in section.kind.short]
    table = FittedTable([Head("strategy"), *figures([column.title for column in shown])],
                        title=Text(section.kind.title, style="table.title"), caption=section.notes)
    for title, rows in section.groups(with_short_tasks(section.rows)):
        table.add(Text(title, style="bold"))
        for _, row in rows.iterrows():
            table.add(of_strategy(row["label"]), *(column.text(row) for column in shown))
        table.end_section()
    return table
