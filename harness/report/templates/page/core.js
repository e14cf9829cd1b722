// Small helpers that all other parts use.
const root = document.documentElement;
root.classList.add("js");

const one = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const filled = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));  // texts become text nodes, so they stay inert
  return element;
};
const make = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const announce = (text) => { one("#status").textContent = text; };  // to screen readers
const short = (number) => number === null || Number.isNaN(number) ? "–"
  : Math.abs(number) >= 100 ? String(Math.round(number)) : String(Number(number.toPrecision(3)));
const once = (make) => { let made; return () => made ??= make(); };
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

// The address of what is shown: #task/example/strategy/strategy?sort=speedup&family=search
const address = (parts, options) => {
  const path = parts.map(encodeURIComponent).join("/"), query = String(options);
  return `#${path}${query ? `?${query}` : ""}`;
};
const shown = () => {
  const [path, query = ""] = location.hash.slice(1).split("?");
  let parts = [];
  try { parts = path.split("/").filter(Boolean).map(decodeURIComponent); } catch { /* not an address of this page */ }
  return { parts, options: new URLSearchParams(query) };
};
const change = (name, value) => {  // one option of the address, without a new entry in the history
  const { parts, options } = shown();
  if (value) options.set(name, value); else options.delete(name);
  history.replaceState(null, "", address(parts.length ? parts : ["all"], options));
  route();
};

// The index of all samples, and their answers in blocks: compressed, and unpacked when they are first needed.
const unpack = async (packed) => {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
};
const rowsOf = ({ rows }, examples) => {
  const failed = new Set(rows.failed), differing = new Set(rows.differing);
  return rows.examples.map((place, row) => ({ example: examples[place], sample: rows.sample?.[row] ?? 0, repeat: rows.repeat?.[row] ?? 0,
    error: failed.has(row), differs: differing.has(row), score: rows.scores[row], rate: rows.rates[row] ?? NaN }));
};
const grouped = (samples) => {
  const groups = new Map();
  for (const sample of samples) groups.get(sample.example)?.push(sample) ?? groups.set(sample.example, [sample]);
  return groups;
};
const load = once(async () => {
  const data = await unpack(one("#data").textContent);
  data.cells.forEach((cell, number) => {
    const samples = once(() => rowsOf(cell, data.tasks[cell.task].examples)), byExample = once(() => grouped(samples()));
    Object.defineProperties(cell, { samples: { get: samples }, byExample: { get: byExample } });
    Object.assign(cell, { number, graded: cell.rows.scores.some((score) => score > 1) });  // graded by a judge, up to 10
  });
  return data;
});

// A block with the answers to a prompt: in the page, or in a script beside it that calls `decodebench`.
const arriving = new Map(), blocks = new Map();
window.decodebench = (name, packed) => arriving.get(name)(packed);
const fetchBlock = (name) => new Promise((resolve, reject) => {
  const inside = one(`#${CSS.escape(name)}`), folder = "answers";
  if (inside) { resolve(inside.textContent); return; }
  arriving.set(name, resolve);
  document.head.append(Object.assign(make("script", { src: `${folder}/${name}.js` }), {
    onerror: () => { blocks.delete(name); reject(new Error(`These answers are in ${folder}/${name}.js beside the page, which is missing: copy the folder "${folder}" with the page.`)); } }));
});
const blockOf = (data, task, example) => {
  const { examples, blocks: names } = data.tasks[task], name = names[examples.indexOf(example)];
  if (!name) return Promise.resolve(null);
  if (!blocks.has(name)) blocks.set(name, fetchBlock(name).then(unpack));
  return blocks.get(name);
};
const answersTo = (block, cell, example) => (block?.cells[cell.number] ?? []).filter((answer) => answer.example === example)
  .sort((a, b) => a.sample - b.sample || a.repeat - b.repeat);
