"use strict";
// The labeling page. Text from outside is only ever set as textContent, never as HTML.

const $ = (id) => document.getElementById(id);
const session = { csrf: "", classes: [], blind: false };
let sample = null;
let shownAt = 0;
let flagged = false;
let busy = false;
let waitingFor = null;

// A tab keeps its name over a reload, so that it gets the same sample again; another tab has its own.
const holder = sessionStorage.getItem("ssld-tab") || crypto.randomUUID();
sessionStorage.setItem("ssld-tab", holder);
const who = () => localStorage.getItem("ssld-annotator") || "";

async function call(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": session.csrf },
    body: JSON.stringify(body),
  };
  const response = await fetch(path, options);
  if (response.status === 401) { location.href = "/login"; throw new Error("log in first"); }
  const values = await response.json();
  if (!response.ok) throw new Error(values.error || `the server responded with status ${response.status}`);
  return values;
}

// A vote is sent again with the same token until it is acknowledged: it is recorded once, and never lost.
async function send(path, body) {
  for (let attempt = 0; ; attempt++) {
    try {
      return await call(path, body);
    } catch (error) {
      if (!(error instanceof TypeError) || attempt > 30) throw error;
      notify("no connection to the server; trying again", true);
      await new Promise((done) => setTimeout(done, 1000));
    }
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

function ask(question, value) {
  return new Promise((done) => {
    const dialog = $("ask");
    $("question").textContent = question;
    $("answer").value = value || "";
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
    button.disabled = sample === null;
    button.addEventListener("click", () => label(name));
    return button;
  }));
}

function show(found) {
  sample = found;
  flagged = false;
  $("flag").setAttribute("aria-pressed", "false");
  $("image").hidden = $("id").hidden = $("note").hidden = found === null;
  $("empty").hidden = found !== null;
  document.querySelector(".frame").hidden = found === null;
  for (const id of ["skip", "flag"]) $(id).disabled = found === null;
  $("predictions").replaceChildren();
  $("counterfactuals").replaceChildren();
  $("explanation").hidden = session.blind || found === null;
  showClasses();
  if (found === null) return;
  shownAt = performance.now();
  const image = $("image");
  image.onload = () => image.classList.toggle("small", image.naturalWidth < 200);
  image.src = found.image;
  image.alt = `sample ${found.id}`;
  $("id").textContent = found.id;
  $("note").textContent = found.note;
  explain(found.id, 0);
}

// The explanation is shown when it is ready: labeling does not wait for it.
async function explain(id, attempt) {
  if (session.blind || sample === null || sample.id !== id) return;
  if (attempt === 0) $("counterfactuals-title").hidden = true;
  const found = await call(`/api/explanation?id=${encodeURIComponent(id)}`).catch(() => null);
  if (found === null || sample === null || sample.id !== id) return;
  $("predictions").replaceChildren(...found.predictions.map((prediction) => {
    const row = element("li");
    const meter = element("div", undefined, "meter");
    const part = element("div");
    part.style.width = `${100 * prediction.probability}%`;
    meter.append(part);
    row.append(element("span", prediction.label), meter, element("span", `${Math.round(100 * prediction.probability)} %`));
    return row;
  }));
  if (!found.predictions.length) $("predictions").append(element("li", "no prediction yet"));
  if (!found.ready) {
    if (attempt < 60) setTimeout(() => explain(id, attempt + 1), 500);
    return;
  }
  $("counterfactuals-title").hidden = !found.counterfactuals.length;
  $("counterfactuals").replaceChildren(...found.counterfactuals.map((c) => {
    const figure = element("figure");
    const image = element("img");
    image.src = c.image;
    image.alt = `the sample, changed so that the model predicts ${c.label}`;
    const caption = element("figcaption");
    const line = element("span");
    line.append(element("em", c.label), " if changed like this");
    caption.append(line, element("span", `distance ${c.distance.toFixed(3)}`));
    figure.append(image, caption);
    return figure;
  }));
}

async function next() {
  clearTimeout(waitingFor);
  const { sample: found } = await call("/api/next", { annotator: who(), holder });
  show(found);
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

function verb(name, more) {
  const seconds = Math.min(86400, (performance.now() - shownAt) / 1000);
  return send("/api/label", { annotator: who(), holder, id: sample.id, verb: name, seconds, token: crypto.randomUUID(), ...more });
}

const label = (name) => once(async () => {
  if (sample === null) return;
  const { status } = await verb("label", { label: name, final: sample.status === "disputed" && sample.settling === true });
  notify(status === "labeled" ? `${sample.id}: ${name}` : `${sample.id}: ${name} (${status})`);
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
  const { sample: found } = await call("/api/undo", { annotator: who(), holder });
  if (found === null) { notify("there is nothing to undo"); return; }
  show(found);
  notify(`withdrawn: ${found.id}`);
  state();
});
const add = () => once(async () => {
  const name = await ask("Name of the new class");
  if (!name) return;
  session.classes = (await call("/api/classes", { name })).classes;
  showClasses();
});
const rename = () => once(async () => {
  const name = await ask("Your name, which is recorded with your labels", who());
  if (!name) return;
  localStorage.setItem("ssld-annotator", name);
  $("who").textContent = name;
});

const percent = (p) => `${(100 * p).toFixed(1)} %`;

async function state() {
  const s = await call("/api/state").catch(() => null);
  if (s === null) return;
  if (s.classes.join("\n") !== session.classes.join("\n")) { session.classes = s.classes; showClasses(); }
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
  curve(s.curve);
  $("model").textContent = s.model;
  $("fit").disabled = s.fit.state === "running";
  const fits = { none: "", running: `fitting for ${Math.round(s.fit.seconds)} s`, done: "fit finished", failed: "fit failed: " };
  $("fit-state").textContent = fits[s.fit.state] + (s.fit.state === "failed" ? s.fit.message : "");
  const lines = [...(s.problem ? [s.problem] : []), ...s.advice];
  $("advice-title").hidden = !lines.length;
  $("advice").replaceChildren(...lines.map((line) => element("li", line)));
  await review(s.counts.disputed + s.counts.flagged);
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
      show({ ...found, settling: true });
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
$("fit").addEventListener("click", () => once(async () => {
  const { started } = await call("/api/fit", {});
  notify(started ? "fitting a model in the background; you can continue labeling" : "a fit is already running");
  state();
}));
setInterval(() => { if (!document.hidden) state(); }, 5000);

(async () => {
  Object.assign(session, await call("/api/session"));
  document.title = `${session.job}: label`;
  $("job").textContent = session.job;
  if (!who()) localStorage.setItem("ssld-annotator", "me");
  $("who").textContent = who();
  showClasses();
  await once(next);
})().catch((error) => notify(error.message, true));
