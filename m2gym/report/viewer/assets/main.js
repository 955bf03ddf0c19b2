function top_() {
  const { parts } = place(), home = !parts.length;
  by("top").replaceChildren(h("div", { class: "bar" }, h("a", { class: "brand", href: "#/" }, "m2gym"),
    h("nav", { "aria-label": "Pages" }, h("a", { href: "#/", "aria-current": home ? "page" : null }, "Trajectories"), state.runs.length > 1 ? h("a", { href: link(["c", 0, 1]), "aria-current": parts[0] === "c" ? "page" : null }, "Compare") : null),
    state.live ? h("span", { class: "tag good", title: "new episodes appear as they end" }, "live") : null,
    h("button", { class: "plain", onclick: () => help(), "aria-label": "Keys" }, "?"), h("button", { class: "plain", onclick: theme, "aria-label": "Light or dark" }, "◐")));
}
function theme(_, wanted) {
  const root = document.documentElement;
  const next = wanted || (root.dataset.theme === "dark" ? "light" : "dark");
  root.dataset.theme = next;
  try { if (!wanted) localStorage.setItem("m2gym-theme", next); } catch { /* a file may have no storage */ }
}
function help() {
  const keys = [["/", "search"], ["j k", "next, previous row"], ["Enter", "open the row"], ["[ ]", "previous, next trajectory"], ["1 … 8", "parts of a trajectory"], ["u Esc", "back to the table"], ["c", "copy a link to what is shown"], ["t", "light or dark"]];
  const box = h("dialog", { "aria-label": "Keys" }, h("h2", { style: { marginTop: 0 } }, "Keys"), h("table", null, h("tbody", null, keys.map(([k, text]) => h("tr", null, h("td", null, h("kbd", null, k)), h("td", null, text))))), h("p", null, h("button", { onclick: () => box.close() }, "Close")));
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}
let drawing = 0;
async function draw(keep) {
  const mine = ++drawing, { parts, query } = place();
  state.go = null;
  top_();
  let page;
  try {
    page = parts[0] === "t" ? await episode(parts[1], parts[2], parts[3] || "conversation", query) : parts[0] === "c" ? await compare(parts[1], parts[2], parts[3], query) : overview(query);
  } catch (error) { page = h("p", null, `This could not be shown: ${error.message}`); }
  if (mine !== drawing) return;
  const spot = scrollY;
  by("main").replaceChildren(page);
  if (keep) scrollTo(0, spot); else if (!query.get("at")) scrollTo(0, 0);
  document.body.dataset.ready = location.hash || "#/";
}
function moveRow(step) {
  const rows = [...document.querySelectorAll("tr.open")];
  if (!rows.length) return;
  rows.forEach((r) => r.classList.remove("at"));
  state.at = Math.max(0, Math.min(rows.length - 1, state.at + step));
  rows[state.at].classList.add("at");
  rows[state.at].querySelector("a").focus({ preventScroll: true });
  rows[state.at].scrollIntoView({ block: "nearest" });
}
addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || document.querySelector("dialog[open]")) return;
  if (e.target.closest("input, select, textarea")) { if (e.key === "Escape") e.target.blur(); return; }
  const jump = (to) => { if (to) location.hash = to; };
  const keys = { "/": () => by("q") && by("q").focus(), j: () => moveRow(1), k: () => moveRow(-1), "[": () => state.go && jump(state.go.side(-1)), "]": () => state.go && jump(state.go.side(1)), u: () => jump(state.tableLink || "#/"), Escape: () => jump(state.tableLink || "#/"), "?": help, t: () => theme(),
    c: () => navigator.clipboard ? navigator.clipboard.writeText(location.href).then(() => say("Link copied"), () => say("The link stands in the address bar")) : say("The link stands in the address bar") };
  if (/^[1-8]$/.test(e.key) && state.go) { jump(state.go.tab(+e.key - 1)); return; }
  if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
});
async function follow() {
  try {
    const found = await (await fetch(`api/index?since=${state.rows.length}&epoch=${state.epoch || ""}`)).json();
    if (found.epoch !== state.epoch) { state.rows = []; state.cache.clear(); }
    state.epoch = found.epoch; state.runs = found.runs; state.comparisons = found.comparisons;
    if (found.rows.length) {
      state.rows.push(...found.rows);
      if (document.body.dataset.ready) say(`${found.rows.length} new`);
      if (!place().parts.length || !document.body.dataset.ready) await draw(true);
    } else if (!document.body.dataset.ready) await draw();
  } catch { if (document.body.dataset.ready) say("The server does not answer"); }
  setTimeout(follow, 2000);
}
async function begin() {
  let kept = null;
  try { kept = localStorage.getItem("m2gym-theme"); } catch { /* none */ }
  theme(null, kept === "dark" || kept === "light" ? kept : matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  Object.assign(state, await unpack(by("index").textContent));
  addEventListener("hashchange", () => draw());
  if (state.live) follow(); else await draw();
}
begin();
