"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  const make = (tag, text = "", attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const announce = (text) => { document.getElementById("status").textContent = text; };  // to screen readers

  // Sorting: unknown values come last in both directions.
  const value = (row, column, kind) => {
    const cell = row.cells[column];
    if (kind === "text") return cell.textContent.trim().toLowerCase();
    return cell.dataset.sort === "" ? null : Number(cell.dataset.sort);
  };
  const sort = (header) => {
    const table = header.closest("table"), body = table.tBodies[0], kind = header.dataset.kind;
    const first = kind === "text" ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    const direction = header.getAttribute("aria-sort") === first ? other : first;
    for (const sorted of table.querySelectorAll("[aria-sort]")) sorted.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row) => [value(row, header.cellIndex, kind), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return a < b ? -sign : a > b ? sign : 0;
    });
    body.append(...rows.map(([, row]) => row));
    announce(`Sorted by ${header.textContent}, ${direction}`);
  };
  for (const button of document.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }

  // Tabs: the hash selects the section, by default the overview. Sections lose their ids so that the browser does not
  // scroll to them.
  const sections = [...document.querySelectorAll("main > section:not(.always)")];
  for (const section of sections) {
    section.dataset.name = section.id;
    section.removeAttribute("id");
  }
  const links = [...document.querySelectorAll("nav a")];
  const name = (hash) => { try { return decodeURIComponent(hash.slice(1)); } catch { return ""; } };
  const show = () => {
    const wanted = name(location.hash);
    const shown = sections.find((section) => section.dataset.name === wanted) || sections[0];
    for (const section of sections) section.hidden = section !== shown;
    for (const link of links) {
      if (name(link.hash) === shown.dataset.name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  };
  addEventListener("hashchange", () => { show(); scrollTo(0, 0); });
  show();

  // Commands.
  for (const button of document.querySelectorAll(".copy")) {
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

  // Samples: parsed on first use, listed in portions, and each rendered when it is opened.
  const PORTION = 200;
  const dialog = document.querySelector("dialog"), list = document.getElementById("samples");
  const order = new Intl.Collator("en", { numeric: true });
  let data = null;
  const load = () => {
    if (!data) {
      data = JSON.parse(document.getElementById("data").textContent);
      for (const cell of data.cells) {
        cell.samples.sort((a, b) => order.compare(a.example, b.example) || a.sample - b.sample || a.repeat - b.repeat);
      }
    }
    return data;
  };
  const partner = (cell, sample) => {
    const base = cell.baseline === null ? null : data.cells[cell.baseline];
    if (!base || base === cell) return null;
    const same = base.samples.filter((other) => other.example === sample.example && other.repeat === sample.repeat && !other.error);
    return same.find((other) => other.sample === sample.sample) || same.find((other) => other.sample === 0) || null;
  };
  const total = (sample, key) => sample.turns.reduce((sum, turn) => sum + turn[key], 0);
  const headline = (sample) => {
    const scores = Object.entries(sample.scores).map(([key, score]) => `${key} ${score === null ? "–" : Number(score.toFixed(3))}`);
    if (sample.error) return ["failed"];
    const tokens = total(sample, "tokens"), seconds = total(sample, "seconds");
    const speed = seconds > 0 ? [`${(tokens / seconds).toFixed(1)} tok/s`] : [];
    const counted = sample.turns.some((turn) => turn.tokens === null) ? [] : [`${tokens} tokens`];
    return [...scores, ...counted, ...speed, sample.turns.map((turn) => turn.stop).join(", ")];
  };
  const shared = (a, b) => {
    let i = 0;
    while (i < a.length && a[i] === b[i]) i += 1;
    return i > 0 && /[\ud800-\udbff]/.test(a[i - 1]) ? i - 1 : i;
  };
  const output = (text, from) => {
    const block = make("pre", from === null ? text : text.slice(0, from));
    if (from !== null) block.append(make("mark", text.slice(from) || "(ends here)"));
    return block;
  };
  const titled = (title, block) => {
    const part = make("div");
    part.append(make("h3", title), block);
    return part;
  };
  const fill = (panel, cell, sample) => {
    if (sample.error) panel.append(titled("Error", make("pre", sample.error)));
    const base = partner(cell, sample);
    sample.turns.forEach((turn, index) => {
      const which = sample.turns.length > 1 ? ` of turn ${index + 1}` : "";
      const text = data.texts[turn.text], other = base && base.turns[index] ? data.texts[base.turns[index].text] : null;
      if (data.texts[turn.prompt]) panel.append(titled(`Prompt${which}`, make("pre", data.texts[turn.prompt])));
      if (other === null || other === text) {
        panel.append(titled(`Output${which}${other === text ? ", the same as the baseline's" : ""}`, output(text, null)));
        return;
      }
      const pair = make("div", "", { class: "pair" }), from = shared(text, other);
      pair.append(titled(`Output${which}, marked from the first difference`, output(text, from)),
        titled(`Baseline's output${which}`, output(other, from)));
      panel.append(pair);
    });
  };
  const entry = (cell, sample) => {
    const panel = make("details"), line = make("summary", sample.example);
    if (sample.sample || sample.repeat) line.append(make("span", `sample ${sample.sample}, repeat ${sample.repeat}`));
    for (const text of headline(sample)) line.append(make("span", text));
    panel.append(line);
    panel.addEventListener("toggle", () => { if (panel.open) fill(panel, cell, sample); }, { once: true });
    return panel;
  };
  const more = (cell, from) => {
    list.append(...cell.samples.slice(from, from + PORTION).map((sample) => entry(cell, sample)));
    if (from + PORTION >= cell.samples.length) return;
    const button = make("button", `Show more of ${cell.samples.length}`, { type: "button", class: "more" });
    button.addEventListener("click", () => { button.remove(); more(cell, from + PORTION); });
    list.append(button);
  };
  const open = (number) => {
    const cell = load().cells[number];
    document.getElementById("dialog-title").textContent = `${cell.label} on ${cell.task}`;
    list.replaceChildren();
    if (cell.samples.length < cell.total) {
      list.append(make("p", `This page contains ${cell.samples.length} of ${cell.total} samples; the run folder has all of them.`));
    }
    more(cell, 0);
    dialog.showModal();
  };
  for (const button of document.querySelectorAll(".open")) {
    button.addEventListener("click", () => open(Number(button.dataset.cell)));
  }
  root.dataset.ready = "true";
})();
