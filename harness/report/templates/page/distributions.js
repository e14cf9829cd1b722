// Pictures of a task that need its samples: the speed-up of each prompt, and the acceptance of drafts by position.
const DOTS = 4000;  // prompts in a picture
const speedUps = (data, cell, most) => cell.samples.filter(({ error }) => !error).map((sample) => {
  const other = partner(data, cell, sample);
  return [sample, other ? sample.rate / other.rate : NaN];
}).filter(([, ratio]) => Number.isFinite(ratio)).slice(0, most);

const byPrompt = (data, cells, options) => {
  const rows = cells.map((cell) => [cell, speedUps(data, cell, Math.floor(DOTS / cells.length))]).filter(([, found]) => found.length);
  if (!rows.length) return null;
  const left = 210, width = 640, step = 22, height = step * rows.length + 40;
  const x = logarithmic(rows.flatMap(([, found]) => found.map(([, ratio]) => ratio)), left, width - 20);
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Speed-up of each prompt" });
  grid(picture, x, height);
  rows.forEach(([cell, found], row) => {
    const y = 14 + step * row, middle = found.map(([, ratio]) => ratio).sort((a, b) => a - b)[Math.floor(found.length / 2)];
    picture.append(text(left - 12, y + 4, cut(cell.label), { "text-anchor": "end" }));
    for (const [sample, ratio] of found) {
      picture.append(draw("a", { href: address([cell.task, sample.example, cell.label], options), class: "point small", tabindex: "-1", style: `--colour: ${cell.colour}` },
        draw("title", {}, `${cell.label}, ${sample.example}: ${short(ratio)} times as fast`), draw("circle", { cx: x(ratio), cy: y, r: 3 })));
    }
    picture.append(draw("line", { x1: x(middle), x2: x(middle), y1: y - 8, y2: y + 8, class: "median" }));
  });
  return make("figure", {}, picture, make("figcaption", {}, "Speed-up of each prompt, with the median. A dot leads to its answer."));
};

// The share of the steps with a draft of at least k tokens in which the first k were accepted, for k = 1, 2, …
const byPosition = (cells) => {
  const lines = cells.map((cell) => [cell, cell.positions.map(([drafts, accepted]) => accepted / drafts)]).filter(([, found]) => found.length);
  if (!lines.length) return null;
  const width = 640, height = 300, most = Math.max(2, ...lines.map(([, found]) => found.length));
  const x = (k) => 50 + (width - 210) * (k - 1) / (most - 1), y = (share) => height - 40 - (height - 60) * share;
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Acceptance of drafts by position" });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    picture.append(draw("line", { x1: 50, x2: width - 160, y1: y(share), y2: y(share), class: "grid" }),
      text(44, y(share) + 4, `${100 * share} %`, { "text-anchor": "end" }));
  }
  for (let k = 1; k <= most; k += 1) picture.append(text(x(k), height - 22, String(k), { "text-anchor": "middle" }));
  const used = [];
  for (const [cell, found] of lines) {
    let at = y(found[found.length - 1]) + 4;
    while (used.some((other) => Math.abs(other - at) < 13)) at += 13;
    used.push(at);
    picture.append(draw("g", { class: "point", style: `--colour: ${cell.colour}` },
      draw("polyline", { class: "whisker line", points: found.map((share, index) => `${x(index + 1)},${y(share)}`).join(" ") }),
      ...found.map((share, index) => draw("circle", { cx: x(index + 1), cy: y(share), r: 4 },
        draw("title", {}, `${cell.label}: the first ${index + 1} accepted in ${short(100 * share)} % of drafts that long`))),
      text(x(found.length) + 10, at, cut(cell.label, 22))));
  }
  return make("figure", {}, picture, make("figcaption", {}, "Share of the drafts of at least k tokens whose first k were accepted, for k = 1, 2, … A tree counts with all its nodes."));
};
