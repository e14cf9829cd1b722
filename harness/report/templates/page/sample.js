// One prompt: the answers of one to four strategies, how their tokens came to be, and where they differ.
const KINDS = {
  a: ["accepted", "accepted draft"], b: ["bonus", "bonus after a draft that was accepted whole"],
  c: ["corrected", "the model's own, where the draft was rejected"], o: ["own", "without a draft"],
  s: ["chosen", "chosen among candidates, as in a search"],
};
const MOST = 4;
// The place of a sampled token among all tokens by the model's logits, in three groups.
const RANKS = { first: "rank 1", near: "rank 2–10", far: "rank above 10" };
const nearness = (rank) => rank === 1 ? "first" : rank <= 10 ? "near" : "far";
const tally = (names) => names.reduce((found, name) => ({ ...found, [name]: (found[name] ?? 0) + 1 }), {});

// The tokens of a turn in steps: [{ number, drafted, accepted, ms, tokens: [[kind, text, start, rank]] }]
const stepsOf = (turn, whole) => {
  const { kinds, lengths, tokens, drafted, accepted, ranks, ms } = turn.story, steps = [];
  let token = 0, at = 0;
  for (const [number, count] of (tokens ?? Array(kinds.length).fill(1)).entries()) {
    const step = { number, drafted: drafted?.[number] ?? 0, accepted: accepted?.[number] ?? 0, ms: ms?.[number] ?? null, tokens: [] };
    for (let last = token + count; token < last; token += 1) {
      const length = lengths ? lengths[token] : 0;
      step.tokens.push([kinds[token], whole.slice(at, at + length), at, ranks?.[token]]);
      at += length;
    }
    steps.push(step);
  }
  return steps;
};
const candidates = ({ drafted, accepted, tokens }) => !drafted ? "" : tokens[0]?.[0] === "s" ? `${drafted} candidates, ` : `${drafted} drafted, ${accepted} accepted, `;
const aboutStep = (step) => `step ${step.number + 1}: ${candidates(step)}`
  + `${step.tokens.length} token${step.tokens.length === 1 ? "" : "s"}${step.ms === null ? "" : `, ${short(step.ms)} ms`}`;

const tokensView = (block, turn, whole) => {
  const steps = stepsOf(turn, whole), view = make("pre", { class: "tokens" });
  for (const step of steps) {
    view.append(make("span", { class: "step", "data-step": step.number, "data-ms": step.ms ?? 0, title: aboutStep(step) }, ...step.tokens.map(([kind, piece, at, rank]) => make("span", {
      class: `token ${KINDS[kind][0]}${rank ? ` ${nearness(rank)}` : ""}${at >= turn.end ? " after-stop" : ""}`,
      title: `${aboutStep(step)}\n${KINDS[kind][1]}${rank ? `\nrank ${rank} of the model's distribution` : ""}` }, piece))));
  }
  const counts = tally([...turn.story.kinds]), ranks = tally((turn.story.ranks ?? []).map(nearness));
  const legend = make("p", { class: "legend" }, ...Object.entries(KINDS).filter(([kind]) => counts[kind]).map(([kind, [name, title]]) =>
    make("span", { title }, make("span", { class: `token ${name}` }, name), ` ${counts[kind]}`)),
    ...Object.entries(RANKS).filter(([name]) => ranks[name]).map(([name, words]) =>
      make("span", { title: "of the model's distribution" }, make("span", { class: `token ${name}` }, words), ` ${ranks[name]}`)));
  const trees = treesView(block, turn), story = make("div", {}, legend, view, ribbon(steps), trees ?? "", stepTable(steps));
  if (trees) story.addEventListener("click", ({ target }) => trees.show(target.closest("[data-step]")?.dataset.step));
  return story;
};

// A bar for each step: as wide as its time, as high as its tokens.
const ribbon = (steps) => {
  const time = sum(steps.map(({ ms }) => ms ?? 0)), most = Math.max(...steps.map(({ tokens }) => tokens.length));
  if (!time) return null;
  const picture = draw("svg", { viewBox: "0 0 1000 44", preserveAspectRatio: "none", class: "ribbon", role: "img",
    "aria-label": `${steps.length} steps in ${short(time)} ms` });
  let at = 0;
  for (const step of steps) {
    const width = 1000 * step.ms / time, own = step.tokens.filter(([kind]) => kind !== "a").length;
    const bar = (from, count, name) => count ? draw("rect", { x: at, width: Math.max(0.5, width - 0.6), y: 42 - 40 * (from + count) / most, height: 40 * count / most, class: name }) : null;
    picture.append(draw("g", { "data-step": step.number }, draw("title", {}, aboutStep(step)),
      draw("rect", { x: at, y: 0, width, height: 44, class: "nothing" }),
      ...[bar(0, step.tokens.length - own, "accepted"), bar(step.tokens.length - own, own, "own")].filter(Boolean)));
    at += width;
  }
  return make("figure", {}, picture, make("figcaption", {}, `${steps.length} step${steps.length === 1 ? "" : "s"} in ${short(time)} ms: as wide as their time, as high as their tokens.`));
};
const stepTable = (steps) => {
  const table = make("details", {}, make("summary", {}, "Steps as a table")), ranked = steps.some(({ tokens }) => tokens.some(([, , , rank]) => rank));
  table.addEventListener("toggle", () => {
    if (table.childElementCount > 1) return;
    table.append(make("table", {}, make("thead", {}, make("tr", {}, ...["step", "text", ...(ranked ? ["rank"] : []), "drafted", "accepted", "ms"].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...steps.map((step) => make("tr", {}, make("td", {}, String(step.number + 1)),
        make("td", {}, make("code", {}, step.tokens.map(([, piece]) => piece).join("|"))), ranked ? make("td", {}, step.tokens.map(([, , , rank]) => rank).join("|")) : "", make("td", {}, String(step.drafted)),
        make("td", {}, String(step.accepted)), make("td", {}, short(step.ms)))))));
  });
  return table;
};

// Words that a text does not share with another one: the rest of their longest common subsequence.
const words = (text) => text.match(/\s+|[^\s\w]|\w+/gu) ?? [];
const changed = (mine, theirs) => {
  const a = words(mine), b = words(theirs);
  if (a.length * b.length > 4e6) return a.map((word, index) => [word, word !== b[index]]);
  const best = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      best[i][j] = a[i] === b[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
    }
  }
  const found = [];
  for (let i = 0, j = 0; i < a.length;) {
    if (j < b.length && a[i] === b[j]) { found.push([a[i], false]); i += 1; j += 1; }
    else if (j < b.length && best[i][j + 1] > best[i + 1][j]) j += 1;
    else { found.push([a[i], true]); i += 1; }
  }
  return found;
};
const differences = (mine, theirs) => {
  const view = make("pre");
  for (const [word, own] of changed(mine, theirs)) view.append(own ? make("mark", {}, word) : word);
  return view;
};

const facts = (cell, sample) => {
  const scores = Object.entries(sample.scores).map(([name, score]) => `${name} ${score === null ? "–" : short(score)}`);
  const seconds = sum(sample.turns.map((turn) => turn.seconds ?? NaN)), tokens = sum(sample.turns.map((turn) => turn.tokens ?? NaN));
  const speed = seconds > 0 && tokens ? [`${tokens} tokens in ${short(seconds)} s (${short(tokens / seconds)} tok/s)`] : [];
  const steps = sum(sample.turns.map((turn) => turn.story.tokens?.length ?? turn.story.kinds?.length ?? NaN));
  return [...scores, sample.reason, ...speed, cell.drafts && tokens > steps ? `${short(tokens / steps)} tokens a step` : "",
    `ended by ${sample.turns.map((turn) => turn.stop).join(", ")}`].filter(Boolean);
};
const column = (block, cell, sample, other, same, options) => {  // same: whose text `other` is, if it may be said
  const part = make("article", {}, make("h3", {}, make("span", { class: "dot", style: `background: ${cell.colour}` }), cell.label));
  if (!sample) return filled(part, {}, [make("p", {}, "No sample of this prompt.")]);
  if (sample.error) return filled(part, {}, [make("p", { class: "bad" }, "failed"), make("pre", {}, sample.error)]);
  part.append(make("p", { class: wrong({ error: false, score: sample.scores[cell.metric] ?? null }) ? "facts wrong" : "facts" }, facts(cell, sample).join(" · ")));
  sample.turns.forEach((turn, index) => {
    const whole = block.texts[turn.text], theirs = other?.turns[index] ? block.texts[other.turns[index].text] : null;
    if (sample.turns.length > 1) part.append(make("h4", {}, `Turn ${index + 1}`));
    const compared = theirs !== null && options.get("show") !== "tokens";
    if (same && theirs === whole) part.append(make("p", { class: "note" }, `The same text as ${same}'s.`));
    part.append(compared ? differences(whole, theirs) : turn.story.lengths ? tokensView(block, turn, whole) : make("pre", {}, whole));
    if (!compared && turn.story.kinds && !turn.story.lengths) part.append(ribbon(stepsOf(turn, whole)) ?? "");
  });
  return part;
};

let asked = 0;
const sampleView = async (section, [task, example, ...labels], options) => {
  const turn = asked += 1, data = await load(), here = data.cells.filter((cell) => cell.task === task && cell.rows.examples.length);
  const chosen = labels.map((label) => here.find((cell) => cell.label === label)).filter(Boolean);
  if (!chosen.length) { location.hash = address([task], options); return; }
  const examples = examplesOf(data, chosen.slice(0, 1), options), place = examples.indexOf(example);
  const number = Number(options.get("sample") ?? 0);
  const block = await blockOf(data, task, example).catch((error) => { section.replaceChildren(make("p", { class: "warning" }, error.message)); });
  if (turn !== asked || block === undefined) return;  // another prompt was asked for meanwhile, or the answers are missing
  const samples = chosen.map((cell) => { const found = answersTo(block, cell, example); return found[number] ?? found[0]; });
  const first = samples.find((sample) => sample && !sample.error), base = data.cells[chosen[0].baseline];
  const to = (step) => place + step >= 0 && place + step < examples.length ? address([task, examples[place + step], ...labels], options) : null;
  const link = (name, words, href) => make("a", { class: "button", id: name, href, "aria-disabled": href ? null : "true" }, words);
  const without = (label) => address([task, example, ...labels.filter((other) => other !== label)], options);
  const add = make("select", { "aria-label": "Compare with another strategy" }, make("option", { value: "" }, "compare with …"),
    ...here.filter((cell) => !chosen.includes(cell)).map((cell) => make("option", {}, cell.label)));
  add.addEventListener("change", () => { location.hash = address([task, example, ...labels, add.value], options); });
  const toggle = (name, value, words) => {
    const box = make("input", { type: "checkbox", checked: options.get(name) === value });
    box.addEventListener("input", () => change(name, box.checked ? value : ""));
    return make("label", {}, box, ` ${words}`);
  };
  const several = Math.max(...samples.map((_, index) => chosen[index].byExample.get(example)?.length ?? 0));
  const pick = make("select", { "aria-label": "Sample" }, ...Array.from({ length: several }, (_, index) =>
    make("option", { value: index, selected: index === number }, `sample ${index + 1} of ${several}`)));
  pick.addEventListener("change", () => change("sample", pick.value === "0" ? "" : pick.value));
  section.replaceChildren(
    make("h2", { class: "crumbs" }, make("a", { href: address([task], options) }, task), ` / ${example}`),
    make("div", { class: "tools" }, link("previous", "← previous", to(-1)), link("next", "next →", to(1)),
      make("span", {}, place < 0 ? "" : `${place + 1} of ${examples.length}`), toggle("only", "wrong", "wrong only"),
      toggle("only", "different", "differs from the baseline only"), several > 1 ? pick : "", chosen.length < MOST ? add : "",
      chosen.length > 1 ? toggle("show", "tokens", "show steps in place of differences") : "",
      chosen.length === 1 || options.get("show") === "tokens" ? playButton(section) : "",
      chosen.length === 1 && base && base !== chosen[0] ? make("a", { class: "button", href: address([task, example, base.label, ...labels], options) }, `compare with ${base.label}`) : ""),
    ...(first?.turns ?? []).map((turn, index) => block.texts[turn.prompt] ? make("details", { open: index === 0 },
      make("summary", {}, first.turns.length > 1 ? `Prompt of turn ${index + 1}` : "Prompt"), make("pre", { class: "prompt" }, block.texts[turn.prompt])) : ""),
    block?.expected[example] !== undefined ? make("details", { open: true }, make("summary", {}, "Expected"), make("pre", {}, block.texts[block.expected[example]])) : "",
    make("div", { class: "columns", style: `--columns: ${chosen.length}` }, ...chosen.map((cell, index) => {
      const view = column(block, cell, samples[index], samples[index ? 0 : 1] ?? null, index ? chosen[0].label : "", options);
      if (chosen.length > 1) view.append(make("a", { href: without(cell.label) }, `remove ${cell.label}`));
      return view;
    })));
};
addEventListener("keydown", (event) => {
  if (event.target.closest?.("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  const button = { ArrowLeft: "#previous", k: "#previous", ArrowRight: "#next", j: "#next" }[event.key];
  const link = button && !one("#sample").hidden ? one(button) : null;
  if (link?.href) { event.preventDefault(); location.hash = link.hash; }
});
const light = ({ target }, on) => {
  const step = target.closest?.("[data-step]"), article = step?.closest("article");
  if (article) for (const part of all(`[data-step="${step.dataset.step}"]`, article)) part.classList.toggle("lit", on);
};
addEventListener("mouseover", (event) => light(event, true));
addEventListener("mouseout", (event) => light(event, false));
