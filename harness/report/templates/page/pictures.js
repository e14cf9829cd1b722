// Pictures: quality against speed-up, and speed-ups with their intervals. Their figures are in the tables, too.
const evenTicks = (low, high) => {  // at most six round numbers at equal distances
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5].find((one) => (high - low) / one <= 6) ?? 10, found = [];
  for (let tick = Math.ceil(low / step); tick * step <= high; tick += 1) found.push(Number((tick * step).toFixed(2)));
  return found;
};
const ticks = (low, high) => {  // of a logarithmic axis
  if (high / low < 4) return evenTicks(low, high);
  const found = [];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high * 10; power *= 10) {
    for (const step of [1, 2, 5]) if (power * step >= low && power * step <= high) found.push(power * step);
  }
  return found;
};
const known = (interval) => interval && Number.isFinite(interval[0]) && interval[0] !== null;
const ends = (interval) => known(interval) ? interval.filter((end) => end !== null) : [];
const logarithmic = (values, from, to) => {
  const low = Math.min(0.9, ...values) / 1.08, high = Math.max(1.1, ...values) * 1.08, width = Math.log(high / low);
  return Object.assign((x) => from + (to - from) * Math.log(Math.min(high, Math.max(low, x)) / low) / width,
    { ticks: ticks(low, high) });
};
const linear = (values, from, to) => {
  const low = Math.min(...values), high = Math.max(...values), room = (high - low || 0.1) * 0.12;
  return Object.assign((y) => from + (to - from) * (y - low + room) / (high - low + 2 * room),
    { ticks: evenTicks(low - room, high + room) });
};
const cut = (name, most = 30) => name.length <= most ? name  // knobs and runs are at the end
  : `${name.slice(0, Math.ceil((most - 1) / 2))}…${name.slice(-Math.floor((most - 1) / 2))}`;
const grid = (picture, x, height) => {
  for (const tick of x.ticks) {
    picture.append(draw("line", { x1: x(tick), x2: x(tick), y1: 4, y2: height - 30, class: tick === 1 ? "unit" : "grid" }),
      text(x(tick), height - 12, `${tick}×`, { "text-anchor": "middle" }));
  }
};
const text = (x, y, words, attributes = {}) => draw("text", { x, y, ...attributes }, words);
const told = (point) => `${point.label}: speed-up ${short(point.speed[0])} [${short(point.speed[1])}, ${short(point.speed[2])}]`
  + (known(point.quality) ? `, quality ${short(point.quality[0])} [${short(point.quality[1])}, ${short(point.quality[2])}]` : "");

const bestFirst = (points) => [...points].sort((a, b) => b.speed[0] - a.speed[0] || b.quality[0] - a.quality[0]);
const front = (points) => {  // the points that no other one beats in both quality and speed
  let best = -Infinity;
  return bestFirst(points).filter(({ quality }) => quality[0] > best && ((best = quality[0]), true));
};

const pictureWidth = () => Math.min(640, one("main").clientWidth);  // for a picture, so that a phone need not shrink its text
const roomForNames = (width) => width < 480 ? 150 : 210;
const nameIn = (names, label) => cut(label, Math.floor((names - 12) / 6.6));
const pointOf = (point, choose, words, ...children) => {
  const mark = draw("a", { href: location.hash || "#all", class: "point", "aria-label": words, style: `--colour: ${point.colour}` },
    draw("title", {}, words), ...children);
  mark.addEventListener("click", (event) => { event.preventDefault(); choose(point); });
  return mark;
};

const band = (y, height, width) => draw("rect", { x: 0, y: y - height / 2, width, height, class: "nothing" });  // all of it can be clicked

const scatter = (points, choose) => {
  const drawn = points.filter((point) => known(point.speed) && known(point.quality));
  if (drawn.length < 2) return null;
  const width = pictureWidth(), height = 360, x = logarithmic(drawn.flatMap(({ speed }) => ends(speed)), 56, width - 16);
  const y = linear(drawn.flatMap(({ quality }) => [quality[0]]), height - 44, 14);
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Quality against speed-up" });
  for (const tick of x.ticks) {
    picture.append(draw("line", { x1: x(tick), x2: x(tick), y1: 14, y2: height - 44, class: tick === 1 ? "unit" : "grid" }),
      text(x(tick), height - 28, `${tick}×`, { "text-anchor": "middle" }));
  }
  for (const tick of y.ticks) {
    picture.append(draw("line", { x1: 56, x2: width - 16, y1: y(tick), y2: y(tick), class: "grid" }),
      text(50, y(tick) + 4, tick.toFixed(2), { "text-anchor": "end" }));
  }
  picture.append(text(width / 2, height - 8, "speed-up →", { "text-anchor": "middle" }),
    draw("polyline", { class: "front", points: front(drawn).map((one) => `${x(one.speed[0])},${y(one.quality[0])}`).join(" ") }));
  const labels = [];
  for (const point of bestFirst(drawn)) {
    const at = [x(point.speed[0]), y(point.quality[0])], [, low, high] = point.speed;
    const mark = pointOf(point, choose, told(point));
    if (low !== null) mark.append(draw("line", { x1: x(low), x2: x(high), y1: at[1], y2: at[1], class: "whisker" }));
    const [, bottom, top] = point.quality;
    if (bottom !== null) mark.append(draw("line", { x1: at[0], x2: at[0], y1: Math.min(height - 44, y(bottom)), y2: Math.max(14, y(top)), class: "whisker faint" }));
    mark.append(draw("circle", { cx: at[0], cy: at[1], r: 6 }));
    const size = 6.4 * point.label.length, left = at[0] + 12 + size > width ? at[0] - 12 - size : at[0] + 10;
    const free = [-8, 16, -21, 29, -34, 42].find((shift) => labels.every(([from, to, base]) =>
      left > to || left + size < from || Math.abs(base - at[1] - shift) > 11));
    if (free !== undefined && point.label.length < 34) {
      labels.push([left, left + size, at[1] + free]);
      mark.append(text(left, at[1] + free, point.label));
    }
    picture.append(mark);
  }
  return make("figure", {}, picture, make("figcaption", {}, "Quality against speed-up with 95 % intervals. The line joins the strategies that no other one beats in both; names that find no room show when pointed at."));
};

const forest = (points, choose) => {
  const drawn = points.filter((point) => known(point.speed)).sort((a, b) => b.speed[0] - a.speed[0]);
  if (!drawn.length) return null;
  const width = pictureWidth(), left = roomForNames(width), step = 20, height = step * drawn.length + 40;
  const x = logarithmic(drawn.flatMap(({ speed }) => ends(speed)), left, width - 20);
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Speed-ups with intervals" });
  grid(picture, x, height);
  drawn.forEach((point, index) => {
    const y = 14 + step * index, [middle, low, high] = point.speed;
    const mark = pointOf(point, choose, told(point), band(y, step, width), text(left - 12, y + 4, nameIn(left, point.label), { "text-anchor": "end" }));
    if (low !== null) mark.append(draw("line", { x1: x(low), x2: x(high), y1: y, y2: y, class: "whisker" }));
    mark.append(draw("circle", { cx: x(middle), cy: y, r: 5 }));
    picture.append(mark);
  });
  return make("figure", {}, picture, make("figcaption", {}, "Speed-ups with 95 % intervals: left of 1 is slower than the baseline."));
};
