// The answers of a task: a row for each example, a column for each strategy; each cell leads to its sample.
const PORTION = 100;
const scoreOf = (cell, sample) => sample.error ? null : sample.scores[cell.metric] ?? null;
const scored = (cell) => cell.samples.some((sample) => scoreOf(cell, sample) !== null);
const wrong = (cell, sample) => sample.error !== null || (scoreOf(cell, sample) !== null && scoreOf(cell, sample) < 1);
const mark = (cell, sample) => {
  const score = scoreOf(cell, sample);
  return sample.error ? "!" : score === null ? "·" : score === 1 && !cell.graded ? "✓" : score === 0 ? "✗" : short(score);
};
const partner = (data, cell, sample) => {  // the baseline's answer to the same prompt
  const base = cell.baseline === null ? null : data.cells[cell.baseline];
  if (!base || base === cell) return null;
  const same = (base.byExample.get(sample.example) ?? []).filter((other) => other.repeat === sample.repeat && !other.error);
  return same.find((other) => other.sample === sample.sample) ?? same.find((other) => other.sample === 0) ?? null;
};
const differs = (data, cell, sample) => {
  const other = partner(data, cell, sample);
  return other !== null && sample.turns.some((turn, index) => turn.text !== other.turns[index]?.text);
};
const cellsOf = (data, task, options) => data.cells.filter((cell) => cell.task === task && cell.samples.length
  && all("#board tbody tr").some((row) => row.dataset.name === cell.label && passes(row, options)));
const wanted = (data, cells, example, options) => cells.some((cell) => (cell.byExample.get(example) ?? []).some((sample) =>
  (options.get("only") !== "wrong" || wrong(cell, sample))
  && (options.get("only") !== "different" || differs(data, cell, sample))));
const examplesOf = (data, cells, options) => {
  const examples = [...new Set(cells.flatMap((cell) => [...cell.byExample.keys()]))];
  return options.get("only") ? examples.filter((example) => wanted(data, cells, example, options)) : examples;
};

const answers = async (section, options) => {
  const data = await load(), task = section.dataset.name, place = one(".answers", section);
  const cells = cellsOf(data, task, options), examples = examplesOf(data, cells, options);
  const total = new Set(data.cells.filter((cell) => cell.task === task).flatMap((cell) => [...cell.byExample.keys()])).size;
  const head = make("tr", {}, make("th", { scope: "col" }, "example"),
    ...cells.map((cell) => make("th", { scope: "col", title: cell.label }, make("span", {}, cell.label))));
  const body = make("tbody");
  const more = (from) => {
    for (const example of examples.slice(from, from + PORTION)) {
      body.append(make("tr", {}, make("th", { scope: "row" }, example), ...cells.map((cell) => {
        const sample = cell.byExample.get(example)?.[0];
        if (!sample) return make("td");
        const other = differs(data, cell, sample), bad = wrong(cell, sample);
        return make("td", { class: bad ? "wrong" : scoreOf(cell, sample) === null || cell.graded ? "" : "right" }, make("a", {
          href: address([task, example, cell.label], options),
          "aria-label": `${example}, ${cell.label}: ${mark(cell, sample)}${other ? ", differs from the baseline" : ""}`,
        }, mark(cell, sample), other ? make("small", {}, "≠") : ""));
      })));
    }
    if (from + PORTION < examples.length) {
      const button = make("button", { type: "button" }, `Show more of ${examples.length} examples`);
      button.addEventListener("click", () => { button.remove(); more(from + PORTION); });
      place.append(button);
    }
  };
  one(".distributions", section).replaceChildren(...[byPrompt(data, cells, options), byPosition(cells)].filter(Boolean));
  place.replaceChildren(
    make("p", { class: "note" }, `${examples.length} of ${total} examples. ✓ right, ✗ wrong, · no score, ! failed, ≠ not the baseline's answer.`),
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Answers of ${task}` },
      make("table", { class: "grid" }, make("thead", {}, head), body)));
  const some = cells.find((cell) => cell.samples.length < cell.total);
  if (some) place.append(make("p", { class: "note" }, `This page holds ${some.samples.length} of ${some.total} samples of each strategy; the run folder has all of them.`));
  more(0);
};
