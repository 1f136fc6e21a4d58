// What the model says of the sample on the screen: it is shown when it is ready, labeling does not wait for it.

import { $, button, element, notify, pause, randomId } from "./elements.js";
import { call, isAway, once, send } from "./requests.js";
import { me, now, session, who } from "./session.js";

export function clearExplanation() {
  $("predictions").replaceChildren();
  $("counterfactuals").replaceChildren();
  $("counterfactuals-title").hidden = true;
  $("explanation-note").textContent = "";
  shownOnes = [];
  stopBlinking();
}

export async function explain(of) {
  let shown = 0;
  for (let attempt = 0; !session.blind && now.sample === of; attempt++) {
    if (attempt) await pause(Math.min(5000, 500 * 1.2 ** attempt));
    let found = null;
    try {
      found = await call(`api/explanation?id=${encodeURIComponent(of.id)}&annotator=${encodeURIComponent(who())}`);
    } catch (error) {
      if (now.sample === of) $("explanation-note").textContent = `The predictions cannot be loaded (${error.message}).`;
      if (isAway(error)) continue;
      return;
    }
    if (now.sample !== of) return;
    showPredictions(found);
    if (found.counterfactuals.length !== shown) {
      shown = found.counterfactuals.length;
      showCounterfactuals(found.counterfactuals);
    }
    if (found.ready) return;
    $("explanation-note").textContent = "searching counterfactuals";
  }
}

const round = (p) => `${Math.round(100 * p)} %`;

// Every class over one half, and the next likely ones.
function showPredictedSet(predictions) {
  const line = (text, p) => { const made = element("p", undefined, "first"); made.append(element("span", text), element("small", p)); return made; };
  const there = predictions.filter((each) => each.probability > 0.5);
  const others = predictions.filter((each) => each.probability <= 0.5 && each.probability >= 0.01).map((each) => `${each.label} ${round(each.probability)}`);
  const lines = there.length ? there.map((each) => line(each.label, round(each.probability))) : [line("none of the classes", "")];
  $("predictions").replaceChildren(...lines, ...(others.length ? [element("p", `less likely ${others.join(", ")}`, "then")] : []));
}

function showPredictions(found) {
  $("explanation-note").textContent = found.note || (found.predictions.length ? "" : "no prediction yet");
  if (session.multilabel && found.predictions.length) { showPredictedSet(found.predictions); return; }
  const [first, ...others] = found.predictions;
  if (first === undefined) { $("predictions").replaceChildren(); return; }
  const line = element("p", undefined, "first");
  line.append(element("span", first.label), element("small", round(first.probability)));
  const meter = element("div", undefined, "meter");
  const part = element("div");
  part.style.width = `${100 * first.probability}%`;
  meter.append(part);
  const then = others.filter((other) => other.probability >= 0.01).map((other) => `${other.label} ${round(other.probability)}`);
  $("predictions").replaceChildren(line, meter, ...(then.length ? [element("p", `then ${then.join(", ")}`, "then")] : []));
}

const VERDICTS = [
  ["true", "T", (c) => `True: it shows ${c.label}`],
  ["false", "F", () => "False: nothing that matters"],
  ["none", "N", () => "None of these"],
];
let shownOnes = []; // counterfactuals on the screen that show something: { c, k, buttons, seenAt }
let blinking = { of: null, on: 0 };

function showCounterfactuals(found) {
  $("counterfactuals-title").hidden = !found.length;
  shownOnes = [];
  $("counterfactuals").replaceChildren(...found.map((c, k) => {
    const row = element("div", undefined, "counterfactual");
    row.append(element("p", c.said));
    if (!c.pictures.length) return row;
    const pictures = element("div", undefined, "pictures");
    pictures.append(...c.pictures.map((picture) => {
      const figure = element("figure");
      const image = element("img");
      image.src = picture.image;
      image.alt = `the sample, changed to ${c.label}: ${picture.caption}`;
      image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 64));
      figure.append(image, element("figcaption", picture.caption));
      return figure;
    }));
    const each = { c, k, buttons: {}, seenAt: performance.now() };
    const look = button("Blink", () => blink(each), "look");
    if (!shownOnes.length) { look.prepend(element("kbd", "b")); look.setAttribute("aria-keyshortcuts", "b"); }
    const verdicts = element("div", undefined, "verdicts");
    verdicts.setAttribute("role", "group");
    verdicts.setAttribute("aria-label", `Is it right that this shows ${c.label}?`);
    for (const [name, key, text] of VERDICTS) {
      const made = button(text(c), () => judge(each, name));
      if (!shownOnes.length) { made.prepend(element("kbd", key)); made.setAttribute("aria-keyshortcuts", `Shift+${key}`); }
      made.setAttribute("aria-pressed", String(c.verdict === name));
      each.buttons[name] = made;
      verdicts.append(made);
    }
    row.append(pictures, look, verdicts);
    shownOnes.push(each);
    return row;
  }));
}

// A verdict that is pressed again is withdrawn.
const judge = (each, name) => once(async () => {
  const of = now.sample;
  const verdict = each.c.verdict === name ? "withdrawn" : name;
  const seconds = Math.min(86400, (performance.now() - each.seenAt) / 1000);
  const body = { ...me(), id: of.id, k: each.k, digest: each.c.digest, verdict, seconds, token: randomId() };
  try {
    await send(body, "api/verdict");
  } catch (error) {
    if (error.status === 409 && now.sample === of) explain(of); // there is a new model, and a new counterfactual
    throw error;
  }
  each.c.verdict = verdict === "withdrawn" ? null : verdict;
  for (const [other, made] of Object.entries(each.buttons)) made.setAttribute("aria-pressed", String(other === each.c.verdict));
  notify(verdict === "withdrawn" ? "verdict withdrawn" : "verdict kept: press again to withdraw it");
});

// Whether a key (a capital letter) gave a verdict on the first counterfactual.
export function pressVerdict(key) {
  const found = VERDICTS.find((verdict) => verdict[1] === key);
  if (!found || !shownOnes.length || now.mode !== "single") return false;
  judge(shownOnes[0], found[0]);
  return true;
}

// The large image alternates between the original and the changed one, both as the model sees them.
export function blink(each = shownOnes[0]) {
  if (!each || now.mode !== "single") return;
  blinking = { of: each, on: blinking.of === each ? blinking.on + 1 : 1 };
  const [original, changed] = [each.c.pictures[0], each.c.pictures[1]];
  const shows = blinking.on % 2 ? changed : original;
  const image = $("blink");
  image.onload = () => { image.classList.toggle("small", image.naturalWidth < 64); image.hidden = false; };
  image.src = shows.image;
  image.alt = shows.caption;
  $("blink-note").textContent = blinking.on % 2 ? `changed: ${changed.caption}` : "original";
}

export function stopBlinking() {
  blinking = { of: null, on: 0 };
  $("blink").hidden = true;
  $("blink").onload = null;
  $("blink-note").textContent = "";
}
