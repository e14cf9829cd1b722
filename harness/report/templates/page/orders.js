// Which forward filled which place of the first answer of each strategy that fills masks.
const byForward = (cells, options) => {
  const found = cells.filter(({ order }) => order.filled);
  if (!found.length) return null;
  const width = 640, panel = 300, step = 130, high = Math.max(...found.flatMap(({ order }) => order.filled));
  const wide = Math.max(...found.map(({ order }) => order.filled.length)), height = step * Math.ceil(found.length / 2) + 10;
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Order of decoding" });
  found.forEach((cell, number) => {
    const left = 34 + (number % 2) * (panel + 10), top = 24 + step * Math.floor(number / 2), { filled, example } = cell.order;
    const x = (place) => left + (panel - 50) * place / wide, y = (forward) => top + 84 * (1 - forward / high);
    for (const tick of [1, high]) {
      picture.append(draw("line", { x1: left, x2: left + panel - 50, y1: y(tick), y2: y(tick), class: "grid" }),
        text(left - 4, y(tick) + 4, String(tick), { "text-anchor": "end" }));
    }
    picture.append(text(left, top - 10, `${cut(cell.label, 26)}: ${filled.length} tokens, ${Math.max(...filled)} forwards`),
      draw("a", { href: address([cell.task, example, cell.label], options), class: "point small", tabindex: "-1", style: `--colour: ${cell.colour}` },
        ...filled.map((forward, place) => draw("rect", { x: x(place), y: y(forward) - 2, width: 4, height: 4 },
          draw("title", {}, `${cell.label}: place ${place + 1} in forward ${forward}`)))));
  });
  return make("figure", {}, picture, make("figcaption", {}, "Order of decoding of the first answer: from left to right the places, from bottom to top the forwards that filled them."));
};
