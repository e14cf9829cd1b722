// Which section is shown: the overview, a task, or one prompt. Sections lose their ids so that the browser does not
// scroll to them.
const sections = all("main > section[data-name]"), sample = one("#sample");
for (const section of sections) section.removeAttribute("id");
const pictures = JSON.parse(one("#pictures").textContent);
const picture = (section, options) => {
  const rows = all("tbody tr[data-name]", section), name = section.dataset.name;
  const of = (kind) => visible(pictures[kind][name === "all" ? "" : name] ?? [], options);
  const choose = (point) => {  // a click on a point shows its row
    const row = rows.find(({ dataset }) => dataset.name === point.label);
    for (const other of rows) other.classList.toggle("lit", other === row);
    row.closest("details")?.setAttribute("open", "");
    row.scrollIntoView({ block: "center" });
    one("a, button", row)?.focus({ preventScroll: true });
  };
  const drawn = [scatter(of("points"), choose), ...name === "all" ? [] : [forest(of("points"), choose), loops(of("loops"), choose)]];
  one(".pictures", section).replaceChildren(...drawn.filter(Boolean));
  one(".batches", section)?.replaceChildren(...[batches(of("batches"), choose)].filter(Boolean));
};
const visible = (points, options) => points.filter(({ label, rows = [label] }) => !rows.length
  || all("#board tbody tr").some((row) => rows.includes(row.dataset.name) && passes(row, options)));

const route = () => {
  const { parts, options } = shown();
  const section = parts.length > 2 ? null : sections.find(({ dataset }) => dataset.name === (parts[0] ?? "all")) ?? sections[0];
  for (const other of sections) other.hidden = other !== section;
  sample.hidden = section !== null;
  for (const link of all("nav a")) {
    const name = section ? section.dataset.name : parts[0];
    if (link.dataset.name === name) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    link.href = address(link.dataset.name === "all" ? ["all"] : [link.dataset.name], options);
  }
  one("#narrow").hidden = section === null;
  filter(options);
  widen(options);
  if (options.get("sort")) for (const table of all("table.main")) sort(table, options.get("sort"));
  if (!section) { sampleView(sample, parts, options); return; }
  picture(section, options);
  if (section.dataset.name !== "all") answers(section, options);
};
one("#skip").addEventListener("click", async (event) => {
  event.preventDefault();
  const { cells } = await load(), cell = cells.find(({ rows }) => rows.examples.length);
  if (!cell) return;
  location.hash = address([cell.task, cell.samples[0].example, cell.label], shown().options);
  setTimeout(() => one("#sample a")?.focus(), 100);
});
let place = "";
addEventListener("hashchange", () => {
  const path = location.hash.split("?")[0];
  route();
  if (path !== place && !(path.split("/").length > 2 && place.split("/").length > 2)) scrollTo(0, 0);
  place = path;
});
one("#narrow").open = !matchMedia("(max-width: 40rem)").matches || [...filters.elements].some(({ name }) => name && shown().options.has(name));
route();
root.dataset.ready = "true";
