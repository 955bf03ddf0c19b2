const COLUMNS = [
  ["task", "Task", (r) => r.task], ["attempt", "Attempt", (r) => r.attempt, "num wide"], ["reward", "Reward", (r) => r.reward === null ? -1e9 : r.reward],
  ["status", "Status", (r) => r.status, "wide"], ["stop", "Ended by", (r) => r.stop || "", "wide"], ["steps", "Steps", (r) => r.steps, "num wide"], ["calls", "Calls", (r) => r.calls, "num wide"],
  ["tokens", "Tokens", (r) => r.tokens, "num wide"], ["cost", "Cost", (r) => r.cost, "num wide"], ["time", "Time", wall, "num"]];
function runCard(run, n) {
  const m = run.summary, c = run.info.config || {}, est = m.interval, mine = state.rows.filter((r) => r.run === n), many = state.runs.length > 1;
  const lost = m.masked ? h("span", { class: "tag warn" }, `${m.masked} not graded`) : null;
  const all = state.rows.map((r) => r.reward).filter((v) => v !== null), low = Math.min(0, ...all), high = Math.max(1, ...all);
  return h("section", { class: "card", "aria-label": `Run ${run.name}` },
    many ? h("h3", null, h("span", { class: `dot r${n % 4}` }), run.name) : null, h("div", { class: "quiet mono" }, [m.env, m.agent, m.model].filter(Boolean).join(" · ")),
    h("div", { class: "score" }, h("span", { class: "big" }, num(m.score)), " ", h("span", { class: "quiet" }, est ? `95 % interval ${num(est[0], 2)} to ${num(est[1], 2)}` : "no interval"), " ", lost),
    m.score === null ? null : whisker(m.score, est, low, high, many ? COLOURS[n % 4] : "var(--a)", `score ${num(m.score)}` + (est ? `, 95 % interval ${num(est[0], 2)} to ${num(est[1], 2)}` : "")),
    h("div", { class: "facts" }, h("span", null, h("b", null, count(m.episodes)), " episodes"), h("span", null, h("b", null, count((c.tasks || []).length)), " tasks"),
      h("span", null, h("b", null, secs(sum(mine.map(wall)))), " in all"), h("span", null, h("b", null, usd(sum(mine.map((r) => r.cost)))))),
    m.warnings && m.warnings.length ? h("ul", { class: "notes" }, m.warnings.map((w) => h("li", null, w))) : null,
    h("details", null, h("summary", null, "Configuration, versions, machine"), h("pre", { class: "cut" }, pretty(run.info))));
}
function matching(query) {
  const words = (query.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  state.rows.forEach((row, n) => {
    if (query.get("run") && String(row.run) !== query.get("run")) return;
    if (query.get("status") && row.status !== query.get("status")) return;
    if (query.get("outcome") && outcome(row) !== query.get("outcome")) return;
    if (query.get("stop") && (row.stop || "") !== query.get("stop")) return;
    const text = `${row.task} ${row.id} ${row.error} ${row.status}`.toLowerCase();
    if (words.every((w) => text.includes(w))) found.push(n);
  });
  const [key, down] = (query.get("sort") || "").split(".");
  const column = COLUMNS.find((c) => c[0] === key);
  if (column) {
    const sign = down ? -1 : 1, value = column[2];
    found.sort((a, b) => { const x = value(state.rows[a]), y = value(state.rows[b]); return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y) || a - b; });
  }
  return found;
}
function change(query, name, value) {
  const next = new URLSearchParams(query);
  if (value) next.set(name, value); else next.delete(name);
  const text = next.toString();
  history.replaceState(null, "", "#/" + (text ? "?" + text : ""));
  return next;
}
function choice(query, name, label, values, redraw) {
  return h("select", { "aria-label": label, onchange: (e) => redraw(change(place().query, name, e.target.value)) },
    h("option", { value: "" }, label), values.map(([value, text]) => h("option", { value, selected: query.get(name) === value }, text)));
}
function overview(query) {
  const body = h("tbody"), told = h("span", { class: "quiet", role: "status" });
  const heads = COLUMNS.map(([key, label, , kind]) => h("th", { class: kind, scope: "col", "data-key": key }, h("button", { onclick: () => {
    const now = place().query.get("sort"); redraw(change(place().query, "sort", now === key ? `${key}.down` : now === `${key}.down` ? "" : key)); } }, label)));
  const many = state.runs.length > 1;
  function make(n) {
    const r = state.rows[n], to = link(["t", r.run, r.id]);
    return h("tr", { class: "open", "data-n": n, onclick: (e) => { if (!e.target.closest("a") && !getSelection().toString()) location.hash = to; } },
      h("td", { class: "task" }, many ? h("span", { class: `dot r${r.run % 4}`, title: runName(r.run) }) : null, h("a", { href: to }, r.task), r.forks ? h("span", { class: "quiet" }, ` · ${r.forks} ${r.forks > 1 ? "forks" : "fork"}`) : null, r.error ? h("div", { class: "quiet mono" }, r.error.slice(0, 120)) : null),
      h("td", { class: "num wide" }, r.attempt), h("td", null, rewardTag(r)), h("td", { class: "wide" }, r.status, r.retries ? h("span", { class: "quiet" }, ` (try ${r.retries + 1})`) : null), h("td", { class: "wide" }, r.stop || "–"),
      h("td", { class: "num wide" }, r.steps), h("td", { class: "num wide" }, r.calls), h("td", { class: "num wide" }, count(r.tokens)), h("td", { class: "num wide" }, usd(r.cost)), h("td", { class: "num" }, secs(wall(r)), h("span", { class: "spent", style: { width: `${Math.max(4, wall(r) / longest * 64)}px` } }, PHASES.map(([p, c]) => h("i", { style: { flex: `${(r.seconds || {})[p] || 0}`, background: c } })))));
  }
  const longest = Math.max(1e-9, ...state.rows.map(wall));
  const OUTCOMES = [["solved", "good"], ["partial", "warn"], ["failed", "bad"], ["not graded", ""]];
  const chips = OUTCOMES.filter(([name]) => state.rows.some((r) => outcome(r) === name)).map(([name, kind]) => h("button", { class: `chip ${kind}`, "aria-pressed": String(query.get("outcome") === name), "data-outcome": name, onclick: (e) => {
    const on = e.currentTarget.getAttribute("aria-pressed") === "true";
    redraw(change(place().query, "outcome", on ? "" : name)); } }, name, h("b", null, count(state.rows.filter((r) => outcome(r) === name).length))));
  function redraw(q) {
    state.shown = matching(q); state.at = -1;
    state.tableLink = location.hash;
    for (const th of heads) {
      const now = q.get("sort") || "", mine = now.split(".")[0] === th.dataset.key;
      th.setAttribute("aria-sort", mine ? (now.endsWith(".down") ? "descending" : "ascending") : "none");
      th.firstChild.textContent = COLUMNS.find((c) => c[0] === th.dataset.key)[1] + (mine ? (now.endsWith(".down") ? " ↓" : " ↑") : "");
    }
    for (const chip of chips) chip.setAttribute("aria-pressed", String(q.get("outcome") === chip.dataset.outcome));
    body.replaceChildren();
    let next = 0;
    more.hidden = true;
    function add() { const part = document.createDocumentFragment(); for (const end = Math.min(next + 200, state.shown.length); next < end; next++) part.append(make(state.shown[next])); body.append(part); more.hidden = next >= state.shown.length; }
    more.onclick = add; add();
    const scored = state.shown.map((n) => state.rows[n].reward).filter((v) => v !== null);
    told.textContent = `${count(state.shown.length)} of ${count(state.rows.length)} trajectories` + (scored.length ? ` · mean reward ${num(sum(scored) / scored.length)}` : "");
  }
  const more = h("button", { class: "more" }, "Show more rows");
  const values = (pick) => [...new Set(state.rows.map(pick).filter(Boolean))].sort().map((v) => [v, v]);
  const filters = h("div", { class: "filters", role: "search", "aria-label": "Filter trajectories" },
    h("input", { type: "search", id: "q", placeholder: "Task, id or error   ( / )", "aria-label": "Search tasks, ids and errors", value: query.get("q") || "", oninput: (e) => redraw(change(place().query, "q", e.target.value)) }),
    many ? choice(query, "run", "All runs", state.runs.map((r, n) => [String(n), r.name]), redraw) : null,
    h("span", { class: "chips", role: "group", "aria-label": "Outcome" }, chips), choice(query, "status", "Any status", values((r) => r.status), redraw), choice(query, "stop", "Any end", values((r) => r.stop), redraw));
  const page = h("div", null, h("div", { class: "title" }, h("h1", null, many ? `${state.runs.length} runs` : runName(0)), many ? h("a", { class: "button", href: link(["c", 0, 1]) }, `Compare ${state.runs.length > 2 ? "the first two" : "them"} task by task`) : null),
    h("div", { class: "cards" }, state.runs.map(runCard)), charts(),
    h("h2", { id: "table" }, "Trajectories"), filters, h("p", null, told), h("div", { class: "scroll" }, h("table", { "aria-labelledby": "table" }, h("thead", null, h("tr", null, heads)), body)), more);
  redraw(query);
  return page;
}
