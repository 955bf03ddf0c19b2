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
      h("p", { class: "pick" }, rewardTag(row), rows.length > 1 ? h("label", null, "attempt ", h("select", { onchange: (e) => { const next = Object.fromEntries(place().query); next[key] = e.target.value; location.hash = link(["c", A, B, task], next); } }, rows.map(([r]) => h("option", { value: r.attempt, selected: r === row }, `${r.attempt}: ${r.reward === null ? r.status : num(r.reward)}`)))) : h("span", { class: "quiet" }, `attempt ${row.attempt}`), h("a", { href: link(["t", row.run, row.id]) }, "open alone")), timeline(row, d, true),
      h("div", { class: "facts" }, [["steps", row.steps], ["calls", row.calls], ["tokens", count(row.tokens)], ["cost", usd(row.cost)]].map(([k, v]) => h("span", null, `${k} `, h("b", null, v)))),
      h("div", { style: { marginTop: "10px" } }, VIEWS[view](row, d, new URLSearchParams())));
  };
  const now = query.get("tab") || "conversation";
  const tabs = ["conversation", "steps", "diff", "files", "verdict"].map((key) => h("a", { href: link(["c", A, B, task], { ...Object.fromEntries(query), tab: key }), "aria-current": key === now ? "page" : null }, TABS.find((t) => t[0] === key)[1]));
  return h("div", null, h("p", { class: "crumbs" }, h("a", { href: link(["c", A, B]) }, "← All tasks of both runs")), h("h1", null, task), h("nav", { class: "tabs", "aria-label": "Parts" }, tabs), h("div", { class: "two" }, await column(A, "a"), await column(B, "b")));
}
function compareAll(A, B) {
  const a = taskMeans(A), b = taskMeans(B), both = [...a.keys()].filter((t) => b.has(t));
  both.sort((x, y) => Math.abs(b.get(y) - a.get(y)) - Math.abs(b.get(x) - a.get(x)) || x.localeCompare(y, "en", { numeric: true }));
  const gaps = both.map((t) => b.get(t) - a.get(t)), better = gaps.filter((g) => g > 0).length, worse = gaps.filter((g) => g < 0).length;
  const pair = (A0, B0) => state.comparisons && state.comparisons[`${A0}/${B0}`];
  const widest = Math.max(1e-9, ...gaps.map(Math.abs)), span = Math.max(1, widest), equal = both.length - better - worse;
  const bar = (g) => h("span", { class: "gap", "aria-hidden": "true" }, h("i", { class: g > 0 ? "up" : "down", style: { width: `${Math.abs(g) / widest * 50}%`, left: g > 0 ? "50%" : `${50 - Math.abs(g) / widest * 50}%` } }));
  const body = h("tbody"), box = h("div", { class: "scroll" }, h("table", { class: "versus" }, h("thead", null, h("tr", null, ["Task", runName(A), runName(B), "Difference", ""].map((x, n) => h("th", { class: n && n < 4 ? "num" : n ? "wide" : null, scope: "col", "aria-label": x ? null : "Difference as a bar" }, x)))), body));
  gradually(body, both, (t) => { const g = b.get(t) - a.get(t); return h("tr", null, h("td", { class: "task" }, h("a", { href: link(["c", A, B, t]) }, t)), h("td", { class: "num" }, num(a.get(t))), h("td", { class: "num" }, num(b.get(t))), h("td", { class: "num" }, h("span", { class: `tag ${g > 0 ? "good" : g < 0 ? "bad" : ""}` }, (g > 0 ? "+" : g < 0 ? "−" : "") + num(Math.abs(g)))), h("td", { class: "wide" }, bar(g))); }, 0, 300);
  const c = pair(A, B), mean = both.length ? sum(gaps) / both.length : null, signed = (v) => (v > 0 ? "+" : v < 0 ? "−" : "") + num(Math.abs(v));
  const use = (run) => { const rows = state.rows.filter((r) => r.run === run), each = (f) => rows.length ? sum(rows.map(f)) / rows.length : 0;
    return h("div", { class: "facts" }, h("span", null, h("span", { class: `dot r${run % 4}` }), h("b", null, runName(run))), h("span", null, "score ", h("b", null, num(state.runs[run].summary.score))), h("span", null, "an episode ", h("b", null, secs(each(wall)))), h("span", null, h("b", null, count(Math.round(each((r) => r.tokens)))), " tokens"), h("span", null, h("b", null, usd(each((r) => r.cost))))); };
  return h("div", null, h("p", { class: "crumbs" }, h("a", { href: "#/" }, "← All trajectories")), h("h1", null, h("span", { class: `dot r${B % 4}` }), runName(B), h("span", { class: "quiet" }, " against "), h("span", { class: `dot r${A % 4}` }), runName(A)),
    h("div", { class: "cards" }, card("Difference of the means", null, h("div", { class: "score" }, h("span", { class: "big" }, mean === null ? "–" : signed(mean)), " ", h("span", { class: "quiet" }, c && c.interval ? `95 % interval ${signed(c.interval[0])} to ${signed(c.interval[1])}` : "no interval")),
      mean === null ? null : whisker(mean, c && c.interval, -span, span, "var(--a)", `mean difference ${signed(mean)}`), h("div", { class: "quiet" }, c ? `permutation test p = ${num(c.p_value, 4)}` : "")),
    card("Tasks that both graded", null, h("div", { class: "split", "aria-hidden": "true" }, [[worse, "var(--bad)"], [equal, "var(--start)"], [better, "var(--good)"]].map(([n, colour]) => n ? h("i", { style: { flex: String(n), background: colour } }) : null)), h("p", null, `${count(both.length)} tasks: ${better} better, ${equal} equal, ${worse} worse.`), use(A), use(B))), box);
}
