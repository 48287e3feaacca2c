const { tree, nodes, sprites } = DATA;
const names = tree.panel.verifiers;
const weights = Object.fromEntries(names.map((name, i) => [name, tree.panel.weights[i]]));
const id = (path) => JSON.stringify(path);
const label = (path) => path.map((step) => String(step).replace(/^neighbour (\d+).*/, "n$1").replace(/^renoise (\d+) to (\d+).*/, "r$1→$2")).join(" ") || "start";
const briefLabel = (path) => { const steps = label(path).split(" "); return steps.length > 8 ? `… ${steps.slice(-7).join(" ")}` : steps.join(" "); };

/* Who is whose parent, and what became of each node. */
nodes.forEach((node, i) => {
  node.index = i;
  node.children = [];
  node.up = null;
  for (let j = i - 1; j >= 0; j--) {
    if (nodes[j].round < node.round && id(nodes[j].path) === id(node.parent)) { node.up = nodes[j]; break; }
  }
  if (node.up) node.up.children.push(node);
});
const finished = (node) => node.depth === DATA.segments && node.value !== null && !node.fidelity;
const winner = nodes.findLast((node) => finished(node) && id(node.path) === id(tree.best));
const lineage = new Set();
for (let node = winner; node; node = node.up) lineage.add(node);
for (const node of nodes) {
  node.status = node === winner ? "winner" : node.kept || lineage.has(node) ? "went on" : finished(node) ? "finished" : "pruned";
}
const rounds = tree.rounds.map((_, r) => nodes.filter((node) => node.round === r));
/** Where a score lies among those of its round, [0, 1], and its rank. */
function standing(node, name) {
  const value = (n) => (name === "panel" ? n.value : n.scores[name]);
  const all = rounds[node.round].map(value).filter((v) => v !== null && v !== undefined);
  const own = value(node);
  if (own === null || own === undefined || !all.length) return null;
  const low = Math.min(...all), high = Math.max(...all);
  return { share: high > low ? (own - low) / (high - low) : 1, rank: 1 + all.filter((v) => v > own).length, of: all.length };
}
const sprite = (node) => (node.sprite === null ? null : sprites[node.sprite]);
const statusChip = (node) => make("span", { class: node.status === "winner" ? "chip good" : "chip", text: node.status === "pruned" ? `pruned after round ${node.round + 1}` : node.status });
const barCell = (share) => make("span", { class: "bar", "aria-hidden": "true" }, bar(share));
function bar(share) { const inner = make("i"); inner.style.width = `${Math.max(2, 100 * share)}%`; return inner; }

/* Head. */
find("eyebrow").textContent = `${words(DATA.preset)} · ${words(DATA.generator)} · seed ${tree.seed}`;
find("prompt").textContent = tree.prompt;
const cost = tree.cost, total = cost.total;
const worth = total.nfe / DATA.video_nfe;
find("facts").append(
  ...[
    [whole(nodes.filter((n) => n.status !== "went on").length), "paths"],
    [whole(tree.rounds.length), tree.rounds.length === 1 ? "round" : "rounds"],
    [whole(total.nfe), `denoiser calls, ${brief(worth)} videos’ worth`],
    ...(total.flops ? [[brief((total.flops + total.padding_flops) / 1e9), "GFLOP"]] : []),
  ].map(([number, text]) => make("li", {}, make("b", { text: number }), ` ${text}`)));

/* Two videos with all that is known of them. */
function contender({ title, chips = [], picture, panel, scores, oracle, other, path, extra = [], kind = "" }) {
  const list = make("dl");
  const add = (term, value, delta, digits = 3) => {
    const cell = make("dd", { text: fixed(value, digits) });
    if (delta !== undefined && delta !== null && Math.abs(delta) >= 0.5 * 10 ** -digits) {
      cell.append(make("span", { class: `delta ${delta > 0 ? "up" : "down"}`, text: signed(delta, digits) }));
    }
    list.append(make("dt", { text: term }), cell);
  };
  const less = (own, theirs) => (own === null || own === undefined || theirs === null || theirs === undefined ? null : own - theirs);
  if (panel !== undefined) add("panel", panel, other && less(panel, other.panel));
  for (const name of names) if (scores[name] !== undefined) add(weights[name] && !tree.panel.held_out.includes(name) ? name : `${name}, reported only`, scores[name], other && less(scores[name], other.scores[name]));
  if (oracle) list.append(make("dt", { text: "oracle" }), make("dd", {}, make("span", { class: oracle.success ? "up" : "", text: oracle.success ? "everything as the prompt says" : `${percent(oracle.facts)} of facts right` })));
  for (const [term, value] of extra) list.append(make("dt", { text: term }), make("dd", { text: value }));
  return make("div", { class: `card contender ${kind}` }, player(picture, `Video of ${title}`),
    make("div", {}, make("h3", {}, title, ...chips), title ? make("div", { class: "mono soft", text: `path ${label(path)}` }) : null, list));
}
{
  const won = { panel: tree.winner.panel, scores: tree.winner.scores, oracle: tree.winner.oracle, path: tree.winner.path };
  const one = { panel: tree.single.panel, scores: tree.single.scores, oracle: tree.single.oracle, path: tree.single.path };
  const same = id(won.path) === id(one.path);
  find("versus").append(
    contender({ ...won, title: "The search’s winner", kind: "winner", picture: DATA.winner_sprite, other: one, chips: same ? [make("span", { class: "chip", text: "the single sample won" })] : [], extra: [["cost", `${whole(total.nfe)} denoiser calls`]] }),
    contender({ ...one, title: "A single sample", picture: DATA.single_sprite, extra: [["cost", `${whole(DATA.video_nfe)} denoiser calls`]] }));
}

/* The tree: a column per round, a row per path that ends. */
const columns = tree.rounds.length;
const many = nodes.filter((n) => !n.children.length).length > 40;
const judgedRounds = rounds.map((list) => list.some((node) => node.value !== null || node.sprite !== null));
const NODE = { height: many ? 44 : 68, gap: many ? 6 : 9, between: columns > 4 ? 40 : 56, quiet: 74, top: 62, left: 44 };
{
  const wide = judgedRounds.filter(Boolean).length, room = find("tree").clientWidth - NODE.left - 24;
  const each = (room - (columns - wide) * (NODE.quiet + NODE.between)) / Math.max(wide, 1) - NODE.between;
  NODE.width = Math.round(Math.max(many ? 118 : 156, Math.min(columns > 2 ? 226 : 720, each)));
}
/** Frames of a video beside each other, where a column has room for them. */
function strip(picture, width) {
  const one = Math.round(((NODE.height - 12) * picture.width) / picture.height) + 4;
  const count = Math.min(picture.frames - 1, Math.floor((width - one - 130) / one));
  if (count < 2) return null;
  const frames = [...Array(count).keys()].map((i) => {
    const frame = player(picture, "", { still: Math.round((i * (picture.frames - 2)) / (count - 1)) });
    frame.style.width = `${one - 4}px`;
    return frame;
  });
  return make("span", { class: "strip", "aria-hidden": "true" }, ...frames);
}
const widths = judgedRounds.map((wide) => (wide ? NODE.width : NODE.quiet));
const starts = widths.map((_, r) => NODE.left + widths.slice(0, r).reduce((sum, width) => sum + width + NODE.between, 0));
let row = 0;
const order = (a, b) => { for (let i = 0; ; i++) { if (i >= a.path.length || i >= b.path.length) return a.path.length - b.path.length; const [x, y] = [a.path[i], b.path[i]]; if (x !== y) return typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }); } };
const top_ = nodes.filter((node) => !node.up).sort(order);
(function place(list) {
  for (const node of list) {
    node.x = starts[node.round];
    const own = node.children.sort(order);
    if (own.length) { place(own); node.y = (own[0].y + own.at(-1).y) / 2; } else node.y = NODE.top + NODE.height / 2 + row++ * (NODE.height + NODE.gap);
  }
})(top_);
const size = { width: starts.at(-1) + widths.at(-1) + 24, height: NODE.top + row * (NODE.height + NODE.gap) + 10 };
const canvas = find("canvas");
canvas.style.width = `${size.width}px`;
canvas.style.height = `${size.height}px`;
const root = { x: 20, y: top_.length ? (top_[0].y + top_.at(-1).y) / 2 : NODE.top };
const lines = make("svg", { width: size.width, height: size.height, "aria-hidden": "true" });
canvas.append(lines);
const judged = { panel: "all verifiers", image: "image verifiers" };
tree.rounds.forEach((round, r) => {
  const head = make("div", { class: "column" }, make("b", { text: `Round ${r + 1}: ${rounds[r].length}` }),
    `${round.to} of ${DATA.segments} segments`);
  head.title = round.judges ? `judged by ${judged[round.judges]}${round.stage === null ? "" : `, stage prompt ${round.stage + 1}: ${tree.stage_prompts[round.stage] ?? tree.prompt}`}` : "not judged";
  head.style.left = `${starts[r]}px`;
  head.style.width = `${widths[r] + NODE.between - 6}px`;
  canvas.append(head);
});
const dot = make("div", { class: "root" });
dot.style.left = `${root.x}px`; dot.style.top = `${root.y}px`;
canvas.append(dot);
const rank = { pruned: 0, finished: 1, "went on": 1, winner: 2 };
for (const node of [...nodes].sort((a, b) => (lineage.has(a) ? 3 : rank[a.status]) - (lineage.has(b) ? 3 : rank[b.status]))) {
  const [x0, y0] = node.up ? [node.up.x + widths[node.up.round], node.up.y] : [root.x, root.y];
  const middle = x0 + Math.min(NODE.between, node.x - x0) * 0.5;
  node.line = make("path", { d: `M${x0} ${y0}C${middle} ${y0} ${middle} ${node.y} ${middle + 14} ${node.y}H${node.x}`, class: lineage.has(node) ? "winner" : node.status === "pruned" ? "pruned" : "" });
  lines.append(node.line);
}
const worthOf = (node) => {
  if (node.value !== null) return `panel ${fixed(node.value, 2)}`;
  const first = names.find((name) => node.scores[name] !== undefined);
  return first ? `${first} ${fixed(node.scores[first], 2)}` : "not judged";
};
for (const node of [...nodes].sort((a, b) => a.round - b.round || a.y - b.y)) {
  const quiet = !judgedRounds[node.round];
  const picture = player(sprite(node), "", { always: false });
  picture.removeAttribute("role"); picture.removeAttribute("aria-label");
  picture.style.width = `${(NODE.height - 10) * (sprite(node) ? Math.min(1.4, sprite(node).width / sprite(node).height) : 1)}px`;
  node.element = make("button", { type: "button", class: `node ${node.status.replace(" ", "-")}${quiet ? " quiet" : ""}`, role: "treeitem", "aria-level": node.round + 1, "aria-selected": "false", tabindex: "-1", "data-index": node.index,
    "aria-label": `path ${label(node.path)}, ${node.status}, ${worthOf(node)}` },
    quiet ? null : picture, make("span", {}, make("span", { class: "name", text: briefLabel(node.path) }), quiet ? null : make("span", { class: "worth", text: worthOf(node) })),
    quiet || !sprite(node) ? null : strip(sprite(node), NODE.width));
  const height = quiet ? 28 : NODE.height;
  Object.assign(node.element.style, { left: `${node.x}px`, top: `${node.y - height / 2}px`, width: `${widths[node.round]}px`, height: `${height}px` });
  node.element.addEventListener("mouseenter", () => look(node));
  node.element.addEventListener("focus", () => look(node));
  node.element.addEventListener("click", () => pin(node));
  canvas.append(node.element);
}
find("tree-lead").textContent = "Every branch that was judged, round by round. Point at one, or move to it with the arrow keys, and it plays with all its scores; dimmed ones were pruned. Click two to compare them.";

/* Looking at a branch. */
let seen = null;
function look(node) {
  if (seen === node) return;
  if (seen) { seen.element.classList.remove("chosen"); seen.element.tabIndex = -1; const old = seen.element.querySelector(".player"); if (old) { old.wanted = false; if (old.sprite) show(old, old.sprite.frames - 1); } }
  for (const other of nodes) other.line.classList.remove("traced");
  seen = node;
  for (let n = node; n; n = n.up) if (!lineage.has(n)) n.line.classList.add("traced");
  node.element.classList.add("chosen");
  node.element.tabIndex = 0;
  const small = node.element.querySelector(".player");
  if (small) small.wanted = true;
  const body = make("tbody");
  const line = (name, value, place, note) => body.append(make("tr", {},
    make("td", {}, name, note ? make("span", { class: "soft", text: ` ${note}` }) : null),
    make("td", { text: fixed(value) }),
    make("td", { class: "wide" }, place ? barCell(place.share) : ""),
    make("td", { class: "soft", text: place ? `${place.rank}/${place.of}` : "" })));
  if (node.value !== null) line("panel", node.value, standing(node, "panel"));
  for (const name of names) {
    if (!(name in node.scores)) continue;
    const weight = weights[name];
    line(name, node.scores[name], standing(node, name), tree.panel.held_out.includes(name) ? "held out" : `× ${Number(weight.toFixed(3))}`);
  }
  const round = tree.rounds[node.round];
  find("inspector").replaceChildren(
    make("div", { class: "body" }, player(sprite(node), `Branch ${label(node.path)}`),
      make("div", {}, make("h3", {}, `Path ${briefLabel(node.path)}`, statusChip(node)),
        make("table", {}, make("thead", {}, make("tr", {}, make("th", { text: "verifier" }), make("th", { text: "score" }), make("th", { class: "wide", text: "in its round" }), make("th", { text: "rank" }))), body),
        make("dl", { class: "contender-facts" },
          make("dt", { text: "judged as" }), make("dd", { class: "left", text: round.judges ? (round.stage === null ? "the whole prompt" : `“${tree.stage_prompts[round.stage] ?? tree.prompt}”`) : "not judged" }),
          make("dt", { text: "segments" }), make("dd", { text: `${node.depth} of ${DATA.segments}` }),
          make("dt", { text: "cost of the path" }), make("dd", { text: `${whole(node.nfe)} denoiser calls, ${percent(node.nfe / total.nfe, 1)} of the search` })),
        make("div", { class: "controls" }, make("button", { type: "button", class: "small", text: "Compare", onclick: () => pin(seen) }), make("button", { type: "button", class: "small", text: "Copy command to make it again", onclick: (event) => copy(command(seen), event.target) })))));
  find("replay-branch").value = String(node.index);
  find("replay").textContent = command(node);
}

/* Two side by side. */
let slots = [null, null], turn = 0;
function pin(node) {
  if (slots.includes(node)) slots[slots.indexOf(node)] = null;
  else if (slots.includes(null)) slots[slots.indexOf(null)] = node;
  else { slots[turn] = node; turn = 1 - turn; }
  drawSlots();
}
function drawSlots() {
  nodes.forEach((node) => { node.element.querySelector(".mark")?.remove(); node.element.setAttribute("aria-selected", String(slots.includes(node))); });
  find("compare-lead").textContent = slots.every(Boolean) ? "Differences are A’s to B. Click another branch in the tree to exchange one, a chosen one to let it go." : "Click a branch in the tree, then another.";
  find("compare").replaceChildren(...slots.map((node, i) => {
    const name = "AB"[i];
    if (!node) return make("div", { class: "card contender soft", text: `${name}: no branch yet` });
    node.element.append(make("span", { class: `chip mark ${name.toLowerCase()}`, text: name }));
    const other = slots[1 - i];
    const both = other && { panel: other.round === node.round ? other.value : null, scores: other.scores };
    return contender({ title: "", path: node.path, panel: node.value ?? undefined, scores: node.scores, picture: sprite(node), other: i === 0 && both ? both : undefined,
      chips: [make("span", { class: `chip ${name.toLowerCase()}`, text: name }), `Path ${briefLabel(node.path)}`, statusChip(node)],
      extra: [["round", String(node.round + 1)], ["cost", `${whole(node.nfe)} denoiser calls`]] });
  }));
}

/* Keys. */
const byHeight = (list) => [...list].sort((a, b) => a.y - b.y);
canvas.addEventListener("keydown", (event) => {
  const column = byHeight(rounds[seen.round]);
  const place = column.indexOf(seen);
  const next = {
    ArrowUp: column[place - 1], ArrowDown: column[place + 1], ArrowLeft: seen.up,
    ArrowRight: seen.children.find((child) => lineage.has(child)) ?? seen.children[0],
    Home: column[0], End: column.at(-1),
  };
  if (event.key in next) { event.preventDefault(); next[event.key]?.element.focus(); }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { slots = [null, null]; turn = 0; drawSlots(); }
});

/* Costs. */
{
  const parts = Object.entries(cost).filter(([name]) => name !== "total");
  const flops = (entry) => entry.flops + entry.padding_flops;
  const most = Math.max(...parts.map(([, entry]) => flops(entry)), 1);
  const calls = Math.max(...parts.map(([, entry]) => entry.calls), 1);
  const meaning = { generator: "segments made", decode: "videos decoded", draft: "draft segments", look_ahead: "look-aheads" };
  const table = find("cost");
  table.append(make("thead", {}, make("tr", {}, ...["", "calls", "", "NFE", "GFLOP", "share", ""].map((text) => make("th", { text })))));
  const body = make("tbody");
  for (const [name, entry] of parts) {
    body.append(make("tr", {}, make("td", {}, words(name), make("span", { class: "soft", text: `  ${meaning[name] ?? "scores given"}` })), make("td", { text: whole(entry.calls) }), make("td", {}, barCell(entry.calls / calls)),
      make("td", { text: entry.nfe ? whole(entry.nfe) : "" }), make("td", { text: flops(entry) ? brief(flops(entry) / 1e9) : "" }),
      make("td", { text: total.flops ? percent(flops(entry) / flops(total)) : "" }), make("td", {}, flops(entry) ? barCell(flops(entry) / most) : "")));
  }
  body.append(make("tr", { class: "total" }, make("td", { text: "search in all" }), make("td", { text: whole(total.calls) }), make("td"), make("td", { text: whole(total.nfe) }), make("td", { text: flops(total) ? brief(flops(total) / 1e9) : "" }), make("td"), make("td")));
  table.append(body);
  find("cost-lead").textContent = `${whole(total.nfe)} denoiser calls: ${brief(worth)} times a single sample’s ${whole(DATA.video_nfe)}.${tree.cut ? " A budget made the search smaller." : ""}`;
}

/* Commands. */
function command(node) {
  const place = location.protocol === "file:" ? decodeURIComponent(location.pathname).replace(/^\/([A-Za-z]:)/, "$1").split("/").slice(0, -3).join("/") : "";
  const quoted = (text) => (/^[\w./:\\,=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  return `python -m experiments.replay ${quoted(`--run=${place || "RUN"}`)} --prompt_index=${tree.prompt_index} ${quoted(`--path=${node.path.join(",")}`)}`;
}
async function copy(text, button) {
  const before = button.textContent;
  try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; } catch {
    const area = make("textarea"); area.value = text; document.body.append(area); area.select();
    button.textContent = document.execCommand("copy") ? "Copied" : "Select it below"; area.remove();
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}
find("replay-branch").append(...[...nodes].sort(order).map((node) => make("option", { value: node.index, text: `${label(node.path)}  (${node.status})` })));
find("replay-branch").addEventListener("change", (event) => look(nodes[Number(event.target.value)]));
find("copy").addEventListener("click", (event) => copy(find("replay").textContent, event.target));

look(winner ?? nodes[0]);
find("tree").scrollLeft = seen.x + widths[seen.round] + 24 - find("tree").clientWidth;
const rival = nodes.filter((node) => finished(node) && node !== winner).sort((a, b) => b.value - a.value)[0];
slots = [winner ?? null, rival ?? null];
drawSlots();
