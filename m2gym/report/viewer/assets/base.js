// Nothing here takes HTML: text reaches the page only as text nodes, links only as hashes.
const NS = "http://www.w3.org/2000/svg";
function fill(node, attrs, kids) {
  for (const [key, value] of Object.entries(attrs || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(node.style, value);
    else if (key === "href" && !String(value).startsWith("#")) throw new Error("only hash links");
    else if (key === "src" && !/^data:image\//.test(value)) throw new Error("only data images");
    else node.setAttribute(key, value === true ? "" : value);
  }
  for (const kid of kids.flat(Infinity)) if (kid !== null && kid !== undefined && kid !== false)
    node.append(kid instanceof Node ? kid : document.createTextNode(String(kid)));
  return node;
}
const h = (tag, attrs, ...kids) => fill(document.createElement(tag), attrs, kids);
const s = (tag, attrs, ...kids) => fill(document.createElementNS(NS, tag), attrs, kids);
const by = (id) => document.getElementById(id);
const state = { live: false, runs: [], rows: [], shown: [], at: -1, cache: new Map(), go: null };

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}
async function load(number) {
  if (state.cache.has(number)) return state.cache.get(number);
  const row = state.rows[number];
  const found = state.live
    ? await (await fetch(`api/episode/${row.run}/${encodeURIComponent(row.id)}`)).json()
    : await unpack(by(`d${number}`).textContent);
  if (state.cache.size > 8) state.cache.delete(state.cache.keys().next().value);
  state.cache.set(number, found);
  return found;
}
function say(text) {
  const node = by("say");
  node.textContent = text;
  node.classList.add("on");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => node.classList.remove("on"), 2200);
}
const num = (x, digits = 3) => x === null || x === undefined ? "–" : String(+Number(x).toFixed(digits));
const secs = (x) => x >= 7200 ? `${(x / 3600).toFixed(1)} h` : x >= 120 ? `${(x / 60).toFixed(1)} min` : x >= 10 ? `${x.toFixed(0)} s` : x >= 1 ? `${x.toFixed(1)} s` : `${(x * 1000).toFixed(0)} ms`;
const count = (x) => Number(x).toLocaleString("en");
const usd = (x) => x >= 1 ? `$${x.toFixed(2)}` : x > 0 ? `$${x.toFixed(4)}` : "$0";
const sum = (values) => values.reduce((a, b) => a + b, 0);
const wall = (row) => sum(Object.values(row.seconds || {}));
const runName = (n) => state.runs[n] ? state.runs[n].name : `run ${n}`;
function outcome(row) {
  if (row.reward === null || row.reward === undefined) return "not graded";
  return row.reward >= 1 ? "solved" : row.reward > 0 ? "partial" : "failed";
}
function rewardTag(row) {
  const kind = { solved: "good", partial: "warn", failed: "bad", "not graded": "" }[outcome(row)];
  return h("span", { class: `tag ${kind}` }, row.reward === null ? row.status : num(row.reward));
}
// Fenced blocks and words in back quotes become elements of text; nothing else is read as markup.
function rich(text) {
  return String(text).split(/```[^\n`]*\n([\s\S]*?)\n?```/).map((part, n) => n % 2 ? h("pre", { class: "fence" }, part) : part.split(/`([^`\n]+)`/).map((word, k) => k % 2 ? h("code", null, word) : word));
}
function link(path, query) {
  const text = new URLSearchParams(Object.entries(query || {}).filter(([, v]) => v)).toString();
  return "#/" + path.map((p) => encodeURIComponent(p)).join("/") + (text ? "?" + text : "");
}
function place() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  let parts = [];
  try { parts = path.split("/").filter(Boolean).map(decodeURIComponent); } catch { parts = []; }
  return { parts, query: new URLSearchParams(query || "") };
}
// Adds nodes a screenful at a time, so that thousands of turns do not freeze the page.
function gradually(box, items, make, upTo = 0, size = 60) {
  let next = 0;
  const more = h("button", { class: "more", onclick: () => add(size * 4) });
  function add(n) {
    const part = document.createDocumentFragment();
    for (const end = Math.min(items.length, next + n); next < end; next++) part.append(make(items[next], next));
    more.remove();
    box.append(part);
    if (next < items.length) {
      more.textContent = `Show more (${count(next)} of ${count(items.length)})`;
      box.append(more);
      watch.observe(more);
    }
  }
  const watch = new IntersectionObserver((seen) => { if (seen.some((e) => e.isIntersecting)) add(size); }, { rootMargin: "1200px" });
  add(Math.max(size, upTo + 20));
}
// JSON with short lists of plain values on one line.
const inline = (text) => text.replace(/\[\n\s+([^[\]{}]*?)\n\s*\]/g, (all, inner) => inner.length < 90 ? `[${inner.replace(/\n\s+/g, " ")}]` : all);
const pretty = (value) => typeof value === "string" ? value : inline(JSON.stringify(value, null, 2) || "");
function json(text) { try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; } }
