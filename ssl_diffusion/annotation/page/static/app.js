// The labeling page: what keys and buttons do, and the start.

import { add, onClass, pressClass, pressSecond, searchKey, showClasses } from "./classes.js";
import { showAccount } from "./account.js";
import { $, ask, notify } from "./elements.js";
import { blink, pressVerdict, stopBlinking } from "./explanation.js";
import { startClassDialog } from "./class_dialog.js";
import { startMap } from "./map.js";
import { call, once, persist, sendAgain } from "./requests.js";
import { holder, now, session, stored, who } from "./session.js";
import { toggle } from "./sets.js";
import { confirmSet, flag, label, pressInSet, skip, undo } from "./single.js";
import { labelSheet, otherSheet, pressInSheet, setMode, sheetOf, startSheet, switchMode } from "./sheet.js";
import { fit, state, stopFit } from "./state.js";
import { changeCurrent, comment, pressInView, startViews, view } from "./views.js";
import { invert, isZoomed, pan, resetZoom, startViewer, zoom } from "./viewer.js";

onClass((name) => (view() !== "label" ? changeCurrent(name) : now.mode === "sheet" ? labelSheet(name) : session.multilabel ? toggle(name) : label(name)));

function showName() {
  $("who").textContent = who();
  $("who").hidden = session.account !== null;
}

async function askName(needed) {
  const name = await ask("Your name, which is recorded with your labels", who(), { needed });
  if (!name) return;
  localStorage.setItem("ssld-annotator", name);
  showName();
}

// Under another name there may be other samples to label.
const rename = () => once(async () => { const before = who(); await askName(false); if (who() !== before) await setMode(now.mode); });

const skipOrOther = () => (now.mode === "sheet" ? otherSheet() : skip());
const single = (task) => () => { if (now.mode === "single") task(); };
const KEYS = {
  u: undo, s: skipOrOther, f: flag, n: add, " ": switchMode, b: single(() => blink()), i: single(invert),
  "+": single(() => zoom(1.6)), "=": single(() => zoom(1.6)), "-": single(() => zoom(1 / 1.6)), Escape: single(() => { resetZoom(); stopBlinking(); }),
  c: single(comment), m: single(() => { if (now.sample) once(() => sheetOf({ kind: "similar", id: now.sample.id })); }),
};
const PAN = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
  if (event.target === $("filter")) { searchKey(event); return; }
  if (event.target.closest("input, textarea, select")) return;
  if (pressSecond(event.key)) { event.preventDefault(); return; }
  if (event.key === " " && event.target.closest("button, a") && !event.target.closest("#tiles")) return;
  if (now.mode === "sheet" && pressInSheet(event)) return;
  if (view() !== "label") {
    if (!pressInView(event) && /^[0-9a-z]$/i.test(event.key) && pressClass(event.key)) event.preventDefault();
    return;
  }
  if (now.mode === "single" && PAN[event.key] && isZoomed()) { event.preventDefault(); pan(...PAN[event.key]); return; }
  if (pressInSet(event)) return;
  if (event.shiftKey && pressVerdict(event.key)) { event.preventDefault(); return; }
  if (/^[0-9a-z]$/i.test(event.key) && pressClass(event.key)) { event.preventDefault(); return; }
  if (KEYS[event.key]) { event.preventDefault(); KEYS[event.key](); }
  else if (event.key === "/" && !$("filter").hidden) { event.preventDefault(); $("filter").focus(); }
});
$("filter").addEventListener("input", showClasses);
for (const [id, task] of Object.entries({ undo, skip: skipOrOther, flag, add, fit, comment, who: rename, confirm: confirmSet })) $(id).addEventListener("click", task);
$("fit-stop").addEventListener("click", stopFit);
// A button that was clicked does not keep the focus: the space bar would press it again.
addEventListener("click", (event) => { if (event.detail > 0) event.target.closest("button:not(#tiles button)")?.blur(); });
$("cancel").addEventListener("click", () => $("ask").close("cancel"));
setInterval(() => { if (!document.hidden) state(); }, 5000);

// A tab that is left gives its sample back; if it comes back at once, as on a reload, it gets the same one again.
async function release() {
  const until = Number(sessionStorage.getItem(stored("until")));
  if (!until || !who()) return;
  const headers = { "Content-Type": "application/json", "X-CSRF-Token": session.csrf };
  await fetch("api/release", { method: "POST", headers, keepalive: true, body: JSON.stringify({ annotator: who(), holder, until }) })
    .catch(() => undefined);
}
addEventListener("pagehide", release);
addEventListener("pageshow", (event) => { if (event.persisted) once(() => setMode(now.mode)); });

(async () => {
  Object.assign(session, await persist(() => call("api/session")));
  document.title = `${session.job}: label`;
  $("job").textContent = session.job;
  document.body.classList.toggle("sets", session.multilabel);
  $("home").hidden = session.home === "";
  if (session.home) $("home").href = session.home;
  showAccount(release);
  showClasses();
  while (!who()) await askName(true);
  showName();
  await sendAgain();
  startSheet();
  startViewer();
  startMap();
  startViews();
  startClassDialog();
  await once(() => setMode(sessionStorage.getItem(stored("mode")) || "single"));
  now.started = true;
})().catch((error) => notify(error.message, true));
