// Views beside labeling: what is suspicious or disputed, history, and search.

import { $, ask, button, element, notify, percent, randomId } from "./elements.js";
import { chooseExample, isChosen } from "./examples.js";
import { call, once, send, soon } from "./requests.js";
import { done, may, me, now, session } from "./session.js";
import { said } from "./sets.js";
import { setMode, sheetOf } from "./sheet.js";
import { take } from "./single.js";
import { state } from "./state.js";

const SECTIONS = { label: "view-label", suspicious: "view-review", disputed: "view-review", history: "view-history", search: "view-search" };
let items = []; // samples to review: { row, card }
let at = 0;
let seen = 0; // last event that the items show

export const view = () => now.view || "label";

export async function open(name, more) {
  now.view = name;
  if (name === "label" && !more && now.sample === null && now.mode === "single" && now.started) await setMode("single");
  for (const id of new Set(Object.values(SECTIONS))) $(id).hidden = id !== SECTIONS[name];
  for (const tab of document.querySelectorAll("nav > button")) {
    if (tab.dataset.view === name) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  if (name === "suspicious" || name === "disputed") await review(name);
  if (name === "history") await history(more);
}

async function toLabel(task) {
  await open("label", "task");
  await once(task);
}

// -- review

export async function review(kind = view()) {
  const found = await call(`api/review?kind=${kind}`);
  const { samples } = found;
  seen = found.seen;
  $("review-title").textContent = kind === "suspicious" ? "Labels that are probably wrong, and other doubts" : "Disputed and flagged images";
  $("find-suspicious").hidden = kind !== "suspicious" || session.multilabel;
  $("review-empty").hidden = samples.length > 0;
  $("review-empty").textContent = kind === "suspicious"
    ? session.multilabel ? "Nothing is suspicious. What ssld check finds in this job is shown here." : "Nothing is suspicious. “Look for wrong labels” compares every label with what a classifier says that has not seen it."
    : "No image is disputed or flagged.";
  items = samples.map((row) => ({ row, card: card(row) }));
  for (const item of items) item.card.addEventListener("pointerdown", () => select(items.indexOf(item), false)); // its place changes
  $("review").replaceChildren(...items.map((item) => item.card));
  select(0, false);
}

function card(row) {
  const made = element("li");
  const image = element("img");
  image.src = `${row.image}&size=small`;
  image.alt = row.id;
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 64));
  const what = element("div", undefined, "what");
  const votes = Object.entries(row.votes).map(([name, label]) => `${name}: ${label === null ? "skipped" : said(label)}`).join(", ");
  what.append(element("b", row.id), element("p", [row.note, votes, row.flagged ? "flagged" : ""].filter(Boolean).join(" · ")));
  const decisions = element("div", undefined, "decisions");
  const number = () => items.findIndex((item) => item.card === made);
  if (row.label !== null) decisions.append(withKey("k", `Keep ${said(row.label)}`, () => decide(number(), "keep")));
  if (row.suggested) decisions.append(withKey("⏎", `Change to ${row.suggested}`, () => decide(number(), "change", row.suggested)));
  const others = element("select");
  others.setAttribute("aria-label", `Change the label of ${row.id}`);
  others.append(element("option", "Change to …"), ...session.classes.map((name) => element("option", name)));
  others.addEventListener("change", () => { if (others.selectedIndex > 0) decide(number(), "change", session.classes[others.selectedIndex - 1]); });
  others.hidden = session.multilabel;
  decisions.append(others, withKey("d", "Drop", () => decide(number(), "drop")), button("Look closely", () => toLabel(async () => { await setMode("single", row); await take(row); })));
  what.append(decisions);
  const pictures = element("div", undefined, "side");
  pictures.append(image);
  if (row.beside) {
    const other = element("img");
    other.src = `${row.beside}&size=small`;
    other.alt = row.note;
    other.addEventListener("load", () => other.classList.toggle("small", other.naturalWidth < 64));
    pictures.append(other);
  }
  made.append(pictures, what);
  return made;
}

function withKey(key, text, task) {
  const made = button(text, task);
  made.prepend(element("kbd", key));
  return made;
}

function select(k, scroll = true) {
  at = Math.max(0, Math.min(items.length - 1, k));
  items.forEach((item, i) => item.card.classList.toggle("current", i === at));
  if (scroll && items.length) items[at].card.scrollIntoView({ block: "nearest" });
}

// The card goes at once, so that the next key decides the next one, however long the server takes.
function decide(k, decision, label = null) {
  const item = items[k];
  if (!item) return;
  item.card.remove();
  items.splice(k, 1);
  select(Math.min(k, items.length - 1));
  $("review-empty").hidden = items.length > 0;
  const body = { ...me(), id: item.row.id, decision, label, digest: item.row.digest, seen, token: randomId() };
  soon(async () => {
    try {
      await send(body, "api/decide");
    } catch (error) {
      await again(k).catch(() => undefined); // somebody else was faster, or the image has changed: it comes back
      throw error;
    }
    done.push(body.token);
    notify(`${item.row.id}: ${decision === "keep" ? "kept" : decision === "drop" ? "dropped" : label}`);
    state();
  });
}

// Shows what there is to review now, at the same place.
async function again(k) {
  await review();
  select(k);
  state();
}

// Takes the last action back, whatever it was; what was said before stands again.
const undoHere = () => soon(async () => {
  if (done.last() === undefined) { notify("this tab has nothing to undo"); return; }
  const { sample, ids } = await call("api/undo", { ...me(), token: done.last() });
  done.pop();
  notify(sample || ids.length ? `withdrawn: ${sample ? sample.id : `${ids.length} images`}` : "that does not stand any more");
  if (now.mode === "single") now.sample = null; // the sample that the tab had went back to the queue
  await review();
  state();
});

// Whether a key belongs to the view that is open.
export function pressInView(event) {
  if (view() !== "suspicious" && view() !== "disputed") return view() !== "label";
  if (event.key === "ArrowDown") select(at + 1);
  else if (event.key === "ArrowUp") select(at - 1);
  else if (event.key === "k" && items[at] && items[at].row.label !== null) decide(at, "keep");
  else if (event.key === "d") decide(at, "drop");
  else if (event.key === "u") undoHere();
  else if (event.key === "Enter" && items[at]?.row.suggested && !event.target.closest("button, select")) decide(at, "change", items[at].row.suggested);
  else return false;
  event.preventDefault();
  return true;
}

export function changeCurrent(name) {
  if (session.multilabel) notify("“Look closely” gives an image another set of classes");
  else if (items.length) decide(at, "change", name);
}

// -- history

const DONE = {
  labeled: "labeled", corrected: "corrected to", skipped: "skipped", dropped: "dropped", "un-labeled": "withdrew the vote", flagged: "flagged",
  "un-flagged": "removed the flag", kept: "kept the label", "un-kept": "took back that the label is right", commented: "said", renamed: "renamed", merged: "merged", removed: "removed the class",
};
let oldest = null;

function rows(table, head, body, append = false) {
  if (!append) {
    const line = element("tr");
    for (const [text, number] of head) { const cell = element("th", text, number ? "number" : ""); cell.scope = "col"; line.append(cell); }
    const thead = element("thead");
    thead.append(line);
    table.replaceChildren(thead, element("tbody"));
  }
  for (const cells of body) {
    const line = element("tr");
    cells.forEach((cell, k) => { const made = element("td", typeof cell === "string" ? cell : undefined, head[k][1] ? "number" : ""); if (typeof cell !== "string") made.append(cell); line.append(made); });
    table.tBodies[0].append(line);
  }
}

async function history({ id = "", annotator = "", before = null } = {}) {
  const query = new URLSearchParams({ ...(id && { id }), ...(annotator && { annotator }), ...(before !== null && { before }) });
  const found = await call(`api/history?${query}`);
  if (before === null) {
    $("history-title").textContent = id ? `History of ${id}` : "People";
    $("people").parentElement.hidden = Boolean(id);
    const head = [["Name"], ["Labels", true], ["Skips", true], ["Seconds a label", true], ["Agrees with others", true], ["Overruled", true]];
    rows($("people"), head, found.annotators.map((each) => [
      button(each.name, () => once(() => open("history", { annotator: each.name })), "plain"), String(each.votes), String(each.skips),
      each.seconds === null ? "" : each.seconds.toFixed(1), each.agreed === null ? "" : `${percent(each.agreed)} of ${each.compared}`, String(each.overruled),
    ]));
    $("events-title").textContent = annotator ? `What ${annotator} did` : "What was done";
  }
  const head = [["When"], ["Who"], ["What"], ["Image"], ["Seconds", true]];
  rows($("events"), head, found.events.map((event) => {
    const what = [DONE[event.kind] || event.kind, event.label === null ? "" : said(event.label), event.kind === "renamed" || event.kind === "merged" ? `to ${event.text}` : event.text || "", event.final ? "(final)" : ""];
    const image = event.id ? button(event.id, () => toLabel(async () => { await setMode("single", event); await take({ id: event.id, flagged: false }); }), "plain") : "";
    return [new Date(1000 * event.at).toLocaleString(), event.annotator, what.filter(Boolean).join(" "), image, event.seconds === null ? "" : event.seconds.toFixed(1)];
  }), before !== null);
  oldest = { id, annotator, before: found.events.at(-1)?.number ?? null };
  $("older").hidden = found.events.length < 100 || oldest.before === null;
}

// -- search

let searched = { text: "", start: 0, samples: [] };

async function find(text, start = 0) {
  const found = await call(`api/search?${new URLSearchParams({ q: text, start, n: 60 })}`);
  searched = { text, start: start + found.samples.length, samples: start ? [...searched.samples, ...found.samples] : found.samples };
  await open("search");
  $("search-title").textContent = `${found.total.toLocaleString("en")} ${found.total === 1 ? "image" : "images"}${text ? ` for ${text}` : ""}`;
  $("more-found").hidden = searched.start >= found.total;
  const free = searched.samples.filter((each) => each.free).length;
  $("search-sheet").hidden = free === 0 || session.multilabel;
  $("search-sheet").textContent = `Label ${Math.min(96, free)} of these on a sheet`;
  $("found").replaceChildren(...searched.samples.map((each) => {
    const image = element("img");
    image.src = `${each.image}&size=small`;
    image.alt = "";
    image.loading = "lazy";
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 64));
    const made = button("", () => toLabel(async () => { await setMode("single", each); await take(each); }));
    made.append(image, element("b", each.label === null ? "no label" : said(each.label)), element("span", `${each.id}${each.flagged ? " · flagged" : ""}`));
    const item = element("li");
    item.append(made, ...exampleButtons(each));
    return item;
  }));
}

// One click makes a labeled image what the class looks like, and another one ends that.
function exampleButtons(each) {
  if (!may("owner") || each.label === null) return [];
  return [each.label].flat().filter((name) => session.classes.includes(name)).map((name) => {
    const made = button(`Example of ${name}`, () => once(async () => {
      const on = !isChosen(name, each.id);
      await chooseExample(each.id, name, on);
      made.setAttribute("aria-pressed", String(on));
      notify(on ? `${each.id} shows what ${name} looks like` : `${each.id} is no longer an example of ${name}`);
    }), "as-example");
    made.setAttribute("aria-pressed", String(isChosen(name, each.id)));
    made.setAttribute("aria-label", `${each.id} as example of ${name}`);
    return made;
  });
}

export async function findClass(name) {
  $("search").value = `class:${/[\s"']/.test(name) ? `"${name.replaceAll(/["\\]/g, "\\$&")}"` : name} is:labeled`;
  await find($("search").value);
}

export const comment = () => once(async () => {
  if (now.sample === null) return;
  const of = now.sample.id;
  const text = await ask(`Comment on ${of}`, "");
  if (!text) return;
  await call("api/comment", { ...me(), id: of, text, token: randomId() });
  notify("comment kept: see the history of this image");
});

export function startViews() {
  for (const tab of document.querySelectorAll("nav > button")) tab.addEventListener("click", () => once(() => open(tab.dataset.view)));
  $("find-suspicious").addEventListener("click", () => once(async () => {
    await call("api/suspicious", {});
    notify("looking for wrong labels; this takes a few seconds");
    setTimeout(() => once(async () => { if (view() === "suspicious") await review(); }), 3000);
  }));
  $("older").addEventListener("click", () => once(() => history(oldest)));
  $("of-sample").addEventListener("click", () => { if (now.sample) once(() => open("history", { id: now.sample.id })); });
  $("search-form").addEventListener("submit", (event) => { event.preventDefault(); $("search").blur(); once(() => find($("search").value)); });
  $("more-found").addEventListener("click", () => once(() => find(searched.text, searched.start)));
  $("search-sheet").addEventListener("click", () => toLabel(() => sheetOf({ kind: "ids", ids: searched.samples.filter((each) => each.free).map((each) => each.id).slice(0, 96) })));
}
