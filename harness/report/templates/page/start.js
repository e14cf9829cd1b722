// Which section is shown: the overview, a task, or one prompt. Sections lose their ids so that the browser does not
// scroll to them.
const sections = all("main > section[data-name]"), sample = one("#sample");
for (const section of sections) section.removeAttribute("id");
const picture = (section, points) => {
  const rows = all("table.main tbody tr", section);
  const choose = (point) => {  // a click on a point shows its row
    const row = rows.find(({ dataset }) => dataset.name === point.label);
    for (const other of rows) other.classList.toggle("lit", other === row);
    row.scrollIntoView({ block: "center" });
    one("a, button", row)?.focus({ preventScroll: true });
  };
  const both = [scatter(points, choose), forest(points, choose)].filter(Boolean);
  one(".pictures", section).replaceChildren(...section.dataset.name === "all" ? both.slice(0, 1) : both);
};
const pictures = JSON.parse(one("#points").textContent);
const visible = (points, options) => points.filter((point) => all("#board tbody tr").some((row) =>
  row.dataset.name === point.label && passes(row, options)));

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
  filters.hidden = section === null;
  filter(options);
  widen(options);
  if (options.get("sort")) for (const table of all("table.main")) sort(table, options.get("sort"));
  if (!section) { sampleView(sample, parts, options); return; }
  const task = section.dataset.name === "all" ? "" : section.dataset.name;
  picture(section, visible(pictures[task] ?? [], options));
  if (task) answers(section, options);
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
route();
root.dataset.ready = "true";
