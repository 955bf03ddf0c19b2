const TABS = [["conversation", "Conversation"], ["steps", "Steps"], ["tokens", "Tokens"], ["tree", "Forks"], ["diff", "Diff"], ["files", "Files"], ["verdict", "Verdict"], ["raw", "Record"]];
function content(value) {
  if (value === null || value === undefined || value === "") return null;
  if (typeof value === "string") return h("div", { class: "text" }, rich(value));
  if (!Array.isArray(value)) return h("pre", null, pretty(value));
  return value.map((block) => {
    const url = block && block.image_url && (block.image_url.url || block.image_url);
    if (typeof url === "string" && /^data:image\//.test(url)) return h("img", { class: "shown", src: url, alt: "image in a message" });
    return block && typeof block.text === "string" ? h("div", { class: "text" }, rich(block.text)) : h("pre", null, pretty(block));
  });
}
// Two texts as lines of a diff: what they share at both ends is context.
function edited(was, now) {
  const a = was.replace(/\n$/, "").split("\n"), b = now.replace(/\n$/, "").split("\n");
  let top = 0, end = 0;
  while (top < a.length && top < b.length && a[top] === b[top]) top++;
  while (end < a.length - top && end < b.length - top && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const line = (kind, mark) => (text) => h("div", { class: kind }, mark + text);
  return h("div", { class: "diff bare", tabindex: "0", role: "region", "aria-label": "edit" }, a.slice(0, top).map(line(null, " ")), a.slice(top, a.length - end).map(line("del", "-")), b.slice(top, b.length - end).map(line("add", "+")), a.slice(a.length - end).map(line(null, " ")));
}
// Brought into view again once what was drawn meanwhile has its real height.
function bring(id) {
  const go = () => { const node = by(id); if (node) node.scrollIntoView({ block: "center" }); };
  requestAnimationFrame(() => { go(); setTimeout(go, 90); });
}
function callCard(call) {
  const f = call.function || call.custom || call;
  const given = f.arguments !== undefined ? f.arguments : f.input;
  let shown = h("pre", null, typeof given === "string" ? json(given) : pretty(given));
  try {
    const parsed = typeof given === "string" ? JSON.parse(given) : given, keys = Object.keys(parsed);
    const [was, now] = [["old", "new"], ["old_string", "new_string"], ["old_str", "new_str"]].find(([x, y]) => typeof parsed[x] === "string" && typeof parsed[y] === "string") || [];
    const short = (v) => v === null || typeof v !== "object" && String(v).length < 80 && !String(v).includes("\n");
    if (!keys.length) shown = null;
    else if (was) shown = [keys.filter((k) => k !== was && k !== now).map((k) => h("div", { class: "mono quiet" }, `${k}: ${pretty(parsed[k])}`)), edited(parsed[was], parsed[now])];
    else if (keys.length > 1 && keys.every((k) => short(parsed[k]))) shown = h("div", { class: "facts mono" }, keys.map((k) => h("span", null, `${k} `, h("b", null, String(parsed[k])))));
    else if (keys.every((k) => typeof parsed[k] === "string")) shown = keys.map((k) => [keys.length > 1 ? h("div", { class: "quiet mono" }, k) : null, h("pre", { class: "cut", tabindex: "0" }, parsed[k])]);
  } catch { /* as it is */ }
  return h("div", { class: "call" }, h("b", null, f.name || "call"), " ", h("span", { class: "quiet mono" }, call.id || ""), shown);
}
function message(m, note, at, to) {
  const role = String(m.role || "assistant");
  const think = m.reasoning_content;
  return h("article", { class: `msg ${["assistant", "tool", "user", "system"].includes(role) ? role : ""}`, id: at, "aria-label": `${role} ${note || ""}` },
    h("header", null, h("b", null, role), note ? h("span", null, note) : null, m.tool_call_id && !note ? h("span", { class: "mono" }, m.tool_call_id) : null, to ? h("a", { href: to, "aria-label": "link to this turn" }, "#") : null),
    think ? h("details", null, h("summary", null, `Thinking (${count(String(think).length)} characters)`), h("div", { class: "think text" }, think)) : null,
    role === "system" && String(m.content || "").length > 400 ? h("details", null, h("summary", null, `System prompt (${count(String(m.content).length)} characters)`), content(m.content)) : role === "tool" && typeof m.content === "string" ? h("pre", { class: "cut", tabindex: "0" }, m.content || "(nothing)") : content(m.content),
    (m.tool_calls || []).map(callCard));
}
function leaves(list) {
  const inner = new Set(list.map((c) => c.parent).filter((p) => p !== null && p !== undefined));
  return list.map((_, n) => n).filter((n) => !inner.has(n));
}
function pathTo(list, leaf) {
  const path = [];
  for (let n = leaf; n !== null && n !== undefined; n = list[n].parent) path.push(n);
  return path.reverse();
}
const depthOf = (list, n) => pathTo(list, n).length;
function conversation(row, d, query) {
  const list = d.trajectory.completions || [];
  if (!list.length) return h("div", null, h("p", { class: "quiet" }, "No model was called; these are the steps."), steps(row, d, query));
  const ends = leaves(list), longest = ends.reduce((a, b) => depthOf(list, b) > depthOf(list, a) ? b : a);
  const asked = query.get("leaf"), at = query.get("at");
  const target = at !== null && list[+at] ? +at : null;
  let leaf = asked !== null && list[+asked] ? +asked : longest;
  if (asked === null && target !== null) leaf = ends.find((e) => pathTo(list, e).includes(target)) ?? leaf;
  const items = [], named = new Map();
  pathTo(list, leaf).forEach((n, turn) => {
    const c = list[n], to = link(["t", row.run, row.id, "conversation"], { leaf: ends.length > 1 ? leaf : "", at: String(n) });
    for (const m of c.messages || []) items.push({ m, note: m.tool_call_id && named.has(m.tool_call_id) ? `answer of ${named.get(m.tool_call_id)}` : null, at: null, to: null });
    for (const call of (c.message || {}).tool_calls || []) named.set(call.id, (call.function || call.custom || call).name || "a call");
    const used = c.usage || {}, drift = c.drift ? ` · drift ${c.drift}` : "";
    items.push({ m: c.message || {}, n, at: `turn-${n}`, to, note: `turn ${turn + 1} · ${count(used.prompt_tokens || 0)} → ${count(used.completion_tokens || 0)} tokens${c.finish_reason && c.finish_reason !== "stop" && c.finish_reason !== "tool_calls" ? " · " + c.finish_reason : ""}${drift}` });
  });
  const box = h("div");
  const found = items.findIndex((i) => i.n === target);
  gradually(box, items, (i) => { const node = message(i.m, i.note, i.at, i.to); if (i.n === target && target !== null) node.classList.add("target"); return node; }, Math.max(0, found));
  if (target !== null) bring(`turn-${target}`);
  const faults = (d.trajectory.faults || []).length;
  return h("div", null, ends.length > 1 ? h("p", null, h("label", null, "Branch ", h("select", { onchange: (e) => { location.hash = link(["t", row.run, row.id, "conversation"], { leaf: e.target.value }); } }, ends.map((e) => h("option", { value: e, selected: e === leaf }, `to call ${e + 1} (${depthOf(list, e)} turns)`))))) : null,
    faults ? h("p", { class: "quiet" }, `${faults} calls of the model failed; see the verdict.`) : null, box);
}
function steps(row, d, query) {
  const list = d.trajectory.steps || [], box = h("div"), at = query.get("at");
  if (!list.length) return h("p", { class: "quiet" }, "No steps.");
  gradually(box, list, (step, n) => {
    const a = step.action, text = typeof a === "string" ? a : a && a.arguments && Object.keys(a.arguments).length === 1 ? `${a.name}: ${Object.values(a.arguments)[0]}` : pretty(a);
    const code = step.info && step.info.exit_code;
    return h("article", { class: `msg${String(n) === at ? " target" : ""}`, id: `step-${n}`, "aria-label": `step ${n + 1}` }, h("header", null, h("b", null, `Step ${n + 1}`), secs(step.seconds || 0), code ? h("span", { class: "tag bad" }, `exit ${code}`) : null, h("a", { href: link(["t", row.run, row.id, "steps"], { at: String(n) }), "aria-label": "link to this step" }, "#")),
      h("pre", null, h("b", null, text)), step.observation ? h("pre", { class: "cut quiet", tabindex: "0" }, step.observation) : null);
  }, +at || 0);
  if (at !== null) bring(`step-${at}`);
  return box;
}
function shade(logprob) {
  const p = Math.exp(logprob), doubt = Math.min(1, -logprob / 4);
  return p > 0.97 ? "transparent" : `color-mix(in srgb, ${logprob < -2.3 ? "var(--bad)" : "var(--wait)"} ${Math.round(14 + doubt * 46)}%, transparent)`;
}
function tokens(row, d, query) {
  const list = (d.trajectory.completions || []).map((c, n) => ({ ...c, n })).filter((c) => (c.response_ids || []).length || (c.prompt_ids || []).length);
  if (!list.length) return h("p", { class: "quiet" }, "This model gave no token ids.");
  const text = d.tokens || {}, word = (id) => text[id];
  const box = h("div");
  gradually(box, list, (c) => {
    const prompt = c.prompt_ids || [], out = c.response_ids || [], lps = c.logprobs || [], versions = [...new Set(c.weight_versions || [])];
    const mean = lps.length ? sum(lps) / lps.length : null;
    const one = (id, n, masked) => { const lp = masked ? undefined : lps[n], known = word(id);
      return h("span", { class: (masked ? "mask" : "own") + (known === undefined ? " id" : ""), title: `id ${id}` + (masked ? ", masked: not trained on" : lp === undefined ? "" : `, p ${Math.exp(lp).toFixed(4)}, logprob ${lp.toFixed(4)}`) + (masked || !(c.weight_versions || []).length ? "" : `, weights ${c.weight_versions[n]}`), style: lp === undefined ? {} : { background: shade(lp) } }, known === undefined ? String(id) : known); };
    const head = prompt.length > 400 ? prompt.slice(-200) : prompt;
    return h("article", { class: "msg", "aria-label": `tokens of call ${c.n + 1}` }, h("header", null, h("b", null, `Call ${c.n + 1}`), h("span", null, `${count(prompt.length)} prompt ids masked, ${count(out.length)} own`), mean === null ? null : h("span", null, `mean logprob ${mean.toFixed(3)}`), versions.length ? h("span", null, `weights ${versions.join(", ")}`) : null),
      h("div", { class: "tok" }, prompt.length > head.length ? h("span", { class: "quiet" }, `… ${count(prompt.length - head.length)} earlier prompt tokens … `) : null, head.map((id, n) => one(id, n, true)), out.slice(0, 4000).map((id, n) => one(id, n, false)), out.length > 4000 ? h("span", { class: "quiet" }, ` … ${count(out.length - 4000)} more`) : null));
  }, 0, 10);
  return h("div", null, h("div", { class: "legend" }, h("span", null, h("i", { style: { background: "var(--soft)", border: "1px solid var(--line)" } }), "masked (prompt, environment)"), h("span", null, h("i", { style: { background: shade(-0.7) } }), "unsure"), h("span", null, h("i", { style: { background: shade(-4) } }), "unlikely (p < 0.1)")), box);
}
function tree(row, d) {
  const list = d.trajectory.completions || [], kin = state.rows.filter((r) => r.run === row.run && (r.parent === row.id || (row.parent && (r.id === row.parent || r.parent === row.parent)) ) && r.id !== row.id);
  const kids = list.map(() => []), roots = [];
  list.forEach((c, n) => (c.parent === null || c.parent === undefined ? roots : kids[c.parent]).push(n));
  const nodes = []; let rowNo = 0, deepest = 0;
  function walk(first, depth, from) {
    const todo = [[first, depth, from]];
    while (todo.length) {
      const [start, x, parent] = todo.pop();
      let end = start, size = 1;
      while (kids[end].length === 1) { end = kids[end][0]; size++; }
      const node = { start, end, size, x, y: parent && parent.fresh ? parent.y : rowNo++, parent };
      if (parent) parent.fresh = false;
      node.fresh = true; nodes.push(node); deepest = Math.max(deepest, x);
      for (const kid of [...kids[end]].reverse()) todo.push([kid, x + 1, node]);
    }
  }
  roots.forEach((r) => walk(r, 0, null));
  const W = 270, H = 58, wide = 230, first = nodes.filter((n) => !n.parent).sort((p, q) => p.start - q.start);
  const gist = (c) => { const m = c.message || {}, text = typeof m.content === "string" ? m.content : "", calls = (m.tool_calls || []).map((x) => (x.function || x.custom || {}).name).join(", "); return (text.trim().split("\n")[0] || calls || "–").slice(0, 34); };
  const again = first.slice(1).map((n, k) => [first[k], n]);
  return h("div", null, h("p", { class: "quiet" }, nodes.length <= 1 ? "One conversation without forks." : `${count(list.length)} calls on ${leaves(list).length} branches; a box is a stretch without forks${again.length ? ", a dashed line a history begun anew" : ""}.`),
    nodes.length ? h("div", { class: "scroll" }, s("svg", { width: (deepest + 1) * W + 10, height: rowNo * H + 10, role: "group", "aria-label": "tree of model calls", style: { maxWidth: "none" } }, again.map(([p, n]) => s("path", { d: `M20,${p.y * H + 50} V${n.y * H + 6}`, style: { stroke: "var(--quiet)", strokeDasharray: "3 3" } })), nodes.map((n) => [
      n.parent ? s("path", { d: `M${n.parent.x * W + 6 + wide},${n.parent.y * H + 28} C${n.parent.x * W + wide + 26},${n.parent.y * H + 28} ${n.x * W - 14},${n.y * H + 28} ${n.x * W + 6},${n.y * H + 28}`, style: { fill: "none", stroke: "var(--quiet)" } }) : null,
      s("a", { href: link(["t", row.run, row.id, "conversation"], { at: String(n.end) }) }, s("rect", { x: n.x * W + 6, y: n.y * H + 6, width: wide, height: 44, rx: 8, style: { fill: "var(--accent-soft)", stroke: "var(--accent)" } }), s("text", { x: n.x * W + 16, y: n.y * H + 24, style: { fontWeight: 600, fill: "var(--ink)" } }, n.size > 1 ? `calls ${n.start + 1} … ${n.end + 1} (${n.size})` : `call ${n.start + 1}`), s("text", { x: n.x * W + 16, y: n.y * H + 41 }, gist(list[n.end])))]))) : null,
    kin.length ? [h("h3", null, "Episodes forked with this one"), h("ul", null, kin.map((r) => h("li", null, h("a", { href: link(["t", r.run, r.id]) }, r.id), r.id === row.parent ? " (parent) " : " ", rewardTag(r))))] : null);
}
function diffLines(part) {
  const lines = part.replace(/\n$/, "").split("\n"), shown = lines.slice(0, 1500);
  let was = 0, now = 0, added = 0, gone = 0, title = "";
  const rows = shown.map((line) => {
    const at = line.match(/^@@ -(\d+)(?:,\d+)? \+(\d+)/);
    if (at) { was = +at[1]; now = +at[2]; return h("div", { class: "at" }, line); }
    if (!now && !was && (line.startsWith("--- ") || line.startsWith("+++ "))) {
      const path = line.slice(4).replace(/^[ab]\//, "");
      if (path !== "/dev/null") title = path;
      return null;
    }
    if (line.startsWith("+")) { added++; return h("div", { class: "add", "data-n": now++ }, line); }
    if (line.startsWith("-")) { gone++; return h("div", { class: "del", "data-n": was++ }, line); }
    was++; return h("div", { "data-n": now++ }, line || " ");
  });
  if (lines.length > shown.length) rows.push(h("div", { class: "quiet" }, `… ${count(lines.length - shown.length)} more lines`));
  return { rows, added, gone, title };
}
function diffView(text) {
  const parts = text.split(/^(?=--- )/m).filter(Boolean), box = h("div");
  gradually(box, parts, (part) => {
    const { rows, added, gone, title } = diffLines(part);
    return h("details", { class: "file", open: true }, h("summary", null, h("span", { class: "mono" }, title || "changes"), " ", h("span", { class: "plus" }, `+${added}`), " ", h("span", { class: "minus" }, `−${gone}`)),
      h("div", { class: "diff", tabindex: "0", role: "region", "aria-label": `diff of ${title || "a file"}` }, rows));
  }, 0, 20);
  return box;
}
const BLOCKS = {
  image: (b) => h("img", { class: "shown", src: `data:${b.mime};base64,${b.data}`, alt: `image ${b.path}` }),
  table: (b) => h("div", { class: "scroll" }, h("table", null, h("thead", null, h("tr", null, (b.rows[0] || []).map((c) => h("th", { scope: "col" }, c)))), h("tbody", null, b.rows.slice(1).map((r) => h("tr", null, r.map((c) => h("td", null, c))))))),
  text: (b) => h("pre", { class: "cut", tabindex: "0" }, b.text), diff: (b) => diffView(b.text), binary: (b) => h("p", { class: "quiet" }, `Not text: ${count(b.bytes)} bytes.`) };
function artifacts(row, d) {
  const list = d.artifacts || [];
  if (!list.length && !(d.deleted || []).length) return h("p", { class: "quiet" }, "The episode left no changed files, or they were not kept.");
  return h("div", null, list.map((b, n) => h("details", { open: n < 6 }, h("summary", null, h("span", { class: "mono" }, b.path), ` · ${count(b.bytes)} bytes${b.cut ? ", shown in part" : ""}`), (BLOCKS[b.kind] || BLOCKS.binary)(b))),
    d.more_artifacts ? h("p", { class: "quiet" }, `${d.more_artifacts} more files are not shown.`) : null, (d.deleted || []).length ? [h("h3", null, "Deleted"), h("pre", null, d.deleted.join("\n"))] : null);
}
function verdict(row, d) {
  const v = d.trajectory.verdict || {}, t = d.trajectory;
  const folded = (title, value, open) => value && (!Array.isArray(value) || value.length) ? h("details", { open }, h("summary", null, title), h("pre", null, pretty(value))) : null;
  return h("div", null, t.error ? h("div", { class: "msg" }, h("b", null, t.cause ? `Failed: ${t.cause}` : "Error"), h("pre", null, t.error)) : null,
    h("div", { class: "facts" }, [["status", v.status || "ok"], ["ended by", v.stop || "–"], ["isolation", v.isolation || "fresh"], ["seed", t.seed ?? "–"]].map(([k, x]) => h("span", null, `${k} `, h("b", null, x)))),
    h("div", { class: "scroll", style: { margin: "10px 0" } }, h("table", null, h("thead", null, h("tr", null, ["Score", "Value", "Evidence"].map((x) => h("th", { scope: "col" }, x)))), h("tbody", null, Object.entries(v.scores || {}).map(([name, score]) => h("tr", null, h("td", { class: "mono" }, name, score.forged ? h("span", { class: "tag bad" }, "forged") : null), h("td", { class: "num" }, num(score.value)), h("td", null, h("pre", { class: "cut" }, pretty(score.evidence || {})))))))),
    folded("Evidence of the grading", v.evidence, true), folded("Tries that infrastructure failed", t.retries, true), folded("Calls of the model that failed", t.faults, true));
}
function timeline(row, d, brief) {
  const all = wall(row) || 1e-9, list = d.trajectory.steps || [], from = (row.seconds.start || 0), agent = row.seconds.agent || 0;
  const total = sum(list.map((x) => x.seconds || 0)), idle = Math.max(0, agent - total) / Math.max(1, list.length);
  let t = from;
  const ticks = list.length <= 400 ? list.map((step, n) => { t += idle; const at = t / all * 100; t += step.seconds || 0; return h("a", { href: link(["t", row.run, row.id, "steps"], { at: String(n) }), title: `step ${n + 1}, ${secs(step.seconds || 0)}`, "aria-label": `step ${n + 1}`, tabindex: "-1", style: { left: `${Math.min(99.5, at)}%` } }); }) : [];
  const waits = Object.entries(row.waited || {}).map(([k, v]) => `${secs(v)} for ${k}`).join(", ");
  return h("section", { "aria-label": "Timeline" }, h("div", { class: "timeline", role: "img", "aria-label": PHASES.map(([p]) => `${p} ${secs(row.seconds[p] || 0)}`).join(", ") }, PHASES.map(([p, c]) => h("span", { title: `${p}: ${secs(row.seconds[p] || 0)}`, style: { width: `${(row.seconds[p] || 0) / all * 100}%`, background: c } }))), h("div", { class: "ticks" }, ticks),
    h("div", { class: "legend" }, PHASES.map(([p, c]) => h("span", null, h("i", { style: { background: c } }), `${p} ${secs(row.seconds[p] || 0)}`)), waits ? h("span", null, `waited ${waits}`) : null, list.length && !brief ? h("span", { class: "quiet" }, "marks: steps, evenly spaced between their own times") : null));
}
const VIEWS = { conversation, steps, tokens, tree, diff: (r, d) => d.diff ? diffView(d.diff) : h("p", { class: "quiet" }, "No file differs, or artifacts were not kept."), files: artifacts, verdict, raw: (r, d) => h("pre", null, pretty(d.trajectory).slice(0, 2e6)) };
async function episode(run, id, tab, query) {
  const number = state.rows.findIndex((r) => String(r.run) === run && r.id === id);
  if (number < 0) return h("p", null, "There is no such trajectory here. ", h("a", { href: "#/" }, "To the table"));
  const row = state.rows[number], d = await load(number), view = VIEWS[tab] ? tab : "conversation";
  const list = state.shown.length ? state.shown : state.rows.map((_, n) => n), at = list.indexOf(number);
  state.go = { tab: (n) => TABS[n] && link(["t", run, id, TABS[n][0]]), side: (step) => { const r = state.rows[list[at + step]]; return r && link(["t", r.run, r.id, view]); } };
  const others = state.runs.map((_, n) => n).filter((n) => String(n) !== run && state.rows.some((r) => r.run === n && r.task === row.task));
  const counts = { steps: row.steps, conversation: row.calls, tree: row.forks, files: (d.artifacts || []).length };
  return h("div", null, h("p", { class: "crumbs" }, h("a", { href: state.tableLink || "#/" }, "← All trajectories"), at > 0 ? [" · ", h("a", { href: state.go.side(-1) }, "previous")] : null, at >= 0 && at < list.length - 1 ? [" · ", h("a", { href: state.go.side(1) }, "next")] : null),
    h("h1", null, row.task, " ", rewardTag(row)), h("div", { class: "facts" }, h("span", null, `${runName(row.run)} · attempt ${row.attempt}`), h("span", null, h("b", null, count(row.tokens)), " tokens"), h("span", null, h("b", null, usd(row.cost))), h("span", null, h("b", null, secs(wall(row)))), h("span", { class: "mono" }, row.id), others.map((n) => h("a", { href: link(["c", row.run, n, row.task]) }, `compare with ${runName(n)}`))),
    h("div", { style: { marginTop: "12px" } }, timeline(row, d)),
    h("nav", { class: "tabs", "aria-label": "Parts of the trajectory" }, TABS.map(([key, label]) => h("a", { href: link(["t", run, id, key]), "aria-current": key === view ? "page" : null }, label, counts[key] ? h("span", { class: "quiet" }, ` ${count(counts[key])}`) : null))),
    h("section", { "aria-label": TABS.find((t) => t[0] === view)[1] }, VIEWS[view](row, d, query)));
}
