// The draft of one step, or the hypotheses of a search, as a tree: the accepted path is drawn bold, the rest is grey.
const LAYER = 92, LINE = 18, WIDEST = 12;  // pixels between two depths and two leaves; letters of a token
const spelt = (piece) => piece.replaceAll("\n", "⏎").replaceAll(" ", "␣") || "∅";

// Places: the depth of each node, and a line for each leaf; a parent is beside the middle of its children.
const placed = (parents) => {
  const children = new Map(), depth = [], line = [];
  parents.forEach((parent, node) => {
    depth.push(parent < 0 ? 1 : depth[parent] + 1);
    children.set(parent, [...children.get(parent) ?? [], node]);
  });
  let lines = 0;
  const place = (root) => {  // iterative, because a search may be hundreds of tokens deep
    const stack = [[root, false]];
    while (stack.length) {
      const [node, done] = stack.pop(), below = children.get(node) ?? [];
      if (done) line[node] = sum(below.map((child) => line[child])) / below.length;
      else if (!below.length) { line[node] = lines; lines += 1; }
      else stack.push([node, true], ...below.map((child) => [child, false]).reverse());
    }
  };
  for (const root of children.get(-1) ?? []) place(root);
  return { depth, line, lines };
};
const treeView = (texts, [tokens, parents, path]) => {
  const { depth, line, lines } = placed(parents), chosen = new Set(path), height = LINE * lines + 12;
  const width = LAYER * (Math.max(0, ...depth) + 1);
  const x = (node) => node < 0 ? 6 : LAYER * depth[node] - 60, y = (node) => node < 0 ? height / 2 : LINE * line[node] + 14;
  const picture = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "tree", role: "img",
    "aria-label": `${tokens.length} drafted tokens, ${path.length} accepted: ${path.map((node) => texts[tokens[node]]).join("")}` });
  parents.forEach((parent, node) => picture.append(draw("path", { class: chosen.has(node) ? "taken" : "left",
    d: `M ${parent < 0 ? 6 : x(parent) + 50} ${y(parent)} L ${x(node) - 4} ${y(node) - 4}` })));
  tokens.forEach((token, node) => {
    const piece = spelt(texts[token]);
    picture.append(draw("text", { x: x(node), y: y(node), class: chosen.has(node) ? "taken" : "left" },
      draw("title", {}, `${texts[token]}: ${chosen.has(node) ? "accepted" : "not accepted"}`), piece.length > WIDEST ? `${piece.slice(0, WIDEST - 1)}…` : piece));
  });
  return make("div", { class: "scroll drawn" }, picture);
};
const treesView = (block, turn) => {
  if (!turn.trees) return null;
  const place = make("div"), steps = Object.keys(turn.trees), search = turn.story.kinds?.startsWith("s") && steps.length === 1;
  const pick = make("select", { "aria-label": "Draft of step" }, ...steps.map((step) =>
    make("option", { value: step }, search ? "all hypotheses" : `draft of step ${Number(step) + 1}`)));
  const show = (step) => {
    if (!turn.trees[step]) return;
    pick.value = step;
    place.replaceChildren(treeView(block.texts, turn.trees[step]));
  };
  pick.addEventListener("change", () => show(pick.value));
  show(steps.find((step) => turn.trees[step][2].length) ?? steps[0]);
  return Object.assign(make("div", { class: "trees" }, make("p", { class: "note" }, pick, search ? "" : " A click on a step shows its draft."), place), { show });
};
