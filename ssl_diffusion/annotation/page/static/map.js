// The map of the pool: colors, pan, zoom, a look at a point, and a lasso that becomes a sheet.

import { classColor, css, scaleColor } from "./colors.js";
import { $, element, notify } from "./elements.js";
import { once } from "./requests.js";
import { now, session } from "./session.js";
import { makePoints } from "./points.js";
import { sheetOf } from "./sheet.js";

const GRAY = [140, 146, 152];
const view = { x: 0.5, y: 0.5, scale: 1 };
let points = null;
let data = null; // { n, model, names, xy, label, predicted, round, sure }
let lasso = null; // corners while a line is drawn
let moving = null;
let drawing = false;
let seen = { labels: -1, model: "", at: 0 };
let peeked = -1;

export async function loadMap() {
  const response = await fetch("api/map");
  if (response.status === 425) { $("map-note").textContent = (await response.json()).error; return; }
  if (!response.ok) return;
  const bytes = await response.arrayBuffer();
  const length = new DataView(bytes).getUint32(0, true);
  const { n, model, names } = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
  let at = 4 + length;
  const take = (Kind) => { const part = new Kind(bytes.slice(at, at + n * Kind.BYTES_PER_ELEMENT)); at += n * Kind.BYTES_PER_ELEMENT; return part; };
  const [x, y, label, predicted, round, sure] = [Uint16Array, Uint16Array, Int16Array, Int16Array, Int16Array, Uint8Array].map(take);
  const xy = new Uint16Array(2 * n);
  for (let i = 0; i < n; i++) { xy[2 * i] = x[i]; xy[2 * i + 1] = y[i]; }
  data = { n, model, names, xy, label, predicted, round, sure };
  points.setPlaces(xy);
  color();
  chips();
  $("map-note").textContent = `${n.toLocaleString("en")} images${drawing || session.multilabel ? "" : "; hold shift and draw a line around some"}`;
}

function color() {
  if (!data) return;
  const by = $("map-color").value;
  const { n, label, predicted, round, sure } = data;
  const most = by === "round" ? Math.max(1, ...new Set(round)) : 1;
  const palette = data.names.map((_, k) => classColor(k));
  const ramp = Array.from({ length: 256 }, (_, k) => scaleColor(k / 255));
  const colors = new Uint8Array(3 * n);
  const inFront = new Uint8Array(n);
  for (let i = 0; i < n; i++) {
    let rgb = GRAY;
    let front = 0;
    if (by === "label" && label[i] >= 0) [rgb, front] = [palette[label[i]], 1];
    else if (by === "predicted" && predicted[i] >= 0) rgb = palette[predicted[i]];
    else if (by === "sure" && predicted[i] >= 0) rgb = ramp[255 - sure[i]];
    else if (by === "round" && round[i] > 0) [rgb, front] = [ramp[Math.round((255 * round[i]) / most)], 1];
    colors.set(rgb, 3 * i);
    inFront[i] = front;
  }
  points.setColors(colors, inFront);
  draw();
}

function chips() {
  const counts = new Array(data.names.length).fill(0);
  for (let i = 0; i < data.n; i++) if (data.predicted[i] >= 0 && data.label[i] < 0) counts[data.predicted[i]]++;
  $("chips").hidden = session.blind;
  $("chips").replaceChildren(...session.classes.map((name) => {
    const k = data.names.indexOf(name);
    const chip = element("button");
    chip.type = "button";
    const dot = element("span", undefined, "dot");
    dot.style.background = css(classColor(Math.max(0, k)));
    chip.append(dot, name, element("small", String(counts[k] || 0)));
    chip.title = `images without a label that are probably ${name}`;
    chip.addEventListener("click", () => once(() => sheetOf({ kind: "class", label: name })));
    return chip;
  }));
}

let asked = false;
function draw() {
  if (asked || !points) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; points.draw(view); drawLasso(); });
}

// Between places on the map, in [0, 1], and places on the screen.
function box() {
  const frame = $("map").getBoundingClientRect();
  return { frame, unit: 0.95 * view.scale * Math.min(frame.width, frame.height) };
}
function toMap(clientX, clientY) {
  const { frame, unit } = box();
  return [view.x + (clientX - frame.left - frame.width / 2) / unit, view.y - (clientY - frame.top - frame.height / 2) / unit];
}
function toScreen([x, y]) {
  const { frame, unit } = box();
  return [frame.width / 2 + (x - view.x) * unit, frame.height / 2 - (y - view.y) * unit];
}

function drawLasso() {
  const canvas = $("lasso");
  canvas.width = canvas.clientWidth;
  canvas.height = canvas.clientHeight;
  if (!lasso) return;
  const context = canvas.getContext("2d");
  context.beginPath();
  for (const corner of lasso) context.lineTo(...toScreen(corner));
  context.closePath();
  context.fillStyle = "rgba(90, 150, 220, .2)";
  context.strokeStyle = getComputedStyle(document.body).color;
  context.fill();
  context.stroke();
}

function zoomAt(clientX, clientY, factor) {
  const [x, y] = toMap(clientX, clientY);
  const scale = Math.min(400, Math.max(0.8, view.scale * factor));
  const used = scale / view.scale;
  Object.assign(view, { scale, x: x - (x - view.x) / used, y: y - (y - view.y) / used });
  draw();
}

async function sheetInside(corners) {
  const step = Math.ceil(corners.length / 200);
  await once(() => sheetOf({ kind: "lasso", points: corners.filter((_, i) => i % step === 0), id: undefined }));
}

function inView() {
  const { frame } = box();
  const corners = [[frame.left, frame.top], [frame.right, frame.top], [frame.right, frame.bottom], [frame.left, frame.bottom]];
  return sheetInside(corners.map(([x, y]) => toMap(x, y).map((value) => Math.min(5, Math.max(-5, value)))));
}

// The point nearest to the pointer, and a look at its image.
let peeking = 0;
function peek(event) {
  if (!data || moving || lasso) return;
  const [x, y] = toMap(event.clientX, event.clientY).map((value) => value * 65535);
  const { frame, unit } = box();
  const reach = ((8 / unit) * 65535) ** 2;
  let [best, least] = [-1, reach];
  for (let i = 0; i < data.n; i++) {
    const d = (data.xy[2 * i] - x) ** 2 + (data.xy[2 * i + 1] - y) ** 2;
    if (d < least) [best, least] = [i, d];
  }
  const box_ = $("map-peek");
  if (best < 0) { box_.hidden = true; peeked = -1; return; }
  box_.style.left = `${Math.min(frame.width - 100, event.clientX - frame.left + 12)}px`;
  box_.style.top = `${Math.max(0, Math.min(frame.height - 120, event.clientY - frame.top + 12))}px`;
  if (best === peeked) return;
  peeked = best;
  const number = ++peeking;
  fetch(`api/map/at?k=${best}`).then((response) => response.json()).then((found) => {
    if (number !== peeking || peeked !== best) return;
    const image = box_.querySelector("img");
    image.onload = () => { image.classList.toggle("small", image.naturalWidth < 64); box_.hidden = false; };
    image.src = `${found.image}&size=small`;
    const known = data.label[best] >= 0 ? data.names[data.label[best]] : data.predicted[best] >= 0 ? `probably ${data.names[data.predicted[best]]}` : "";
    box_.querySelector("figcaption").textContent = `${found.id} ${known}`;
  }, () => undefined);
}

export function startMap() {
  points = makePoints($("map"));
  const canvas = $("map");
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoomAt(event.clientX, event.clientY, Math.exp(-event.deltaY * 0.002)); }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    $("map-peek").hidden = true;
    if (event.shiftKey || drawing) lasso = [toMap(event.clientX, event.clientY)];
    else moving = [event.clientX, event.clientY];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (lasso) {
      lasso.push(toMap(event.clientX, event.clientY));
    } else if (moving) {
      const { unit } = box();
      view.x -= (event.clientX - moving[0]) / unit;
      view.y += (event.clientY - moving[1]) / unit;
      moving = [event.clientX, event.clientY];
    } else {
      requestAnimationFrame(() => peek(event));
      return;
    }
    draw();
  });
  canvas.addEventListener("pointerup", () => {
    const corners = lasso;
    lasso = moving = null;
    drawing = false;
    $("map-lasso").setAttribute("aria-pressed", "false");
    canvas.classList.remove("drawing");
    draw();
    if (corners && corners.length > 4) sheetInside(corners);
  });
  canvas.addEventListener("pointerleave", () => { peeked = -1; peeking++; $("map-peek").hidden = true; });
  canvas.addEventListener("keydown", (event) => {
    const by = 0.1 / view.scale;
    const move = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, by], ArrowDown: [0, -by] }[event.key];
    const frame = canvas.getBoundingClientRect();
    const middle = [frame.left + frame.width / 2, frame.top + frame.height / 2];
    if (move) { view.x += move[0]; view.y += move[1]; draw(); }
    else if (event.key === "+" || event.key === "=") zoomAt(...middle, 1.5);
    else if (event.key === "-") zoomAt(...middle, 1 / 1.5);
    else if (event.key === "Enter") inView();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  $("map-color").addEventListener("change", () => { $("map-color").blur(); color(); });
  $("map-fit").addEventListener("click", () => { Object.assign(view, { x: 0.5, y: 0.5, scale: 1 }); draw(); });
  $("map-view").addEventListener("click", inView);
  $("map-lasso").addEventListener("click", () => {
    drawing = !drawing;
    $("map-lasso").setAttribute("aria-pressed", String(drawing));
    canvas.classList.toggle("drawing", drawing);
    if (drawing) notify("draw a line around the images to label");
  });
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  globalThis.ssld.map = { view, draw: () => points.draw(view), data: () => data };
}

// The map follows the labels, but not every single one.
export async function followMap(status) {
  if (!points) return;
  const changed = status.model !== seen.model || Math.abs(status.counts.labeled - seen.labels) >= (data ? 5 : 1) || !data;
  if (!changed || performance.now() - seen.at < (now.mode === "sheet" && data ? 15000 : 3000)) return;
  seen = { labels: status.counts.labeled, model: status.model, at: performance.now() };
  await loadMap().catch(() => undefined);
  now.mapped = true;
}
