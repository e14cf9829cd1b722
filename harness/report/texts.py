"""The tables beside the summary: of sub-tasks, of texts and of several samples, and whether the likely is the good."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from harness.measure.summary import run_labels
from harness.measure.texts import answers_of, sample_table, text_table, utility_table
from harness.report.tables import Column, briefly, line, names
from harness.stats.mauve import ENOUGH
from harness.store.folder import Store
from harness.store.schema import Sample


@dataclass(frozen=True)
class Kind:
    """A table below the main one: the name of its file, what it is about, its columns, and those for a terminal."""

    name: str
    title: str
    about: str
    make: Callable[..., pd.DataFrame]
    short: tuple[str, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Section:
    """A table that has rows (each with `task` and `label`; several runs are under each other), and its notes.

    Rows are shown by `task`, and by `part` where they have one.
    """

    kind: Kind
    rows: pd.DataFrame
    notes: tuple[str, ...] = ()

    def present(self, rows: pd.DataFrame) -> list[Column]:
        """The columns that have a value in some of `rows`."""
        return [column for column in self.kind.columns if column.key in rows and rows[column.key].notna().any()]

    def groups(self, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
        """The rows that are shown together, and what they are about."""
        for name, group in rows.groupby(["task", *(["part"] if "part" in rows else [])], sort=False):
            yield ": ".join(map(str, name)), group


TEXTS = Kind(
    "texts", "Texts", "The first answer to each prompt, beside the references where there are any. Nearer to the "
    "references is better; neither the lowest perplexity nor the highest variety is. Units are words.", text_table,
    ("rep_4", "diversity", "self_bleu_4", "coherence", "perplexity", "mauve"), (
        Column("texts", "texts", "Texts that the figures are of.", "count"),
        Column("rep_2", "rep-2", "Repeated 2-grams: 1 - unique / all, each summed over the texts.", digits=3),
        Column("rep_3", "rep-3", "Repeated 3-grams.", digits=3),
        Column("rep_4", "rep-4", "Repeated 4-grams.", digits=3),
        Column("diversity", "diversity", "Product of 1 - rep-n for n = 2, 3, 4.", digits=3),
        Column("distinct_1", "distinct-1", "Different words over all texts / words. It falls with longer texts.",
               digits=3),
        Column("distinct_2", "distinct-2", "Different 2-grams over all texts / 2-grams.", digits=3),
        Column("self_bleu_4", "self-BLEU-4", "Mean BLEU-4 of a text with all others as references: lower is more "
               "varied.", digits=3),
        Column("zipf", "Zipf", "Minus the slope of log frequency over log rank of the words."),
        Column("loops", "loops", "Texts that end by saying the same again and again.", "share"),
        Column("copied", "copied", "8-grams that are in the prompt too.", "share"),
        Column("coherence", "coherence", "Mean log probability of a token after the prompt under the scorer, in nats, "
               "in the mean over texts. Repetition raises it."),
        Column("cosine", "cosine", "Likeness of the scorer's mean hidden states in prompt and text."),
        Column("perplexity", "gen-ppl", "exp of minus the mean log probability of a token under the scorer, over all "
               "tokens."),
        Column("perplexity_macro", "gen-ppl macro", "Mean over texts of each text's perplexity under the scorer."),
        Column("mauve", "MAUVE", "How like the references the texts are to the scorer, 0 to 1: mean over five starts "
               "of k-means.", digits=3),
        Column("mauve_spread", "MAUVE ±", "Standard deviation over these starts.", digits=3),
        Column("surprise", "bits/tok", "Bits per token of the answers under the evaluated model."),
        Column("greedy", "likeliest", "Tokens that were the evaluated model's likeliest.", "share"),
        Column("entropy", "entropy", "Mean entropy of the evaluated model before a token, in nats."),
        Column("uneven", "unevenness", "Variance of -log p over the tokens of a text: 0 is even."),
        Column("rep", "rep/ℓ", "Places where the likeliest token is one of the last 16, 32, 128, 512 (mean of the "
               "four).", digits=3),
        Column("tokens", "tokens", "Mean number of tokens.", "count"),
        Column("eos", "EOS", "Texts that the model ended itself.", "share"),
        Column("truncated", "truncated", "Texts that ran into the token or the context limit.", "share"),
    ))
SAMPLES = Kind(
    "samples", "Several samples", "How the answers to one prompt differ, in the mean over prompts.", sample_table,
    ("samples", "unique", "unique_texts", "distinct_2", "oracle_1", "oracle_k"), (
        Column("samples", "samples", "Answers to each prompt.", "count"),
        Column("prompts", "prompts", "Prompts with as many answers.", "count"),
        Column("unique", "unique", "Different answers, as the task reads them, / answers.", digits=3),
        Column("unique_texts", "unique texts", "Different texts / answers.", digits=3),
        Column("distinct_2", "distinct-2", "Different 2-grams / 2-grams among the answers to a prompt.", digits=3),
        Column("div_2", "div-2", "Different 2-grams / words among the answers to a prompt.", digits=3),
        Column("self_bleu_4", "self-BLEU-4", "Mean BLEU-4 of an answer with the others to the same prompt as "
               "references.", digits=3),
        Column("hamming", "Hamming", "Places (tokens) in which two answers to a prompt differ.", "share"),
        Column("oracle_1", "oracle@1", "Mean score of one answer.", digits=3),
        Column("oracle_k", "oracle@k", "Mean over prompts of the best score among all its answers.", digits=3),
    ))
UTILITY = Kind(
    "utility", "Likelihood and utility", "Rank correlation of how likely an answer is to the evaluated model (mean "
    "log probability of its tokens) and its score: near 1, searching for the likely finds the good; near 0 or below, "
    "it does not.", utility_table, ("answers", "logp_token", "quality", "tau", "rho", "tau_within"), (
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
        Column("prompts", "prompts", "Prompts that this is over.", "count"),
    ))


def sections(stores: Sequence[Store], several: Sequence[bool] | None = None) -> list[Section]:
    """The tables about texts that one or several runs have; `several` says which have several samples of a prompt.

    A run that has neither these nor metrics of texts has no table, and its answers are not held in memory.
    """
    known = [any(one.sample for one in store.parts_of_records(Sample)) for store in stores] if several is None \
        else several
    found, records = [], [answers_of(store) if more or store.text_metrics() else {}
                          for store, more in zip(stores, known, strict=True)]
    for kind in (TEXTS, SAMPLES, UTILITY):
        frames = [kind.make(store, known) for store, known in zip(stores, records, strict=True)]
        if len(stores) > 1:
            for frame, label in zip(frames, run_labels(stores), strict=True):
                frame.insert(0, "run", label)
        if full := [frame for frame in frames if len(frame)]:
            rows = pd.concat(full, ignore_index=True)
            rows = rows.assign(label=names(rows))
            found.append(Section(kind, rows, tuple(_notes(stores, rows)) if kind is TEXTS else ()))
    return found


def _notes(stores: Sequence[Store], rows: pd.DataFrame) -> Iterator[str]:
    """What the figures of models depend on."""
    for scorer, own in dict.fromkeys((texts.scorer, texts.own) for store in stores if (texts := store.text_metrics())):
        yield f"scored by {scorer}, the evaluated model: it finds its own texts likely (--scorer names another)" \
            if own else f"scored by {scorer}"
    rows = briefly(rows)
    few = rows.dropna(subset=["mauve"]).groupby("task", sort=False)["texts"].min()
    yield from (f"{task}: MAUVE of {count} texts, of which it wants {ENOUGH:,}: biased, and noisy"
                for task, count in few.items() if count < ENOUGH)
    short = rows[rows["too_short"] > 0]
    yield from (f"{row['label']} on {row['task']}: {row['too_short']} of {row['texts']} texts have fewer than four "
                "words and count in no figure of n-grams they are too short for" for _, row in short.iterrows())


def csv(section: Section) -> str:
    """A table as CSV, six significant digits, empty where unknown."""
    return section.rows.drop(columns="label").to_csv(index=False, lineterminator="\n", float_format="%.6g")


def markdown(found: Sequence[Section]) -> str:
    """One GitHub table a task and kind, with every column that has a value there, and its notes."""
    lines = []
    for section in found:
        for name, rows in section.groups(section.rows):
            columns = section.present(rows)
            lines += ["", f"### {name}: {section.kind.title}", "", section.kind.about, "",
                      line(["strategy", *(column.title for column in columns)]),
                      line(["---", *("---:" for _ in columns)])]
            lines += [line([f"`{row['label']}`", *(column.text(row) for column in columns)])
                      for _, row in rows.iterrows()]
        lines += ["", *(f"- {note}" for note in section.notes)] if section.notes else []
    return "\n".join([*lines, ""]) if lines else ""


def terminal(section: Section) -> Table:
    """The columns that matter most, grouped by task, for a terminal of 80 columns or more."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left",
                  title=Text(section.kind.title, style="table.title"), title_justify="left",
                  caption=Text("\n".join(section.notes), style="table.caption") if section.notes else None)
    shown = [column for column in section.present(section.rows) if column.key in section.kind.short]
    table.add_column("strategy", overflow="fold", min_width=12)
    for column in shown:
        table.add_column(column.title, justify="right", no_wrap=True)
    for name, rows in section.groups(briefly(section.rows)):
        table.add_row(Text(name, style="bold"))
        for _, row in rows.iterrows():
            label = Text(row["label"].replace(":", " ", 1).replace(",", " "))  # narrow tables fold at spaces
            table.add_row(label, *(column.text(row) for column in shown))
        table.add_section()
    return table
