"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);

/** Makes an element: make("p", {class: "lead", text: "..."}, child, ...). */
function make(name, options = {}, ...children) {
  const svg = ["svg", "path", "circle", "line", "text", "g", "polygon"].includes(name);
  const element = svg ? document.createElementNS("http" + "://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
const find = (id) => document.getElementById(id);
const words = (name) => String(name).replace(/^score_/, "").replaceAll("_", " ");
const signed = (value, digits) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(digits);
const fixed = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−"));
const whole = (value) => Math.round(value).toLocaleString("en");
const percent = (value, digits = 0) => (value === null || value === undefined ? "–" : (100 * value).toFixed(digits).replace("-", "−") + " %");
/** A number with about three digits that mean something. */
function brief(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e4 || size === 0) return whole(value);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 ? 2 : 3).replace("-", "−");
}

/* Videos: sprites whose frames are stepped through. */
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
let playing = !still;
const players = new Set();
function player(sprite, label, options = {}) {
  const element = make("div", { class: "player", role: "img", "aria-label": label });
  element.sprite = sprite;
  if (!sprite) {
    element.classList.add("none");
    element.style.aspectRatio = "1";
    return element;
  }
  if (Math.max(sprite.width, sprite.height) <= 64) element.classList.add("pixels");
  element.style.aspectRatio = `${sprite.width} / ${sprite.height}`;
  element.style.backgroundImage = `url(${sprite.src})`;
  element.style.backgroundSize = `${100 * sprite.frames}% 100%`;
  element.wanted = options.always ?? true;
  show(element, options.still ?? sprite.frames - 1);
  if (options.still === undefined) players.add(element);
  else element.removeAttribute("role");
  return element;
}
function show(element, frame) {
  if (element.frame === frame) return;
  element.frame = frame;
  const last = element.sprite.frames - 1;
  element.style.backgroundPosition = `${last ? (100 * frame) / last : 0}% 0`;
}
const seconds = DATA.seconds || 1.2;
const held = 0.6;
function step(now) {
  if (playing) {
    const time = (now / 1000) % (seconds + held);
    for (const element of players) {
      if (!element.isConnected) { players.delete(element); continue; }
      const { frames } = element.sprite;
      show(element, element.wanted ? Math.min(frames - 1, Math.floor((time / seconds) * frames)) : frames - 1);
    }
  }
  requestAnimationFrame(step);
}
requestAnimationFrame(step);
const pause = find("pause");
function setPlaying(value) {
  playing = value;
  if (pause) { pause.textContent = value ? "Pause videos" : "Play videos"; pause.setAttribute("aria-pressed", String(!value)); }
}
if (pause) pause.addEventListener("click", () => setPlaying(!playing));
setPlaying(playing);
