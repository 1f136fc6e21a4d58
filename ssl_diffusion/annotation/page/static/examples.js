// What the classes look like: a few labeled images of each, on its button, larger beside it, and in the list of classes.

import { showClasses } from "./classes.js";
import { $, element } from "./elements.js";
import { call } from "./requests.js";
import { now, session } from "./session.js";

let seen = ""; // word of the server, which changes when the examples may have become others
let showing = null; // button whose class is shown large

export const examplesOf = (name) => session.examples[name] || [];
export const isChosen = (name, id) => examplesOf(name).some((each) => each.id === id && each.chosen);

export function picture(example, className) {
  const image = element("img", undefined, className);
  image.src = `${example.image}&size=small`;
  image.alt = "";
  image.loading = "lazy";
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 64));
  image.addEventListener("error", () => image.remove());
  return image;
}

function use({ examples }) {
  session.examples = examples;
  hideLarge();
  showClasses();
}

export async function followExamples(word) {
  if (word === seen) return;
  seen = word;
  try {
    use(await call("api/examples"));
  } catch {
    seen = ""; // the next look at the state tries again
  }
}

export const chooseExample = async (id, name, on) => use(await call("api/example", { id, name, on }));

// Beside the button under the pointer, or with the focus of the keyboard.
export function showsLarge(made, name) {
  const show = () => {
    const examples = examplesOf(name);
    if (!examples.length) return;
    showing = made;
    const box = $("class-peek");
    const pictures = element("div", undefined, "row");
    pictures.append(...examples.map((each) => picture(each)));
    box.replaceChildren(pictures, element("figcaption", caption(name)));
    box.hidden = false;
    const at = made.getBoundingClientRect();
    const { width, height } = box.getBoundingClientRect();
    box.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
    box.style.top = `${at.top - height - 6 > 0 ? at.top - height - 6 : Math.min(at.bottom + 6, innerHeight - height - 4)}px`;
  };
  const hide = () => { if (showing === made) hideLarge(); };
  made.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") show(); });
  made.addEventListener("pointerleave", hide);
  made.addEventListener("focus", () => { if (made.matches(":focus-visible")) show(); });
  made.addEventListener("blur", hide);
}

function hideLarge() {
  showing = null;
  $("class-peek").hidden = true;
}

function caption(name) {
  const [n, target] = [now.counts[name] || 0, now.targets[name]];
  return `${name}: ${n} ${n === 1 ? "label" : "labels"}${target ? ` of ${target} that are wanted` : ""}`;
}
