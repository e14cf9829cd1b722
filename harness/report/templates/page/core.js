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

// The samples: compressed in the page, and unpacked when they are first needed.
let unpacking = null;
const load = () => unpacking ??= (async () => {
  const bytes = Uint8Array.from(atob(one("#data").textContent), (letter) => letter.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const data = JSON.parse(text), order = new Intl.Collator("en", { numeric: true });
  for (const cell of data.cells) {
    cell.samples.sort((a, b) => order.compare(a.example, b.example) || a.sample - b.sample || a.repeat - b.repeat);
    cell.graded = cell.samples.some(({ scores }) => scores[cell.metric] > 1);  // by a judge, up to 10
    cell.byExample = Map.groupBy ? Map.groupBy(cell.samples, (sample) => sample.example) : grouped(cell.samples);
  }
  return data;
})();
const grouped = (samples) => {
  const groups = new Map();
  for (const sample of samples) groups.set(sample.example, [...groups.get(sample.example) ?? [], sample]);
  return groups;
};
