const COLOURS = ["var(--a)", "var(--b)", "var(--grade)", "var(--wait)"];
const PHASES = [["start", "var(--start)"], ["agent", "var(--agent)"], ["grade", "var(--grade)"]];
function card(title, note, ...kids) {
  return h("section", { class: "card", "aria-label": title }, h("h3", null, title), note && h("div", { class: "quiet mono" }, note), ...kids);
}
// A mean with its interval on a line from low to high.
function whisker(mean, interval, low, high, colour, label) {
  const W = 320, x = (v) => 6 + (Math.max(low, Math.min(high, v)) - low) / (high - low || 1) * (W - 12);
  return s("svg", { viewBox: `0 0 ${W} 30`, class: "whisker", role: "img", "aria-label": label }, s("line", { x1: 6, x2: W - 6, y1: 10, y2: 10, style: { stroke: "var(--line)" } }),
    low < 0 && high > 0 ? s("line", { x1: x(0), x2: x(0), y1: 3, y2: 17, style: { stroke: "var(--quiet)", strokeDasharray: "2 2" } }) : null,
    interval ? s("rect", { x: x(interval[0]), width: Math.max(2, x(interval[1]) - x(interval[0])), y: 7, height: 6, rx: 3, style: { fill: colour, opacity: 0.35 } }) : null,
    mean === null || mean === undefined ? null : s("circle", { cx: x(mean), cy: 10, r: 5, style: { fill: colour } }),
    s("text", { x: 6, y: 28 }, num(low, 2)), s("text", { x: W - 6, y: 28, "text-anchor": "end" }, num(high, 2)));
}
function histogram(values, name, say, title) {
  const all = values.flat();
  if (!all.length) return null;
  const low = Math.min(0, ...all), high = Math.max(...all, low + 1e-9), bins = 12;
  const counts = values.map((one) => { const c = Array(bins).fill(0); one.forEach((v) => c[Math.min(bins - 1, Math.floor((v - low) / (high - low) * bins))]++); return c; });
  const top = Math.max(1, ...counts.flat()), W = 320, H = 110, step = W / bins;
  const bars = counts.flatMap((c, r) => c.map((n, i) => n ? s("rect", { x: i * step + 1 + r * (step - 2) / counts.length, y: H - n / top * H, width: Math.max(1, (step - 3) / counts.length), height: n / top * H, rx: 1.5, style: { fill: COLOURS[r % 4] } }, s("title", null, `${runName(r)}: ${n} from ${say(low + i * (high - low) / bins)} to ${say(low + (i + 1) * (high - low) / bins)}`)) : null));
  return card(title, null, s("svg", { viewBox: `0 -4 ${W} ${H + 22}`, role: "img", "aria-label": `${title}: ${name}, from ${say(low)} to ${say(high)}, highest bar ${top}` }, bars, s("line", { x1: 0, x2: W, y1: H, y2: H, style: { stroke: "var(--line)" } }), s("text", { x: 0, y: H + 15 }, say(low)), s("text", { x: W, y: H + 15, "text-anchor": "end" }, say(high))));
}
function phases() {
  const means = state.runs.map((_, r) => { const rows = state.rows.filter((x) => x.run === r); return PHASES.map(([p]) => rows.length ? sum(rows.map((x) => (x.seconds || {})[p] || 0)) / rows.length : 0); });
  const top = Math.max(1e-9, ...means.map(sum)), W = 320, line = 34;
  const bars = means.flatMap((m, r) => { let x = 0; return [s("text", { x: 0, y: r * line + 10 }, `${runName(r)}: ${secs(sum(m))}`.slice(0, 52)), ...m.map((v, i) => { const w = v / top * W, node = s("rect", { x, y: r * line + 15, width: Math.max(0, w), height: 11, style: { fill: PHASES[i][1] } }, s("title", null, `${PHASES[i][0]} ${secs(v)}`)); x += w; return node; })]; });
  return card("Mean time an episode", null, s("svg", { viewBox: `0 0 ${W} ${means.length * line}`, role: "img", "aria-label": means.map((m, r) => `${runName(r)}: ${PHASES.map(([p], i) => `${p} ${secs(m[i])}`).join(", ")}`).join("; ") }, bars), h("div", { class: "legend" }, PHASES.map(([p, c]) => h("span", null, h("i", { style: { background: c } }), p))));
}
function charts() {
  const of = (pick) => state.runs.map((_, r) => state.rows.filter((x) => x.run === r).map(pick).filter((v) => v !== null && v !== undefined));
  const costs = of((x) => x.cost), tokens = of((x) => x.tokens);
  return h("div", { class: "cards" },
    histogram(of((x) => x.reward), "rewards", (v) => num(v, 2), "Rewards"), phases(),
    sum(costs.flat()) > 0 ? histogram(costs, "cost", usd, "Cost an episode") : sum(tokens.flat()) > 0 ? histogram(tokens, "tokens", (v) => count(Math.round(v)), "Tokens an episode") : histogram(of((x) => x.steps), "steps", (v) => num(v, 0), "Steps an episode"));
}
