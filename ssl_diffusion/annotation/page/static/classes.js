// The buttons of the classes, their keys, and the search for a class.

import { classColor, css } from "./colors.js";
import { $, ask, confirm, element, notify } from "./elements.js";
import { examplesOf, picture, showsLarge } from "./examples.js";
import { call, once } from "./requests.js";
import { may, now, session } from "./session.js";
import { showSet } from "./sets.js";

let choose = () => undefined; // what a class that is chosen does
let pending = ""; // first key of a pair
let forgetting = null;

export function onClass(task) { choose = task; }

// How well a name, or its key, fits what was typed, larger is better; 0 if it does not: letters in order, better if together or at the start of a word.
export function fit(name, wanted, key) {
  const text = name.toLowerCase();
  if (!wanted) return 1;
  if (text === wanted) return 5;
  if (key === wanted) return 4.5;
  if (text.startsWith(wanted)) return 4;
  const at = text.indexOf(wanted);
  if (at > 0) return /[^\p{L}\p{N}]/u.test(text[at - 1]) ? 3.5 : 3;
  let last = -1;
  let gaps = 0;
  for (const letter of wanted) {
    const found = text.indexOf(letter, last + 1);
    if (found < 0) return 0;
    gaps += found - last - 1;
    last = found;
  }
  return 1 + 1 / (1 + gaps);
}

export function showClasses() {
  const wanted = $("filter").value.trim().toLowerCase();
  $("filter").hidden = session.classes.length <= 10;
  const rows = session.classes.map((name, k) => ({ name, key: session.keys[k], number: session.numbers[k], fits: fit(name, wanted, session.keys[k]) }));
  if (wanted) rows.sort((a, b) => b.fits - a.fits);
  $("classes").replaceChildren(...rows.map(({ name, key, number, fits }) => {
    const made = element("button");
    made.type = "button";
    if (key) {
      made.append(element("kbd", key));
      made.setAttribute("aria-keyshortcuts", [...key].join(" "));
    }
    const dot = element("span", undefined, "dot"); // the color of the class on the map
    dot.style.background = css(classColor(number));
    made.append(dot);
    const [example] = examplesOf(name);
    if (example) made.append(picture(example, "example"));
    const words = element("span", undefined, "words"); // the count goes below a name that leaves no room for it
    words.append(element("span", name, "name"), element("span", "", "count"));
    made.append(words);
    made.dataset.name = name;
    showCount(made);
    showsLarge(made, name);
    made.hidden = fits === 0;
    made.addEventListener("click", () => choose(name));
    return made;
  }));
  $("no-classes").hidden = session.classes.length > 0;
  enableClasses();
}

export function enableClasses() {
  const able = now.mode === "sheet" ? now.sheet : now.ready;
  for (const made of $("classes").children) {
    made.disabled = !able;
    made.classList.toggle("probable", now.mode === "sheet" && made.dataset.name === now.suggested);
  }
  showSet();
}

export function useClasses({ classes, keys, numbers }) {
  if (classes.join("\n") === session.classes.join("\n") && keys.join(" ") === session.keys.join(" ") && String(numbers) === String(session.numbers)) return;
  Object.assign(session, { classes, keys, numbers });
  showClasses();
}

// The labels of a class beside those that are wanted, and how far that is as a line below.
function showCount(made) {
  const name = made.dataset.name;
  const [n, target] = [now.counts[name] || 0, now.targets[name]];
  const reached = target !== undefined && n >= target;
  made.querySelector(".count").textContent = target === undefined ? (n ? String(n) : "") : `${reached ? "✓ " : ""}${n}/${target}`;
  made.classList.toggle("wanted", target !== undefined);
  made.classList.toggle("reached", reached);
  made.style.setProperty("--done", target === undefined ? 0 : Math.min(1, n / target));
  made.title = target === undefined ? "" : `${n} of ${target} labels that are wanted`;
}

export function showCounts(labels, targets) {
  if (JSON.stringify([labels, targets]) === JSON.stringify([now.counts, now.targets])) return;
  const before = now.counts;
  Object.assign(now, { counts: labels, targets });
  for (const made of $("classes").children) showCount(made);
  const reached = Object.keys(targets).filter((name) => name in before && before[name] < targets[name] && labels[name] >= targets[name]);
  if (reached.length) notify(`${reached.join(", ")}: ${reached.length > 1 ? "the numbers" : "the number"} of labels that ${reached.length > 1 ? "are" : "is"} wanted`);
}

function forget() {
  clearTimeout(forgetting);
  pending = "";
  $("pending").textContent = "";
}

// Whether a key was that of a class, or the first of a pair.
export function pressClass(key) {
  const typed = pending + key.toLowerCase();
  forget();
  const found = session.keys.indexOf(typed);
  if (found >= 0) {
    choose(session.classes[found]);
    return true;
  }
  if (!session.keys.some((other) => other.startsWith(typed))) return typed.length > 1;
  pending = typed;
  $("pending").textContent = `${typed} …`;
  forgetting = setTimeout(forget, 2000);
  return true;
}

// Whether a key is the second of a pair, which means nothing else then: "0d" drops no image. Others end the pair.
export function pressSecond(key) {
  if (!pending) return false;
  if (/^[0-9a-z]$/i.test(key)) return pressClass(key);
  if (key !== "Shift") forget();
  return key === "Escape";
}

export const add = () => once(async () => {
  if (!may("reviewer")) return;
  const name = await ask("Name of the new class");
  if (!name) return;
  let found = await call("api/classes", { name });
  if (found.similar) {
    if (!(await confirm(`There is a class “${found.similar}” already. Add “${name}” beside it?`))) return;
    found = await call("api/classes", { name, sure: true });
  }
  useClasses(found);
  notify(`new class: ${name}${session.multilabel ? "; images that have been labeled count as images without it" : ""}`);
});

export function searchKey(event) {
  const first = [...$("classes").children].find((made) => !made.hidden);
  const leave = () => { $("filter").value = ""; $("filter").blur(); showClasses(); };
  if (event.key === "Enter" && first) { first.click(); leave(); }
  if (event.key === "Escape") leave();
}
