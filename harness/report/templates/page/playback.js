// Playback: the steps of all answers in view appear at the times at which they were decoded.
const playback = (section) => {
  const lanes = all("article", section).map((article) => all(".tokens .step", article)).filter(({ length }) => length);
  const timed = lanes.map((steps) => {
    let at = 0;
    return steps.map((step) => [step, at += Number(step.dataset.ms)]);
  });
  const last = Math.max(0, ...timed.map((steps) => steps.at(-1)[1])), start = performance.now();
  if (!last) return;
  const clock = one(".clock", section);
  const frame = () => {
    const passed = performance.now() - start;
    for (const steps of timed) for (const [step, at] of steps) step.classList.toggle("unborn", at > passed);
    clock.textContent = passed < last ? `${(passed / 1000).toFixed(1)} s` : `${(last / 1000).toFixed(1)} s for the slowest`;
    if (passed < last && section.contains(clock)) setTimeout(frame, 30);
  };
  frame();
};
const playButton = (section) => {
  const button = make("button", { type: "button", class: "button" }, "play at recorded times");
  button.addEventListener("click", () => playback(section));
  return make("span", {}, button, " ", make("span", { class: "clock", role: "timer" }));
};
