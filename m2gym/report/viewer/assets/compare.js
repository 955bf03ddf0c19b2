function taskMeans(run) {
  const found = new Map();
  for (const r of state.rows) if (r.run === run && r.reward !== null) { if (!found.has(r.task)) found.set(r.task, []); found.get(r.task).push(r.reward); }
  return new Map([...found].map(([task, all]) => [task, sum(all) / all.length]));
}
async function compare(a, b, task, query) {
  const A = +a, B = +b;
  if (!state.runs[A] || !state.runs[B]) return h("p", null, "There are no two such runs here. ", h("a", { href: "#/" }, "To the table"));
  if (task === undefined) return compareAll(A, B);
  const column = async (run, key) => {
    const rows = state.rows.map((r, n) => [r, n]).filter(([r]) => r.run === run && r.task === task).sort((x, y) => x[0].attempt - y[0].attempt);
    const named = h("h2", null, h("span", { class: `dot r${run % 4}` }), runName(run));
    if (!rows.length) return h("section", { "aria-label": runName(run) }, named, h("p", { class: "quiet" }, "This run has no such task."));
    const pick = rows.find(([r]) => String(r.attempt) === query.get(key)) || rows[0], [row, n] = pick, d = await load(n);
    const view = VIEWS[query.get("tab")] ? query.get("tab") : "conversation";
    return h("section", { "aria-label": runName(run) }, named,
      rows.length > 1 ? h("label", null, "Attempt ", h("select", { onchange: (e) => { const next = Object.fromEntries(place().query); next[key] = e.target.value; location.hash = link(["c", A, B, task], next); } }, rows.map(([r]) => h("option", { value: r.attempt, selected: r === row }, `${r.attempt}: ${r.reward === null ? r.status : num(r.reward)}`)))) : null,
      h("p", null, rewardTag(row), " ", h("a", { href: link(["t", row.run, row.id]) }, "open alone")), timeline(row, d),
      h("div", { class: "facts" }, [["steps", row.steps], ["calls", row.calls], ["tokens", count(row.tokens)], ["cost", usd(row.cost)]].map(([k, v]) => h("span", null, `${k} `, h("b", null, v)))),
      h("div", { style: { marginTop: "10px" } }, VIEWS[view](row, d, new URLSearchParams())));
  };
  const now = query.get("tab") || "conversation";
  const tabs = ["conversation", "steps", "diff", "files", "verdict"].map((key) => h("a", { href: link(["c", A, B, task], { ...Object.fromEntries(query), tab: key }), "aria-current": key === now ? "page" : null }, TABS.find((t) => t[0] === key)[1]));
  return h("div", null, h("p", null, h("a", { href: link(["c", A, B]) }, "← All tasks of both runs")), h("h1", null, task), h("nav", { class: "tabs", "aria-label": "Parts" }, tabs), h("div", { class: "two" }, await column(A, "a"), await column(B, "b")));
}
function compareAll(A, B) {
  const a = taskMeans(A), b = taskMeans(B), both = [...a.keys()].filter((t) => b.has(t));
  both.sort((x, y) => Math.abs(b.get(y) - a.get(y)) - Math.abs(b.get(x) - a.get(x)) || x.localeCompare(y, "en", { numeric: true }));
  const gaps = both.map((t) => b.get(t) - a.get(t)), better = gaps.filter((g) => g > 0).length, worse = gaps.filter((g) => g < 0).length;
  const pair = (A0, B0) => state.comparisons && state.comparisons[`${A0}/${B0}`];
  const body = h("tbody"), box = h("div", { class: "scroll" }, h("table", null, h("thead", null, h("tr", null, ["Task", runName(A), runName(B), "Difference"].map((x, n) => h("th", { class: n ? "num" : null, scope: "col" }, x)))), body));
  gradually(body, both, (t) => { const g = b.get(t) - a.get(t); return h("tr", null, h("td", { class: "task" }, h("a", { href: link(["c", A, B, t]) }, t)), h("td", { class: "num" }, num(a.get(t))), h("td", { class: "num" }, num(b.get(t))), h("td", { class: "num" }, h("span", { class: `tag ${g > 0 ? "good" : g < 0 ? "bad" : ""}` }, (g > 0 ? "+" : "") + num(g)))); }, 0, 300);
  const c = pair(A, B);
  return h("div", null, h("p", null, h("a", { href: "#/" }, "← All trajectories")), h("h1", null, h("span", { class: `dot r${B % 4}` }), runName(B), h("span", { class: "quiet" }, " against "), h("span", { class: `dot r${A % 4}` }), runName(A)),
    h("p", null, `${count(both.length)} tasks that both graded: ${better} better, ${both.length - better - worse} equal, ${worse} worse; mean difference ${both.length ? num(sum(gaps) / both.length) : "–"}`, c && c.interval ? `, 95 % interval ${num(c.interval[0])} to ${num(c.interval[1])}, permutation test p = ${num(c.p_value, 4)}` : "", "."), box);
}
