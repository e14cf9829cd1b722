// The answers of a task: a row for each example, a column for each strategy; each cell leads to its sample.
const PORTION = 100;
const wrong = ({ error, score }) => error || (score !== null && score < 1);
const mark = (cell, { error, score }) =>
  error ? "!" : score === null ? "·" : score === 1 && !cell.graded ? "✓" : score === 0 ? "✗" : short(score);
const partner = (data, cell, sample) => {  // the baseline's answer to the same prompt
  const base = cell.baseline === null ? null : data.cells[cell.baseline];
  if (!base || base === cell) return null;
  const same = (base.byExample.get(sample.example) ?? []).filter((other) => other.repeat === sample.repeat && !other.error);
  return same.find((other) => other.sample === sample.sample) ?? same.find((other) => other.sample === 0) ?? null;
};
const cellsOf = (data, task, options) => data.cells.filter((cell) => cell.task === task && cell.rows.examples.length
  && all("#board tbody tr").some((row) => row.dataset.name === cell.label && passes(row, options)));
const wanted = (cells, example, options) => cells.some((cell) => (cell.byExample.get(example) ?? []).some((sample) =>
  (options.get("only") !== "wrong" || wrong(sample)) && (options.get("only") !== "different" || sample.differs)));
const examplesOf = (data, cells, options) => {
  const some = new Set(cells.flatMap((cell) => [...cell.byExample.keys()]));
  const examples = (data.tasks[cells[0]?.task]?.examples ?? []).filter((example) => some.has(example));
  return options.get("only") ? examples.filter((example) => wanted(cells, example, options)) : examples;
};

const answers = async (section, options) => {
  const data = await load(), task = section.dataset.name, place = one(".answers", section);
  const cells = cellsOf(data, task, options), examples = examplesOf(data, cells, options);
  const total = data.tasks[task].examples.length;
  const head = make("tr", {}, make("th", { scope: "col" }, "example"),
    ...cells.map((cell) => make("th", { scope: "col", title: cell.label }, make("span", {}, cell.label))));
  const body = make("tbody");
  const more = (from) => {
    for (const example of examples.slice(from, from + PORTION)) {
      body.append(make("tr", {}, make("th", { scope: "row" }, example), ...cells.map((cell) => {
        const sample = cell.byExample.get(example)?.[0];
        if (!sample) return make("td");
        return make("td", { class: wrong(sample) ? "wrong" : sample.score === null || cell.graded ? "" : "right" }, make("a", {
          href: address([task, example, cell.label], options),
          "aria-label": `${example}, ${cell.label}: ${mark(cell, sample)}${sample.differs ? ", differs from the baseline" : ""}`,
        }, mark(cell, sample), sample.differs ? make("small", {}, "≠") : ""));
      })));
    }
    if (from + PORTION < examples.length) {
      const button = make("button", { type: "button" }, `Show more of ${examples.length} examples`);
      button.addEventListener("click", () => { button.remove(); more(from + PORTION); });
      place.append(button);
    }
  };
  one(".distributions", section).replaceChildren(...[byPrompt(data, cells, options), byPosition(cells), byForward(cells, options)].filter(Boolean));
  place.replaceChildren(
    make("p", { class: "note" }, `${examples.length} of ${total} examples. ✓ right, ✗ wrong, · no score, ! failed, ≠ not the baseline's answer.`),
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Answers of ${task}` },
      make("table", { class: "grid" }, make("thead", {}, head), body)));
  more(0);
};
