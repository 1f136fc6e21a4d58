"use strict";
// The labeling page. Text from outside is only ever set as textContent, never as HTML.

const $ = (id) => document.getElementById(id);
const session = { csrf: "", job: "", classes: [], blind: false };
let sample = null;
let ready = false; // whether the image of the sample is on the screen: nothing can be said about it before
let shownAt = 0;
let flagged = false;
let busy = false;
let waitingFor = null;

// crypto.randomUUID exists on https and localhost only; this page is also served over plain http.
function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// A tab keeps its identity over a reload, so that it gets the same sample again; another tab has its own.
const holder = sessionStorage.getItem("ssld-tab") || randomId();
sessionStorage.setItem("ssld-tab", holder);
const who = () => localStorage.getItem("ssld-annotator") || "";

// Tokens of the votes of this tab, the latest at the end: undo takes back these and no others.
const votes = JSON.parse(sessionStorage.getItem("ssld-votes") || "[]");
function keepVotes() {
  sessionStorage.setItem("ssld-votes", JSON.stringify(votes.slice(-200)));
}

class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function call(path, body, again = true) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": session.csrf },
    body: JSON.stringify(body),
  };
  const response = await fetch(path, options);
  if (response.status === 401) { location.href = "/login"; throw new Refused("log in first", 401); }
  if (response.status === 403 && again) { // the server has been started again since
    session.csrf = (await call("/api/session")).csrf;
    return call(path, body, false);
  }
  const values = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(values.error || `the server responded with status ${response.status}`, response.status);
  return values;
}

// Whether a request may succeed later: the server, or its store, is away.
const isAway = (error) => error instanceof TypeError || [502, 503, 504].includes(error.status);

function away(error) {
  const text = error instanceof TypeError ? "There is no connection to the server." : error.message;
  const kept = unsent().length ? " Your last answer is kept and sent again." : "";
  $("away").textContent = `${text}${kept} Trying again every few seconds.`;
  $("away").hidden = false;
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// What is tried until the server responds.
async function persist(task) {
  for (let attempt = 0; ; attempt++) {
    try {
      const found = await task();
      $("away").hidden = true;
      return found;
    } catch (error) {
      if (!isAway(error)) throw error;
      away(error);
      await pause(Math.min(5000, 500 * 2 ** attempt));
    }
  }
}

// Answers without an acknowledgement. They outlive the tab, and have a token: sent twice, they count once.
const unsentName = () => `ssld-unsent-${session.job}`;
const unsent = () => JSON.parse(localStorage.getItem(unsentName()) || "[]");
const keepUnsent = (bodies) => localStorage.setItem(unsentName(), JSON.stringify(bodies));

async function send(body) {
  keepUnsent([...unsent().filter((other) => other.token !== body.token), body]);
  const settled = () => keepUnsent(unsent().filter((other) => other.token !== body.token));
  try {
    const found = await persist(() => call("/api/label", body));
    settled();
    return found;
  } catch (error) {
    if (error.status !== 401) settled(); // refused for good; after a new log-in it is sent again
    throw error;
  }
}

let clearing = null;
function notify(text, problem = false) {
  $("message").textContent = text;
  $("message").classList.toggle("problem", problem);
  clearTimeout(clearing);
  clearing = setTimeout(() => { $("message").textContent = ""; }, problem ? 8000 : 2500);
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function ask(question, value, { needed = false } = {}) {
  return new Promise((done) => {
    const dialog = $("ask");
    $("question").textContent = question;
    $("answer").value = value || "";
    $("cancel").hidden = needed;
    dialog.oncancel = (event) => { if (needed) event.preventDefault(); };
    dialog.onclose = () => done(dialog.returnValue === "ok" ? $("answer").value.trim() : "");
    dialog.returnValue = "cancel";
    dialog.showModal();
    $("answer").select();
  });
}

function showClasses() {
  const wanted = $("filter").value.trim().toLowerCase();
  $("filter").hidden = session.classes.length <= 10;
  $("classes").replaceChildren(...session.classes.map((name, k) => {
    const button = element("button");
    button.type = "button";
    if (k < 10) {
      const key = String((k + 1) % 10);
      button.append(element("kbd", key));
      button.setAttribute("aria-keyshortcuts", key);
    }
    button.append(name);
    button.hidden = wanted !== "" && !name.toLowerCase().includes(wanted);
    button.disabled = !ready;
    button.addEventListener("click", () => label(name));
    return button;
  }));
}

function enable() {
  for (const button of $("classes").children) button.disabled = !ready;
  for (const id of ["skip", "flag"]) $(id).disabled = sample === null;
}

// An image that cannot be read can be skipped or flagged, but not labeled.
async function show(found) {
  sample = found;
  ready = flagged = false;
  sessionStorage.setItem("ssld-until", found === null ? "" : String(found.until));
  $("flag").setAttribute("aria-pressed", "false");
  $("image").hidden = true;
  $("id").hidden = $("note").hidden = found === null;
  $("empty").hidden = found !== null;
  document.querySelector(".frame").hidden = found === null;
  $("loading").textContent = "loading the image";
  $("predictions").replaceChildren();
  $("counterfactuals").replaceChildren();
  $("counterfactuals-title").hidden = true;
  $("explanation-note").textContent = "";
  $("explanation").hidden = session.blind || found === null;
  showClasses();
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
    if (sample === found) $("loading").textContent = await complaint(found.image);
    return;
  }
  if (sample !== found) return;
  image.classList.toggle("small", image.naturalWidth < 200);
  $("image").replaceWith(image);
  $("loading").textContent = "";
  ready = true;
  shownAt = performance.now();
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

// The explanation is shown when it is ready: labeling does not wait for it.
async function explain(of) {
  let shown = 0;
  for (let attempt = 0; !session.blind && sample === of; attempt++) {
    if (attempt) await pause(Math.min(5000, 500 * 1.2 ** attempt));
    let found = null;
    try {
      found = await call(`/api/explanation?id=${encodeURIComponent(of.id)}`);
    } catch (error) {
      if (sample === of) $("explanation-note").textContent = `The predictions cannot be loaded (${error.message}).`;
      if (isAway(error)) continue;
      return;
    }
    if (sample !== of) return;
    showPredictions(found);
    if (found.counterfactuals.length !== shown) {
      shown = found.counterfactuals.length;
      showCounterfactuals(found.counterfactuals);
    }
    if (found.ready) return;
    $("explanation-note").textContent = "searching counterfactuals";
  }
}

function showPredictions(found) {
  $("explanation-note").textContent = found.note || (found.predictions.length ? "" : "no prediction yet");
  $("predictions").replaceChildren(...found.predictions.map((prediction) => {
    const row = element("li");
    const meter = element("div", undefined, "meter");
    const part = element("div");
    part.style.width = `${100 * prediction.probability}%`;
    meter.append(part);
    row.append(element("span", prediction.label), meter, element("span", `${Math.round(100 * prediction.probability)} %`));
    return row;
  }));
}

function showCounterfactuals(found) {
  $("counterfactuals-title").hidden = !found.length;
  $("counterfactuals").replaceChildren(...found.map((c) => {
    const row = element("div", undefined, "counterfactual");
    row.append(element("p", c.said));
    const pictures = element("div", undefined, "pictures");
    pictures.append(...c.pictures.map((picture) => {
      const figure = element("figure");
      const image = element("img");
      image.src = picture.image;
      image.alt = `the sample, changed to ${c.label}: ${picture.caption}`;
      figure.append(image, element("figcaption", picture.caption));
      return figure;
    }));
    if (c.pictures.length) row.append(pictures);
    return row;
  }));
}

let preloaded = []; // images that are likely to follow; kept so that the browser keeps them, too
async function next() {
  clearTimeout(waitingFor);
  const { sample: found, ahead } = await persist(() => call("/api/next", { annotator: who(), holder }));
  show(found);
  preloaded = ahead.map((address) => { const image = new Image(); image.src = address; return image; });
  if (found === null) {
    $("empty").textContent = "Waiting for a sample: the next round is being chosen, or other annotators have the remaining ones.";
    waitingFor = setTimeout(() => once(next), 2000);
  }
  state();
}

// One task at a time: a key that is held down does not label samples that have not been seen.
async function once(task) {
  if (busy) return;
  busy = true;
  try {
    await task();
  } catch (error) {
    notify(error.message, true);
  } finally {
    busy = false;
  }
}

async function verb(name, more) {
  const token = randomId();
  const seconds = ready ? Math.min(86400, (performance.now() - shownAt) / 1000) : null;
  const found = await send({ annotator: who(), holder, id: sample.id, verb: name, seconds, token, ...more });
  if (name === "label" || name === "skip") {
    votes.push(token);
    keepVotes();
  }
  return found;
}

const label = (name) => once(async () => {
  if (!ready) return;
  try {
    const { status } = await verb("label", { label: name, digest: sample.digest });
    notify(status === "labeled" ? `${sample.id}: ${name}` : `${sample.id}: ${name} (${status})`);
  } catch (error) {
    if (error.status !== 409) throw error;
    notify(error.message, true); // the image has changed since: the sample is shown again
  }
  await next();
});
const skip = () => once(async () => { if (sample !== null) { await verb("skip"); await next(); } });
const flag = () => once(async () => {
  if (sample === null) return;
  await verb(flagged ? "un-flag" : "flag");
  flagged = !flagged;
  $("flag").setAttribute("aria-pressed", String(flagged));
  notify(flagged ? "flagged" : "flag removed");
});
const undo = () => once(async () => {
  while (votes.length) {
    const { sample: found } = await persist(() => call("/api/undo", { annotator: who(), holder, token: votes.at(-1) }));
    votes.pop();
    keepVotes();
    if (found === null) continue; // it does not stand any more
    show(found);
    notify(`withdrawn: ${found.id}`);
    state();
    return;
  }
  notify("this tab has nothing to undo");
});
const add = () => once(async () => {
  const name = await ask("Name of the new class");
  if (!name) return;
  session.classes = (await call("/api/classes", { name })).classes;
  showClasses();
});
function showName() {
  $("who").textContent = who();
  $("who").hidden = false;
}
async function askName(needed) {
  const name = await ask("Your name, which is recorded with your labels", who(), { needed });
  if (!name) return;
  localStorage.setItem("ssld-annotator", name);
  showName();
}
// Under another name there may be other samples to label.
const rename = () => once(async () => { const before = who(); await askName(false); if (who() !== before) await next(); });

const percent = (p) => `${(100 * p).toFixed(1)} %`;

function fitLine(fit) {
  const minutes = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);
  if (fit.state === "none") return "";
  if (fit.state === "done") return "The last fit is finished.";
  if (fit.state !== "running") return `The last fit ${fit.state === "failed" ? "failed" : "was interrupted"}: ${fit.message}`;
  const part = fit.task ? `${fit.task}, ${Math.floor(100 * fit.done)} %` : "starting";
  const left = fit.seconds_left === null ? `for ${minutes(fit.seconds)}` : `${minutes(fit.seconds_left)} left`;
  return `Fitting: ${part}, ${left}.`;
}

async function state() {
  let found;
  try {
    found = await call("/api/state");
  } catch (error) {
    if (isAway(error)) away(error);
    return;
  }
  if (!busy) $("away").hidden = true;
  const s = found.status;
  if (found.classes.join("\n") !== session.classes.join("\n")) { session.classes = found.classes; showClasses(); }
  const speed = s.labels_per_hour === null ? "" : ` · ${Math.round(s.labels_per_hour).toLocaleString("en")} an hour`;
  $("progress").textContent = `${s.counts.labeled} labeled · ${s.waiting} waiting${speed}`;
  const done = s.counts.labeled + s.counts.skipped;
  const percentage = done + s.waiting ? (100 * done) / (done + s.waiting) : 0;
  $("filled").style.width = `${percentage}%`;
  $("bar").setAttribute("aria-valuenow", String(Math.round(percentage)));
  const estimate = s.audit || s.drawn;
  $("accuracy").textContent = estimate === null
    ? "Not measured yet: this needs labels of an audit set, or of a round drawn at random."
    : `${percent(estimate.accuracy)}, between ${percent(estimate.low)} and ${percent(estimate.high)} (95 %), from ${estimate.n} labels`;
  curve(found.curve);
  $("model").textContent = s.model;
  const running = s.fit.state === "running";
  $("fit").disabled = s.no_fit !== "";
  $("fit").title = s.no_fit;
  $("fit-reason").textContent = running ? "" : s.no_fit;
  $("fit-reason").hidden = running || s.no_fit === "";
  $("fit-bar").hidden = !running;
  $("fit-filled").style.width = `${100 * s.fit.done}%`;
  $("fit-bar").setAttribute("aria-valuenow", String(Math.floor(100 * s.fit.done)));
  $("fit-state").textContent = fitLine(s.fit);
  const lines = [...(found.problem ? [found.problem] : []), ...s.advice];
  $("advice-title").hidden = !lines.length;
  $("advice").replaceChildren(...lines.map((line) => element("li", line)));
  await review(s.counts.disputed + s.counts.flagged).catch(() => undefined);
}

async function review(n) {
  $("review-title").hidden = n === 0;
  const rows = n === 0 ? [] : (await call("/api/review")).samples;
  $("review").replaceChildren(...rows.slice(0, 20).map((row) => {
    const item = element("li");
    const votes = Object.entries(row.votes).map(([name, label]) => `${name}: ${label || "skipped"}`).join(", ");
    const button = element("button", `${row.id}  ${votes}${row.flagged ? " · flagged" : ""}`);
    button.type = "button";
    button.addEventListener("click", () => once(async () => {
      const body = { annotator: who(), holder, id: row.id };
      const { sample: found } = await call("/api/take", body);
      show(found);
      flagged = row.flagged;
      $("flag").setAttribute("aria-pressed", String(flagged));
    }));
    item.append(button);
    return item;
  }));
}

function curve(points) {
  const svg = $("curve");
  svg.toggleAttribute("hidden", points.length < 2);
  if (points.length < 2) return;
  const [left, right, top, bottom] = [34, 292, 8, 100];
  const most = Math.max(...points.map((p) => p[0]));
  const least = Math.min(...points.map((p) => p[2]));
  const x = (labels) => left + ((right - left) * labels) / most;
  const y = (accuracy) => bottom - ((bottom - top) * (accuracy - least)) / Math.max(1e-6, 1 - least);
  const make = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    return made;
  };
  const line = (at, k) => at.map((p) => `${x(p[0]).toFixed(1)},${y(p[k]).toFixed(1)}`);
  svg.replaceChildren(
    make("polygon", { class: "band", points: [...line(points, 2), ...line([...points].reverse(), 3)].join(" ") }),
    make("polyline", { class: "line", points: line(points, 1).join(" ") }),
    ...points.map((p) => make("circle", { cx: x(p[0]), cy: y(p[1]), r: 2.5 })),
    make("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
    make("text", { x: 2, y: top + 8 }, "100 %"),
    make("text", { x: 2, y: bottom }, `${Math.round(100 * least)} %`),
    make("text", { x: right, y: bottom + 14, "text-anchor": "end" }, `${most} labels`),
  );
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || $("ask").open) return;
  if (event.target === $("filter")) {
    const first = [...$("classes").children].find((button) => !button.hidden);
    if (event.key === "Enter" && first) { first.click(); $("filter").value = ""; $("filter").blur(); showClasses(); }
    if (event.key === "Escape") { $("filter").value = ""; $("filter").blur(); showClasses(); }
    return;
  }
  if (/^[0-9]$/.test(event.key)) {
    const name = session.classes[(Number(event.key) + 9) % 10];
    if (name !== undefined) label(name);
  } else if (event.key === "u") undo();
  else if (event.key === "s") skip();
  else if (event.key === "f") flag();
  else if (event.key === "n") { event.preventDefault(); add(); }
  else if (event.key === "/" && !$("filter").hidden) { event.preventDefault(); $("filter").focus(); }
});
$("filter").addEventListener("input", showClasses);
$("undo").addEventListener("click", undo);
$("skip").addEventListener("click", skip);
$("flag").addEventListener("click", flag);
$("add").addEventListener("click", add);
$("who").addEventListener("click", rename);
$("cancel").addEventListener("click", () => $("ask").close("cancel"));
$("fit").addEventListener("click", () => once(async () => {
  const { started } = await call("/api/fit", {});
  notify(started ? "fitting a model in the background; you can continue labeling" : "a fit is already running");
  state();
}));
setInterval(() => { if (!document.hidden) state(); }, 5000);

// A tab that is left gives its sample back; if it comes back at once, as on a reload, it gets the same one again.
addEventListener("pagehide", () => {
  const until = Number(sessionStorage.getItem("ssld-until"));
  if (!until || !who()) return;
  const headers = { "Content-Type": "application/json", "X-CSRF-Token": session.csrf };
  fetch("/api/release", { method: "POST", headers, keepalive: true, body: JSON.stringify({ annotator: who(), holder, until }) })
    .catch(() => undefined);
});
addEventListener("pageshow", (event) => { if (event.persisted) once(next); });

(async () => {
  Object.assign(session, await persist(() => call("/api/session")));
  document.title = `${session.job}: label`;
  $("job").textContent = session.job;
  showClasses();
  while (!who()) await askName(true);
  showName();
  for (const body of unsent()) await once(() => send(body));
  await once(next);
})().catch((error) => notify(error.message, true));
