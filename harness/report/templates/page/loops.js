// Loops: which share of a strategy's texts ends in one, and the share of repeated 4-grams.
const inPercent = (share) => `${Math.round(100 * share)} %`;
const aBar = ({ label, loops, rep }) => `${label}: ${inPercent(loops)} of its texts end in a loop`
  + (rep === null ? "" : `, rep-4 ${short(rep)}`);

const loops = (bars, choose) => {
  if (!bars.length) return null;
  const width = pictureWidth(), left = roomForNames(width), step = 20, height = step * bars.length + 40;
  const most = Math.max(...bars.flatMap(({ loops, rep }) => [loops, rep ?? 0]));
  const end = [0.05, 0.1, 0.2, 0.5].find((one) => one >= most) ?? 1, x = (share) => left + (width - 54 - left) * share / end;
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Loops and repetition" });
  for (const tick of (width < 480 ? [0, 0.4, 0.8] : [0, 0.2, 0.4, 0.6, 0.8, 1]).map((part) => part * end)) {
    picture.append(draw("line", { x1: x(tick), x2: x(tick), y1: 4, y2: height - 30, class: "grid" }),
      text(x(tick), height - 12, inPercent(tick), { "text-anchor": "middle" }));
  }
  bars.forEach((bar, index) => {
    const y = 14 + step * index, after = x(Math.max(bar.loops, bar.rep ?? 0));
    const mark = pointOf(bar, choose, aBar(bar), band(y, step, width), text(left - 12, y + 4, nameIn(left, bar.label), { "text-anchor": "end" }),
      draw("rect", { x: left, y: y - 6, width: x(bar.loops) - left, height: 12 }),
      text(after + 10, y + 4, inPercent(bar.loops)));
    if (bar.rep !== null) mark.append(draw("path", { d: `M${x(bar.rep) - 5} ${y}l5 -5 5 5 -5 5z`, class: "diamond" }));
    picture.append(mark);
  });
  return make("figure", {}, picture, make("figcaption", {}, "Share of the texts that end in a loop; the diamond is rep-4, the share of repeated 4-grams."));
};
