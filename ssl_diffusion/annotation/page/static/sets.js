// The set of classes of the image on the screen, in jobs whose images may have several: keys and clicks toggle, Enter confirms.

import { $, element } from "./elements.js";
import { now, session } from "./session.js";

const chosen = new Set();
const given = new Map(); // sets that this tab gave, by id: an image that comes back begins with its own

// A label in words: one class, or a set of them.
export const said = (label) => (Array.isArray(label) ? label.join(", ") || "none of the classes" : label);

export const theSet = () => session.classes.filter((name) => chosen.has(name));

export function beginSet(id) {
  chosen.clear();
  for (const name of given.get(id) || []) chosen.add(name);
  showSet();
}

export function keepSet(id) { given.set(id, theSet()); }

export function toggle(name) {
  if (!now.ready) return;
  if (!chosen.delete(name)) chosen.add(name);
  showSet();
}

export function showSet() {
  $("confirm").hidden = !session.multilabel;
  if (!session.multilabel) return;
  for (const made of $("classes").children) made.setAttribute("aria-pressed", String(chosen.has(made.dataset.name)));
  $("confirm").disabled = !now.ready || !session.classes.length;
  $("confirm").replaceChildren(element("kbd", "⏎"), chosen.size ? `Label ${said(theSet())}` : "None of the classes");
}
