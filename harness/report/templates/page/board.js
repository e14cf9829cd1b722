// Tables: sorting, filters and further columns. All of it is in the address, so that a link shows the same.

// Unknown values come last in both directions.
const value = (row, column, kind) => {
  const cell = row.cells[column];
  if (kind === "text") return cell.textContent.trim().toLowerCase();
  return cell.dataset.sort === "" ? null : Number(cell.dataset.sort);
};
const sort = (table, wanted) => {  // wanted: a column's key, with "-" for descending
  const key = wanted.replace(/^-/, ""), header = all("th[data-key]", table).find((cell) => cell.dataset.key === key);
  if (!header) return;
  const sign = wanted.startsWith("-") ? -1 : 1, kind = header.dataset.kind;
  for (const sorted of all("[aria-sort]", table)) sorted.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const rows = all("tbody tr", table).map((row) => [value(row, header.cellIndex, kind), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return a < b ? -sign : a > b ? sign : 0;
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
};
for (const button of all("thead button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), first = header.dataset.kind === "text" || header.dataset.key === "rank" ? "" : "-";
    const other = first ? "" : "-", now = header.getAttribute("aria-sort");
    const sign = now === (first ? "descending" : "ascending") ? other : first;
    if (header.closest("table").classList.contains("main")) change("sort", sign + header.dataset.key);
    else sort(header.closest("table"), sign + header.dataset.key);
    announce(`Sorted by ${button.textContent}, ${sign ? "descending" : "ascending"}`);
  });
}

const filters = one("#filters");
const passes = (row, options) => {
  const { name, family, badge, draft, quality } = row.dataset, least = Number(options.get("quality") || NaN);
  return name.toLowerCase().includes((options.get("text") || "").toLowerCase())
    && [family, null].includes(options.get("family")) && [badge, null].includes(options.get("badge"))
    && !(options.get("draft") === "no" && draft === "yes")
    && (Number.isNaN(least) || (quality !== "" && Number(quality) >= least));
};
const filter = (options) => {
  let left = 0;
  for (const row of all("table.main tbody tr")) {
    row.hidden = !passes(row, options);
    left += !row.hidden && row.closest("#board") !== null;
  }
  one("#left").textContent = `${left} of ${all("#board tbody tr").length} strategies`;
  for (const field of filters.elements) {
    if (!field.name) continue;
    if (field.type === "checkbox") field.checked = options.get(field.name) === field.value;
    else if (field !== document.activeElement) field.value = options.get(field.name) || "";
  }
};
filters.addEventListener("input", ({ target }) =>
  change(target.name, target.type === "checkbox" && !target.checked ? "" : target.value));
filters.addEventListener("submit", (event) => event.preventDefault());

const widen = (options) => {
  const wide = options.get("columns") === "all";
  for (const table of all("table.main")) table.classList.toggle("wide", wide);
  for (const button of all(".more-columns")) {
    button.textContent = wide ? "Fewer columns" : "More columns";
    button.setAttribute("aria-expanded", String(wide));
  }
};
for (const button of all(".more-columns")) {
  button.addEventListener("click", () => change("columns", shown().options.get("columns") === "all" ? "" : "all"));
}

for (const button of all(".copy")) {
  button.title = button.dataset.text;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.dataset.text);
      button.textContent = "copied";
      announce("Command copied");
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    } catch {
      prompt("Copy this command:", button.dataset.text);
    }
  });
}
