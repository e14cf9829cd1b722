// Speed-up by batch size: a line for each strategy, with a ring at the batch size where it is as fast as the baseline.
const aLine = ({ label, points, crossing }) => `${label}: speed-up ${points.map(([size, speed, low, high]) =>
  `${short(speed)}${low === null ? "" : ` [${short(low)}, ${short(high)}]`} at batch size ${size}`).join(", ")}`
  + (crossing === null ? "" : `; even at ${crossing.toFixed(1)}`);
const spread = (places, gap, bottom) => {  // moved apart in the same order, up from the bottom where they reach it
  const order = places.map((_, index) => index).sort((a, b) => places[a] - places[b]), moved = [...places];
  let last = -Infinity;
  for (const index of order) last = moved[index] = Math.max(moved[index], last + gap);
  last = bottom + gap;
  for (const index of order.reverse()) last = moved[index] = Math.min(moved[index], last - gap);
  return moved;
};

const batches = (lines, choose) => {
  if (!lines.length) return null;
  const width = pictureWidth(), names = roomForNames(width), left = 40, right = width - names - 20;
  const gap = lines.some(({ crossing }) => crossing !== null) ? 28 : 15, height = Math.max(300, gap * lines.length + 60);
  const sizes = [...new Set(lines.flatMap(({ points }) => points.map(([size]) => size)))].sort((a, b) => a - b);
  const x = (size) => left + 8 + (right - left - 8) * Math.log(size / sizes[0]) / Math.log(sizes[sizes.length - 1] / sizes[0]);
  const y = logarithmic(lines.flatMap(({ points }) => points.flatMap(([, ...interval]) => ends(interval))), height - 44, 10);
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Speed-up by batch size" });
  for (const tick of y.ticks) {
    picture.append(draw("line", { x1: left, x2: right, y1: y(tick), y2: y(tick), class: tick === 1 ? "unit" : "grid" }),
      text(left - 6, y(tick) + 4, `${tick}×`, { "text-anchor": "end" }));
  }
  let numbered = -Infinity;
  for (const size of sizes.filter((one) => x(one) - numbered > 24 && ((numbered = x(one)), true))) {
    picture.append(text(x(size), height - 28, String(size), { "text-anchor": "middle" }));
  }
  picture.append(text((left + right) / 2, height - 8, "batch size →", { "text-anchor": "middle" }));
  const last = ({ points }) => points[points.length - 1];
  const places = spread(lines.map((line) => y(last(line)[1])), gap, height - 60);
  lines.forEach((line, index) => {
    const { points, crossing } = line, [size, speed] = last(line), place = places[index];
    const mark = pointOf(line, choose, aLine(line),
      draw("polyline", { class: "whisker line", points: points.map(([at, one]) => `${x(at)},${y(one)}`).join(" ") }),
      draw("line", { x1: x(size), y1: y(speed), x2: right + 16, y2: place, class: "whisker faint" }),
      text(right + 20, place + 4, nameIn(names, line.label)));
    for (const [at, one, low, high] of points) {
      if (low !== null) mark.append(draw("line", { x1: x(at), x2: x(at), y1: y(low), y2: y(high), class: "whisker faint" }));
      mark.append(draw("circle", { cx: x(at), cy: y(one), r: 4 }));
    }
    if (crossing !== null) {
      mark.append(draw("circle", { cx: x(crossing), cy: y(1), r: 6, class: "ring" }),
        text(right + 20, place + 17, `even at ${crossing.toFixed(1)}`, { class: "soft" }));
    }
    picture.append(mark);
  });
  return make("figure", {}, picture, make("figcaption", {}, "Speed-up over the baseline at the same batch size, with 95 % intervals. A ring is the batch size at which a strategy is as fast as the baseline."));
};
