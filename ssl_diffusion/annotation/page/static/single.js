// One image at a time.

import { enableClasses } from "./classes.js";
import { $, element, notify, randomId } from "./elements.js";
import { clearExplanation, explain } from "./explanation.js";
import { call, once, persist, send } from "./requests.js";
import { done, me, now, session, stored } from "./session.js";
import { showWhole } from "./viewer.js";
import { beginSet, keepSet, said, theSet } from "./sets.js";
import { setMode, waiting } from "./sheet.js";
import { state } from "./state.js";

let waitingFor = null;

function enable() {
  enableClasses();
  for (const id of ["skip", "flag", "comment"]) $(id).disabled = now.sample === null && now.mode === "single";
  $("flag").hidden = $("comment").hidden = now.mode === "sheet"; // there the key f flags the image under the pointer
}

// An image that cannot be read can be skipped or flagged, but not labeled.
export async function show(found) {
  now.sample = found;
  now.ready = now.flagged = false;
  sessionStorage.setItem(stored("until"), found === null ? "" : String(found.until));
  $("flag").setAttribute("aria-pressed", "false");
  $("image").hidden = true;
  $("id").hidden = $("note").hidden = $("of-sample").hidden = found === null;
  $("empty").hidden = found !== null;
  document.querySelector(".frame").hidden = found === null;
  $("loading").textContent = "loading the image";
  beginSet(found?.id);
  clearExplanation();
  $("explanation").hidden = session.blind || found === null;
  enable();
  if (found === null) return;
  $("id").textContent = found.id;
  $("note").textContent = found.note;
  const image = element("img");
  image.id = "image";
  image.alt = `sample ${found.id}`;
  image.src = found.image;
  try {
    await image.decode();
  } catch {
    if (now.sample === found) $("loading").textContent = await complaint(found.image);
    return;
  }
  if (now.sample !== found) return;
  $("image").replaceWith(image);
  showWhole(found.image);
  $("loading").textContent = "";
  now.ready = true;
  now.shownAt = performance.now();
  enable();
  explain(found);
}

async function complaint(address) {
  try {
    const response = await fetch(address);
    if (!response.ok) return (await response.json()).error;
  } catch { /* the banner says that there is no connection */ }
  return "The image cannot be shown: its file is damaged, or of a kind that this browser does not know.";
}

export async function next() {
  clearTimeout(waitingFor);
  const { sample: found, ahead } = (await takenOut()) || (await persist(() => call("api/next", me())));
  show(found);
  // Images that are likely to follow; kept so that the browser keeps them, too.
  now.preloaded = ahead.map((address) => { const image = new Image(); image.src = address; return image; });
  if (found === null && now.mode === "single") {
    $("empty").textContent = "Waiting for a sample: the next round is being chosen, or other annotators have the remaining ones.";
    waitingFor = setTimeout(() => once(next), 2000);
  }
  state();
}

// A sample that was taken out of a sheet comes first.
async function takenOut() {
  for (const id of waiting.all()) {
    waiting.remove(id);
    const found = await persist(() => call("api/take", { ...me(), id }));
    if (found.sample.status === "open") return { sample: { ...found.sample, note: "taken out of a sheet" }, ahead: [] };
  }
  return null;
}

export async function verb(name, more) {
  const token = randomId();
  const seconds = now.ready ? Math.min(86400, (performance.now() - now.shownAt) / 1000) : null;
  const found = await send({ ...me(), id: now.sample.id, verb: name, seconds, token, ...more });
  if (name === "label" || name === "skip") done.push(token);
  return found;
}

export const label = (name) => once(async () => {
  if (!now.ready) return;
  try {
    const { status } = await verb("label", { label: name, digest: now.sample.digest });
    notify(`${now.sample.id}: ${said(name)}${status === "labeled" ? "" : ` (${status})`}`);
  } catch (error) {
    if (error.status !== 409) throw error;
    notify(error.message, true); // the image has changed since: the sample is shown again
  }
  await next();
});

// The classes that are chosen, also none of them, become the label.
export function confirmSet() {
  if ($("confirm").disabled) return;
  keepSet(now.sample.id);
  label(theSet());
}

// Whether a key confirms the set; on a button it presses that.
export function pressInSet(event) {
  const confirms = session.multilabel && now.mode === "single" && (event.key === "Enter" || event.key === " ");
  if (!confirms || event.target.closest("button, a, summary")) return false;
  event.preventDefault();
  confirmSet();
  return true;
}

export const skip = () => once(async () => { if (now.sample !== null) { await verb("skip"); await next(); } });

export const flag = () => once(async () => {
  if (now.sample === null) return;
  await verb(now.flagged ? "un-flag" : "flag");
  showFlag(!now.flagged);
  notify(now.flagged ? "flagged" : "flag removed");
});

export function showFlag(on) {
  now.flagged = on;
  $("flag").setAttribute("aria-pressed", String(on));
}

export const undo = () => once(async () => {
  while (done.last() !== undefined) {
    const { sample: found, ids } = await persist(() => call("api/undo", { ...me(), token: done.last() }));
    done.pop();
    if (ids.length) {
      await setMode("sheet", { kind: "ids", ids, n: 96, without: [] });
      notify(`withdrawn: ${ids.length} images`);
      state();
      return;
    }
    if (found === null) continue; // it does not stand any more
    if (now.mode === "sheet") await setMode("single", found);
    show(found);
    notify(`withdrawn: ${found.id}`);
    state();
    return;
  }
  notify("this tab has nothing to undo");
});

export async function take(row) {
  const { sample: found } = await call("api/take", { ...me(), id: row.id });
  show(found);
  showFlag(row.flagged);
}
