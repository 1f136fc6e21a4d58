// Many similar images at once: the wrong ones are clicked out, one key labels the rest.

import { enableClasses } from "./classes.js";
import { $, element, notify, randomId } from "./elements.js";
import { call, once, persist, send, soon } from "./requests.js";
import { done, me, now, session, stored } from "./session.js";
import { next, show } from "./single.js";
import { state } from "./state.js";

const wanted = { kind: "class", label: null };
let shown = []; // { sample, tile, out, unreadable }
let last = null; // tile that was clicked last, where a range begins
let under = null; // tile under the pointer

// Samples that were clicked out wait to be labeled one at a time, also over a reload.
const read = (name) => JSON.parse(sessionStorage.getItem(name) || "[]");
export const waiting = {
  all: () => read(stored("out")),
  add(ids) { sessionStorage.setItem(stored("out"), JSON.stringify([...new Set([...read(stored("out")), ...ids])].slice(-400))); },
  remove(id) { sessionStorage.setItem(stored("out"), JSON.stringify(read(stored("out")).filter((other) => other !== id))); },
};

const narrow = matchMedia("(max-width: 900px)");
const columns = (n) => (narrow.matches ? { 6: 2, 24: 4, 96: 8 } : { 6: 3, 24: 8, 96: 16 })[n];
narrow.addEventListener("change", () => $("tiles").style.setProperty("--columns", columns(Number($("sheet-size").value))));

const kept = () => shown.filter((each) => !each.out);

export function showKinds() {
  const names = session.blind ? [] : session.classes;
  const options = [["class", "the surest class", session.blind], ["similar", "similar images"], ...names.map((name) => [`=${name}`, `probably ${name}`])];
  if (wanted.kind === "lasso") options.push(["lasso", "this part of the map"]);
  const chosen = wanted.label === null ? wanted.kind : `=${wanted.label}`;
  $("sheet-kind").replaceChildren(...options.filter((option) => !option[2]).map(([value, text]) => {
    const option = element("option", text);
    option.value = value;
    option.selected = value === chosen;
    return option;
  }));
}

export async function loadSheet(more = {}) {
  const n = Number($("sheet-size").value);
  now.sheet = false;
  const found = await persist(() => call("api/sheet", { ...me(), n, without: waiting.all(), sure: Number($("sure").value) / 100, ...wanted, ...more }));
  now.suggested = found.label;
  now.sample = null;
  sessionStorage.setItem(stored("until"), found.samples.length ? String(found.samples[0].until) : "");
  $("sure-label").hidden = session.blind || wanted.kind !== "class";
  const title = found.samples.length ? found.title : "No such images are left: choose others, or label one at a time";
  $("sheet-title").replaceChildren(title, " ", element("small", found.samples.length ? `${found.samples.length} images${found.left ? `, ${found.left} more like these` : ""}` : ""));
  $("tiles").style.setProperty("--columns", columns(n));
  shown = found.samples.map((sample, k) => made(sample, k));
  last = under = null;
  $("tiles").replaceChildren(...shown.map((each) => each.tile));
  update();
  await Promise.all(shown.map((each) => each.image.decode().catch(() => { each.unreadable = true; set(each, true); })));
  for (const each of shown) each.image.classList.toggle("small", each.image.naturalWidth < 64);
  now.sheet = shown.length > 0;
  now.shownAt = performance.now();
  enableClasses();
  update();
}

function made(sample, k) {
  const tile = element("button");
  tile.type = "button";
  const image = element("img");
  image.src = `${sample.image}&size=small`;
  image.alt = sample.id;
  image.decoding = "async";
  tile.append(image);
  tile.setAttribute("aria-pressed", "true");
  tile.setAttribute("aria-keyshortcuts", "x");
  tile.title = sample.id;
  const each = { sample, tile, image, out: false, unreadable: false };
  tile.addEventListener("click", (event) => {
    const from = last === null || !event.shiftKey ? k : last;
    const out = event.shiftKey && last !== null ? shown[last].out : !each.out;
    for (let i = Math.min(from, k); i <= Math.max(from, k); i++) set(shown[i], out);
    last = k;
    update();
  });
  tile.addEventListener("pointerenter", () => { under = each; });
  tile.addEventListener("pointerleave", () => { if (under === each) under = null; });
  return each;
}

function set(each, out) {
  each.out = out || each.unreadable;
  each.tile.setAttribute("aria-pressed", String(!each.out));
}

function update() {
  const n = kept().length;
  $("accept").hidden = now.suggested === null || now.suggested === undefined || n === 0;
  if ($("accept").hidden) return;
  const key = session.keys[session.classes.indexOf(now.suggested)];
  $("accept").replaceChildren(`Label ${n} ${n === 1 ? "image" : "images"} ${now.suggested} `, ...(key ? [element("kbd", key)] : []));
}

export const labelSheet = (name) => once(async () => {
  const chosen = kept();
  if (!now.sheet || !chosen.length) return;
  now.sheet = false;
  enableClasses();
  const token = randomId();
  const seconds = Math.min(86400, (performance.now() - now.shownAt) / 1000 / chosen.length);
  const samples = chosen.map(({ sample }) => ({ id: sample.id, digest: sample.digest }));
  try {
    await send({ ...me(), samples, label: name, seconds, token }, "api/sheet/label");
    done.push(token);
    waiting.add(shown.filter((each) => each.out).map((each) => each.sample.id));
    const n = waiting.all().length;
    notify(`${chosen.length} labeled ${name}${n ? `; ${n} taken out wait in single mode` : ""}`);
    if (wanted.kind === "similar" && wanted.id) delete wanted.id;
  } catch (error) {
    if (error.status !== 409) throw error;
    notify(error.message, true); // an image has changed since: the sheet is shown again
  }
  await loadSheet();
  state();
});

// Another sheet instead of this one, which comes back only if nothing else is left.
export const otherSheet = () => once(async () => {
  const ids = shown.map((each) => each.sample.id);
  await loadSheet({ without: [...waiting.all(), ...ids].slice(-500) });
});

// A sheet gives all of its images one class, which is not enough where an image may have several.
const offered = () => { if (session.multilabel) notify("an image may have several classes here: label one at a time"); return !session.multilabel; };

export async function setMode(mode, more) {
  if (mode === "sheet" && !offered()) return;
  now.mode = mode;
  sessionStorage.setItem(stored("mode"), mode);
  const sheet = mode === "sheet";
  document.body.classList.toggle("sheeting", sheet);
  $("sheet").hidden = !sheet;
  $("single").hidden = sheet;
  $("single-mode").setAttribute("aria-pressed", String(!sheet));
  $("sheet-mode").setAttribute("aria-pressed", String(sheet));
  $("skip").lastChild.textContent = sheet ? " Other images" : " Skip";
  if (sheet) {
    show(null);
    $("empty").hidden = true;
    showKinds();
    await loadSheet(more);
  } else {
    now.suggested = null;
    if (!more) await next();
  }
}

export const switchMode = () => once(() => setMode(now.mode === "sheet" ? "single" : "sheet"));

export async function sheetOf(more) {
  Object.assign(wanted, { label: null }, more);
  await setMode("sheet");
}

const current = () => shown.find((each) => each.tile === document.activeElement) || under;

// Whether a key belongs to the sheet.
export function pressInSheet(event) {
  const at = shown.findIndex((each) => each.tile === document.activeElement);
  const row = columns(Number($("sheet-size").value));
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row }[event.key];
  const each = current();
  if (step !== undefined && shown.length) {
    const to = at < 0 ? 0 : Math.min(shown.length - 1, Math.max(0, at + step));
    if (event.shiftKey && at >= 0) { set(shown[to], shown[at].out); update(); }
    shown[to].tile.focus();
    last = to;
  } else if (event.key === "x" && each) {
    set(each, !each.out);
    update();
  } else if (event.key === "z" && each) {
    $("peek").src = `${each.sample.image}&size=page`;
    $("peek").classList.toggle("small", each.image.naturalWidth < 64);
    $("peek").hidden = false;
  } else if (event.key === "m" && each) {
    once(() => sheetOf({ kind: "similar", id: each.sample.id }));
  } else if (event.key === "f" && each) {
    once(async () => {
      await send({ ...me(), id: each.sample.id, verb: "flag", seconds: null, token: randomId() });
      notify(`flagged: ${each.sample.id}`);
    });
  } else if (event.key === "Enter" && at < 0 && !$("accept").hidden && document.activeElement === document.body) {
    labelSheet(now.suggested);
  } else {
    return false;
  }
  event.preventDefault();
  return true;
}

addEventListener("keyup", (event) => { if (event.key === "z") $("peek").hidden = true; });
addEventListener("blur", () => { $("peek").hidden = true; });

export function startSheet() {
  $("sheet-kind").addEventListener("change", () => {
    const value = $("sheet-kind").value;
    Object.assign(wanted, { id: undefined }, value.startsWith("=") ? { kind: "class", label: value.slice(1) } : { kind: value, label: null });
    $("sheet-kind").blur();
    soon(loadSheet);
  });
  for (const id of ["sheet-size", "sure"]) $(id).addEventListener("change", () => { $(id).blur(); soon(loadSheet); });
  $("accept").addEventListener("click", () => labelSheet(now.suggested));
  $("single-mode").addEventListener("click", () => once(() => setMode("single")));
  $("sheet-mode").addEventListener("click", () => once(() => setMode("sheet")));
}
