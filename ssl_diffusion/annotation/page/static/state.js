// The state of the job beside the sample: progress, accuracy, model, advice, and what is to be reviewed.

import { showCounts, useClasses } from "./classes.js";
import { followExamples } from "./examples.js";
import { $, element, notify, percent } from "./elements.js";
import { fitLine } from "./fit_line.js";
import { away, call, isAway, once } from "./requests.js";
import { followMap } from "./map.js";
import { now, session } from "./session.js";

const ENOUGH = 50; // labels of the audit that make an accuracy worth a large figure

// A figure from few labels does not lead: 100 % of nine is no accuracy.
function figureLine(estimate, what) {
  if (estimate === null) return "Not measured yet: this needs labels of an audit set, or of a round drawn at random.";
  const between = `between ${percent(estimate.low)} and ${percent(estimate.high)} (95 %), from ${estimate.n} ${estimate.n === 1 ? "label" : "labels"}`;
  if (estimate.n >= ENOUGH) return `${percent(estimate.accuracy)}, ${between}`;
  return `${wanted(estimate, what)} ${estimate.figure === "accuracy" ? "for about ± 10 points" : "before this says much"}. So far ${between}.`;
}

const wanted = ({ n }, what) => `${ENOUGH - n} more ${what}${n === ENOUGH - 1 ? "label" : "labels"}`;

// The figure that leads the page, or what it wants for that.
function shortFigure({ audit, audit_metric: metric }) {
  const found = metric || audit;
  if (!found) return "";
  return found.n >= ENOUGH ? ` · ${found.figure} ${percent(found.accuracy)}` : ` · ${wanted(found, "audit ")} for ${found.figure === "accuracy" ? "± 10 points" : `the ${found.figure}`}`;
}

const title = (figure) => figure[0].toUpperCase() + figure.slice(1);

// What the job goes by comes first, and beside the accuracy what needs no model at all.
function showFigures({ audit, audit_metric: metric, audit_majority: majority, drawn }) {
  $("metric-title").hidden = $("metric").hidden = metric === null;
  if (metric !== null) {
    $("metric-title").textContent = title(metric.figure);
    $("metric").textContent = figureLine(metric, "audit ");
  }
  $("accuracy-title").textContent = session.multilabel ? "Macro F1" : "Accuracy";
  $("curve").setAttribute("aria-label", `${$("accuracy-title").textContent} over labels`);
  $("accuracy").textContent = audit ? figureLine(audit, "audit ") : figureLine(drawn, "");
  $("baseline").hidden = majority === null;
  if (majority === null) return;
  const better = audit.low > majority ? "" : " The model is not surely better than that.";
  $("baseline").textContent = `Always saying the most frequent class is right for ${percent(majority)} of these.${better}`;
}

let asked = 0; // looks at the state so far
let latest = 0; // the last one that was shown

export async function state() {
  const number = ++asked;
  let found;
  try {
    found = await call("api/state");
  } catch (error) {
    if (isAway(error)) away(error);
    return;
  }
  if (number < latest) return; // one that was slower than a later one
  latest = number;
  if (!now.busy) $("away").hidden = true;
  const s = found.status;
  useClasses(found);
  showCounts(s.labels, s.targets);
  followExamples(found.examples);
  const speed = s.labels_per_hour === null ? "" : ` · ${Math.round(s.labels_per_hour).toLocaleString("en")} an hour`;
  const fitting = s.fit.state === "running" ? ` · ${fitLine(s.fit).replace(/\.$/, "").toLowerCase()}` : "";
  $("progress").textContent = `${s.counts.labeled} labeled · ${s.waiting} waiting${speed}${shortFigure(s)}${fitting}`;
  const settled = s.counts.labeled + s.counts.skipped;
  const percentage = settled + s.waiting ? (100 * settled) / (settled + s.waiting) : 0;
  $("filled").style.width = `${percentage}%`;
  $("bar").setAttribute("aria-valuenow", String(Math.round(percentage)));
  showFigures(s);
  curve(found.curve);
  $("model").textContent = s.model;
  const running = s.fit.state === "running";
  $("fit").hidden = running;
  $("fit-stop").hidden = !running;
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
  followMap(s);
  $("n-disputed").textContent = s.counts.disputed + s.counts.flagged || "";
  $("n-suspicious").textContent = found.suspicious || "";
}

export const fit = () => once(async () => {
  const { started } = await call("api/fit", {});
  notify(started ? "fitting a model in the background; you can continue labeling" : "a fit is already running");
  state();
});

export const stopFit = () => once(async () => {
  const { stopped } = await call("api/fit/stop", {});
  notify(stopped ? "the fit is stopped; the next one continues it if the labels are the same" : "no fit is running");
  state();
});

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
