// What the modules of the page share.

import { randomId } from "./elements.js";

export const session = { csrf: "", account: null, job: "", home: "", classes: [], keys: [], numbers: [], blind: false, multilabel: false, examples: {} };

// What is on the screen. `ready`: whether the image of the sample is there: nothing can be said about it before.
export const now = { sample: null, ready: false, shownAt: 0, flagged: false, busy: false, preloaded: [], mode: "single", counts: {}, targets: {} };
globalThis.ssld = { session, now };

// A tab keeps its identity over a reload, so that it gets the same sample again; another tab has its own.
export const holder = sessionStorage.getItem("ssld-tab") || randomId();
sessionStorage.setItem("ssld-tab", holder);
// With an account its name is recorded, whatever name was given before.
export const who = () => (session.account ? session.account.name : localStorage.getItem("ssld-annotator") || "");
const ROLES = ["annotator", "reviewer", "owner"];
export const may = (needed) => session.account === null || ROLES.indexOf(session.account.role) >= ROLES.indexOf(needed);
export const me = () => ({ annotator: who(), holder });

// Where a tab keeps something about this job: it may go from one job of a server to another.
export const stored = (name) => `ssld-${name}${location.pathname === "/" ? "" : location.pathname}`;

// Tokens of the actions of this tab, the latest at the end: undo takes back these and no others.
const actions = JSON.parse(sessionStorage.getItem(stored("votes")) || "[]");
const keep = () => sessionStorage.setItem(stored("votes"), JSON.stringify(actions.slice(-200)));
export const done = {
  push(token) { actions.push(token); keep(); },
  last: () => actions.at(-1),
  pop() { actions.pop(); keep(); },
};
