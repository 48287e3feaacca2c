const { points, metrics, searches } = DATA;
const panels = Object.keys(DATA.panels);
const colours = new Map(searches.map((name, i) => [name, `var(--s${i % 6})`]));
const shares = new Set(["success", "facts", "colour", "shape", "motion", "count"]);
const costNames = { flops: "GFLOP per prompt", nfe: "denoiser calls per prompt", seconds: "seconds per prompt" };
const ownCost = (point, cost) => (cost === "flops" ? point.flops / 1e9 : point[cost]);
const quality = (value, metric) => (shares.has(metric) ? percent(value, 1) : fixed(value, 2));
const isLinear = (point) => point.preset === "random_linear";
const pointName = ([search, budget, panel]) => `${words(search)}, ${budget}${panels.length > 1 ? `, ${panel}` : ""}`;
const same = (point, key) => point.search === key[0] && point.budget === key[1] && point.panel === key[2];
const state = { metric: metrics[0], cost: points.some((p) => p.flops) ? "flops" : "nfe", panel: panels[0], all: false };

/* Head. */
const base = points.find((p) => isLinear(p) && p.budget === "1");
const main_ = metrics[0];
const cheapest = points.filter((p) => p.panel === state.panel).sort((a, b) => a.flops - b.flops || a.nfe - b.nfe);
const best = cheapest.reduce((a, b) => (b.quality[main_].mean > a.quality[main_].mean ? b : a));
const capital = (text) => text[0].toUpperCase() + text.slice(1);
find("eyebrow").textContent = "tts_jax · what quality a unit of compute buys";
const times = (p) => (base.flops ? p.flops / base.flops : p.nfe / base.nfe);
find("headline").textContent = base && best !== base ? `${capital(words(main_))} ${quality(base.quality[main_].mean, main_)} with one sample, ${quality(best.quality[main_].mean, main_)} with ${words(best.search)} at ${brief(times(best))} times the cost` : `${capital(words(main_))} over compute`;
find("facts").append(...[[DATA.prompts, DATA.prompts === 1 ? "prompt" : "prompts"], [DATA.seeds.length, DATA.seeds.length === 1 ? "seed" : "seeds"], [searches.length, "searches"], [points.length, "points"], [panels.length, panels.length === 1 ? "panel" : "panels"]]
  .map(([number, text]) => make("li", {}, make("b", { text: number }), ` ${text}`)));

/* Choosers. */
function chooser(place, name, values, current, change, text = words) {
  const select = make("select", { onchange: (event) => change(event.target.value) }, ...values.map((value) => make("option", { value, text: text(value), ...(value === current ? { selected: "" } : {}) })));
  find(place).append(make("label", {}, name, select));
}
chooser("quality-controls", "quality", metrics, state.metric, (value) => { state.metric = value; draw(); }, (v) => (v.startsWith("score_") ? `score of ${words(v)}` : words(v)));
chooser("quality-controls", "cost", Object.keys(costNames).filter((cost) => points.some((p) => p[cost])), state.cost, (value) => { state.cost = value; draw(); }, (v) => costNames[v]);
if (panels.length > 1) chooser("quality-controls", "panel", panels, state.panel, (value) => { state.panel = value; draw(); });

/* Charts: log2 cost across, a quality up. */
const tip = find("tip");
function tell(event, lines) {
  tip.replaceChildren(make("b", { text: lines[0] }), ...lines.slice(1).map((line) => make("div", { text: line })));
  tip.hidden = false;
  const box = event.target.getBoundingClientRect(), own = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(innerWidth - own.width - 8, box.left + box.width / 2 - own.width / 2))}px`;
  tip.style.top = `${box.top - own.height - 10 > 0 ? box.top - own.height - 10 : box.bottom + 10}px`;
}
const hide = () => { tip.hidden = true; };
addEventListener("scroll", hide, { passive: true });
function ticks(low, high, wanted = 5) {
  const raw = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(raw));
  const size = [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= raw);
  const found = [];
  for (let value = Math.ceil(low / size - 1e-9) * size; value <= high + 1e-9; value += size) found.push(value);
  return found;
}
function chart(place, { series, xTitle, yTitle, y, limits, front, name, xText = brief }) {
  const figure = find(place);
  const narrow = figure.clientWidth < 520;
  const box = { width: Math.max(300, figure.clientWidth), height: narrow ? 300 : Math.min(440, Math.max(320, figure.clientWidth * 0.42)), left: 58, right: 16, top: 26, bottom: 46 };
  const xs = series.flatMap((s) => s.points.map((p) => p.x)).filter((x) => x > 0);
  const ys = series.flatMap((s) => s.points.flatMap((p) => [p.y, ...(p.interval ?? [])])).filter((v) => v !== null && v !== undefined);
  if (!xs.length || !ys.length) { figure.replaceChildren(make("p", { class: "soft", text: "Nothing to draw." })); return; }
  let [low, high] = [Math.min(...ys), Math.max(...ys)];
  const pad = (high - low || 1) * 0.08;
  low -= pad; high += pad;
  if (limits) { low = Math.max(limits[0], low); high = Math.min(limits[1], high); }
  const [left, right] = [Math.log2(Math.min(...xs)) - 0.15, Math.log2(Math.max(...xs)) + 0.15];
  const X = (x) => box.left + ((Math.log2(x) - left) / (right - left)) * (box.width - box.left - box.right);
  const Y = (v) => box.height - box.bottom - ((v - low) / (high - low)) * (box.height - box.bottom - box.top);
  const svg = make("svg", { viewBox: `0 0 ${box.width} ${box.height}`, role: "group", "aria-label": name });
  for (const value of ticks(low, high)) {
    svg.append(make("line", { class: "grid", x1: box.left, x2: box.width - box.right, y1: Y(value), y2: Y(value) }), make("text", { x: box.left - 8, y: Y(value) + 4, "text-anchor": "end", text: y(value) }));
  }
  const most = narrow ? 4 : 8;
  const doublings = [];
  const every = Math.max(1, Math.ceil((right - left) / most));
  const start = Math.min(...xs);
  for (let power = 0; Math.log2(start) + power <= right; power += every) doublings.push(start * 2 ** power);
  for (const value of doublings) {
    svg.append(make("line", { class: "grid", x1: X(value), x2: X(value), y1: box.height - box.bottom, y2: box.height - box.bottom + 5 }), make("text", { x: X(value), y: box.height - box.bottom + 20, "text-anchor": "middle", text: xText(value) }));
  }
  svg.append(make("text", { class: "axis", x: (box.left + box.width - box.right) / 2, y: box.height - 6, "text-anchor": "middle", text: xTitle }), make("text", { class: "axis", x: 4, y: 12, text: yTitle }));
  const clip = (v) => Math.max(low, Math.min(high, v));
  for (const s of series) {
    const banded = s.points.filter((p) => p.interval && p.interval[0] !== null);
    if (banded.length > 1) svg.append(make("polygon", { class: "band", fill: s.colour, points: [...banded.map((p) => `${X(p.x)},${Y(clip(p.interval[1]))}`), ...banded.toReversed().map((p) => `${X(p.x)},${Y(clip(p.interval[0]))}`)].join(" ") }));
  }
  for (const s of series) {
    const known = s.points.filter((p) => p.y !== null && p.y !== undefined);
    svg.append(make("path", { class: s.thin ? "thin" : "curve", stroke: s.colour, d: known.map((p, i) => `${i ? "L" : "M"}${X(p.x).toFixed(1)} ${Y(p.y).toFixed(1)}`).join("") }));
  }
  if (front?.length > 1) svg.append(make("path", { class: "front", d: front.map((p, i) => (i ? `H${X(p.x).toFixed(1)}V${Y(p.y).toFixed(1)}` : `M${X(p.x).toFixed(1)} ${Y(p.y).toFixed(1)}`)).join("") }));
  for (const s of series) {
    for (const p of s.thin ? [] : s.points.filter((q) => q.y !== null && q.y !== undefined)) {
      const show = (event) => tell(event, p.text);
      svg.append(make("circle", { class: "point", cx: X(p.x), cy: Y(p.y), r: 5.5, fill: s.colour, tabindex: 0, role: "img", "aria-label": p.text.join(", "), onmouseenter: show, onmouseleave: hide, onfocus: show, onblur: hide }));
    }
  }
  figure.replaceChildren(svg);
}
const key = (colour, text, kind = "") => { const line = make("i", { class: kind }); if (colour) line.style.borderColor = colour; return make("li", {}, line, text); };

function drawQuality() {
  const { metric, cost, panel } = state;
  const own = points.map((p, i) => ({ ...p, i })).filter((p) => p.panel === panel);
  const line = (list, field, extra) => ({
    points: list.map((p) => ({
      x: ownCost(p, cost), y: field === "mean" ? p.quality[metric].mean : p.quality[metric][field], interval: field === "mean" ? p.quality[metric].interval : null,
      text: [pointName([p.search, p.budget, p.panel]), `${words(metric)} ${quality(p.quality[metric].mean, metric)}, 95 %: ${quality(p.quality[metric].interval[0], metric)} to ${quality(p.quality[metric].interval[1], metric)}`, `${whole(p.nfe)} NFE · ${brief(p.flops / 1e9)} GFLOP · ${brief(p.seconds)} s`, base ? `${brief(times(p))} times a single sample` : ""],
    })).sort((a, b) => a.x - b.x), ...extra });
  const series = searches.map((name) => line(own.filter((p) => p.search === name), "mean", { colour: colours.get(name), name })).filter((s) => s.points.length);
  const linear = own.filter(isLinear);
  series.unshift(line(linear, "chance", { colour: "var(--faint)", thin: true }), line(linear, "best", { colour: "var(--soft)", thin: true }));
  const front = []; let high = -Infinity;
  for (const p of [...own].sort((a, b) => ownCost(a, cost) - ownCost(b, cost))) if (p.quality[metric].mean > high) { high = p.quality[metric].mean; front.push({ x: ownCost(p, cost), y: high }); }
  chart("quality", { series, front, xTitle: `${costNames[cost]}, doubling`, yTitle: metric.startsWith("score_") ? `score of ${words(metric)}` : words(metric), y: (v) => (shares.has(metric) ? percent(v) : brief(v)), limits: shares.has(metric) ? [0, 1] : null, name: "Quality over compute" });
  find("quality-keys").replaceChildren(...searches.map((name) => key(colours.get(name), `${words(name)}, with its 95 % interval`)), key("var(--soft)", "best of the random samples (upper bound)", "dash"), key("var(--faint)", "random choice (control)", "dash"), key("", "Pareto front", "dots"));
  const overlap = base && best !== base && best.quality[main_].interval[0] <= base.quality[main_].interval[1];
  find("quality-lead").textContent = `Point at a mark, or move to it with Tab, for its numbers.${overlap ? ` The 95 % intervals of the best point and of the single sample overlap in ${words(main_)}: the paired tests below say more, and more prompts would tell them apart.` : ""}`;
}
function drawPoints() {
  const { metric, panel } = state;
  const body = make("tbody");
  for (const p of points.filter((q) => q.panel === panel)) {
    const q = p.quality[metric];
    body.append(make("tr", {}, make("td", {}, words(p.search), make("span", { class: "soft", text: `  ${p.budget}` })), make("td", {}, make("b", { text: quality(q.mean, metric) })), make("td", { class: "soft", text: `${quality(q.interval[0], metric)} to ${quality(q.interval[1], metric)}` }),
      make("td", { text: quality(q.chance, metric) }), make("td", { text: quality(q.best, metric) }), make("td", { text: percent(q.efficiency) }), make("td", { text: whole(p.nfe) }), make("td", { text: brief(p.flops / 1e9) }), make("td", { text: brief(p.seconds) }), make("td", { text: base ? brief(times(p)) : "" })));
  }
  find("points").replaceChildren(make("thead", {}, make("tr", {}, ...["search", words(metric), "95 % interval", "chance", "best", "efficiency", "NFE", "GFLOP", "seconds", "× single"].map((text) => make("th", { text })))), body);
}
function drawEfficiency() {
  const { metric, cost, panel } = state;
  const series = searches.map((name) => ({ colour: colours.get(name), points: points.filter((p) => p.search === name && p.panel === panel && p.quality[metric].efficiency !== null).map((p) => ({
    x: ownCost(p, cost), y: p.quality[metric].efficiency, interval: p.quality[metric].efficiency_interval,
    text: [pointName([p.search, p.budget, p.panel]), `efficiency ${percent(p.quality[metric].efficiency)}, 95 %: ${percent(p.quality[metric].efficiency_interval[0])} to ${percent(p.quality[metric].efficiency_interval[1])}`, `among ${brief(p.candidates)} videos`] })) }));
  chart("efficiency", { series, xTitle: costNames[cost], yTitle: `efficiency in ${words(metric)}`, y: (v) => percent(v), limits: [-1, 1.001], name: "Selection efficiency" });
  find("efficiency-keys").replaceChildren(...searches.map((name) => key(colours.get(name), words(name))));
}
const over = DATA.over_optimisation;
let overHeld = over[0]?.held_out;
function drawOver() {
  const own = over.filter((o) => o.held_out === overHeld);
  const colour = (i) => `var(--s${i % 6})`;
  const text = (o, p, field) => [`${words(o.searching)} chooses among ${p.n}`, `its own score ${signed(p.searching, 2)}`, `${words(o.held_out)} ${signed(p.held_out, 2)}, 95 %: ${signed(p.held_out_interval[0], 2)} to ${signed(p.held_out_interval[1], 2)}`];
  const series = own.flatMap((o, i) => [
    { colour: colour(i), thin: true, points: o.curve.map((p) => ({ x: p.n, y: p.searching, text: [] })) },
    { colour: colour(i), points: o.curve.map((p) => ({ x: p.n, y: p.held_out, interval: own.length < 3 ? p.held_out_interval : null, text: text(o, p) })) }]);
  chart("over", { series, xTitle: "videos to choose among", yTitle: "deviations", y: (v) => fixed(Math.abs(v) < 1e-9 ? 0 : v, 1), name: "Over-optimisation", xText: (v) => whole(v) });
  find("over-keys").replaceChildren(...own.map((o, i) => key(colour(i), o.panel ? `panel ${words(o.searching)}` : `${words(o.searching)} alone`)));
}
if (over.length) {
  chooser("over-controls", "held out", [...new Set(over.map((o) => o.held_out))], overHeld, (value) => { overHeld = value; drawOver(); }, (v) => (v === "facts" ? "facts, by the oracle" : words(v)));
} else find("over-title").closest("section").hidden = true;

function tint(cell, gain, clear, most) {
  const strength = Math.min(1, Math.abs(gain) / (most || 1)) * (clear ? 0.75 : 0.28);
  cell.style.background = `rgb(var(--heat-${gain >= 0 ? "up" : "down"}) / ${(0.04 + 0.62 * strength).toFixed(3)})`;
}
function drawHeat() {
  const own = DATA.attributes.filter((a) => a.point[2] === state.panel);
  find("heat-section").hidden = !own.length;
  if (!own.length) return;
  const names = Object.keys(own[0].gains);
  const most = Math.max(...own.flatMap((a) => names.map((n) => Math.abs(a.gains[n].gain))));
  const body = make("tbody");
  for (const entry of own) {
    const line = make("tr", {}, make("td", {}, words(entry.point[0]), make("span", { class: "soft", text: `  ${entry.point[1]}` })));
    for (const name of names) {
      const { gain, interval, single, mean } = entry.gains[name];
      const cell = make("td", { class: "cell", title: `${percent(single, 1)} to ${percent(mean, 1)}` }, signed(100 * gain, 1), make("small", { text: `${signed(100 * interval[0], 0)} to ${signed(100 * interval[1], 0)}` }));
      tint(cell, gain, interval[0] > 0 || interval[1] < 0, most);
      line.append(cell);
    }
    body.append(line);
  }
  const singles = own[0].gains;
  find("heat").replaceChildren(make("thead", {}, make("tr", {}, make("th", { text: "search" }), ...names.map((name) => { const head = make("th", { text: name }, make("span", { class: "soft", text: ` (${percent(singles[name].single)})` })); head.style.textAlign = "center"; return head; }))), body);
}
function drawDifficulty() {
  const own = DATA.difficulty.filter((d) => d.point[2] === state.panel);
  find("difficulty-section").hidden = !own.length;
  if (!own.length) return;
  const buckets = [...new Set(own.map((d) => d.bucket))];
  const most = Math.max(...own.map((d) => Math.abs(d.gain)));
  const body = make("tbody");
  for (const p of points.filter((q) => q.panel === state.panel)) {
    const line = make("tr", {}, make("td", {}, words(p.search), make("span", { class: "soft", text: `  ${p.budget}` })));
    for (const bucket of buckets) {
      const entry = own.find((d) => d.bucket === bucket && same(p, d.point));
      const cell = make("td", { class: "cell" }, quality(entry.mean, main_), make("small", { text: `${quality(entry.interval[0], main_)} to ${quality(entry.interval[1], main_)}` }));
      if (isLinear(p) && p.budget === "1") cell.style.background = "none"; else tint(cell, entry.gain, true, most);
      line.append(cell);
    }
    body.append(line);
  }
  find("difficulty").replaceChildren(make("thead", {}, make("tr", {}, make("th", { text: `search, by ${words(main_)}` }), ...buckets.map((bucket) => { const head = make("th", { text: `${bucket}, ${own.find((d) => d.bucket === bucket).prompts} prompts` }); head.style.textAlign = "center"; return head; }))), body);
}
function drawTables() {
  const { metric, panel } = state;
  const fits = DATA.saturation.filter((s) => s.metric === metric && s.panel === panel);
  find("saturation").replaceChildren(make("thead", {}, make("tr", {}, ...["search", "limit", "95 % interval", "left per doubling", "reached"].map((text) => make("th", { text })))),
    make("tbody", {}, ...(fits.length ? fits.map((s) => make("tr", {}, make("td", { text: words(s.search) }), make("td", { text: quality(s.limit, metric) }), make("td", { class: "soft", text: `${quality(s.interval[0], metric)} to ${quality(s.interval[1], metric)}` }), make("td", { text: s.gap ? percent(s.ratio) : "no rise" }), make("td", { text: s.gap ? percent(s.reached) : "" }))) : [make("tr", {}, make("td", { class: "soft", text: "Three budgets of a search are needed." }))])));
  const tests = DATA.comparisons.filter((c) => c.metric === metric && (c.second[2] === panel || c.first[2] === panel));
  const name = (k) => `${words(k[0])} ${k[1]}${panels.length > 1 ? ` (${k[2]})` : ""}`;
  find("paired").replaceChildren(make("thead", {}, make("tr", {}, ...["search", "against", "cost", "difference", "95 % interval", "wins, ties, losses", "p"].map((text, i) => make("th", { text, class: i === 1 ? "left" : "" })))),
    make("tbody", {}, ...(tests.length ? tests.map((c) => make("tr", {}, make("td", { text: name(c.second) }), make("td", { class: "left", text: name(c.first) }), make("td", { text: c.cost_ratio ? `× ${c.cost_ratio.toFixed(2)}` : "" }), make("td", { class: c.interval[0] > 0 ? "up" : c.interval[1] < 0 ? "down" : "", text: shares.has(metric) ? signed(100 * c.difference, 1) : signed(c.difference, 3) }),
      make("td", { class: "soft", text: shares.has(metric) ? `${signed(100 * c.interval[0], 1)} to ${signed(100 * c.interval[1], 1)}` : `${signed(c.interval[0], 3)} to ${signed(c.interval[1], 3)}` }), make("td", { text: `${c.wins}, ${c.ties}, ${c.losses}` }), make("td", { text: c.p_value < 0.001 ? "< 0.001" : c.p_value.toFixed(3) }))) : [make("tr", {}, make("td", { class: "soft", text: "Only one search." }))])));
}
function drawExamples() {
  if (!DATA.examples.length) { find("examples-title").closest("section").hidden = true; return; }
  const metric = DATA.examples[0].metric;
  find("examples-lead").textContent = `By ${words(metric)}, the single sample beside what the dearest point of each search has found.`;
  find("examples").replaceChildren(...DATA.examples.map((example) => make("div", { class: "example" },
    make("div", {}, make("div", { text: example.prompt }), make("span", { class: `chip ${example.gain > 0 ? "good" : ""}`, text: `${shares.has(metric) ? `${signed(100 * example.gain, 0)} points of ${words(metric)}` : `${signed(example.gain, 2)} ${words(metric)}`}` })),
    make("div", { class: "videos" }, ...example.videos.map((video) => make("figure", {}, player(video.sprite, `${words(video.search)}: ${example.prompt}`), make("figcaption", {}, make("b", { text: quality(video.value, metric) }), make("br"), video.search === "single sample" ? "single sample" : `${words(video.search)} ${video.budget}`)))))));
}
function draw() { drawQuality(); drawPoints(); drawEfficiency(); if (over.length) drawOver(); drawHeat(); drawDifficulty(); drawTables(); }
draw();
drawExamples();
let waiting;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => { drawQuality(); drawEfficiency(); if (over.length) drawOver(); }, 120); });
