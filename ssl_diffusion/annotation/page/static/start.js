// The start page: the jobs of the server, and how far each of them is.

import { showAccount } from "./account.js";
import { $, element, notify, percent } from "./elements.js";
import { fitLine } from "./fit_line.js";
import { away, call, isAway } from "./requests.js";
import { session } from "./session.js";

const EVERY = 5000; // milliseconds between looks
const cards = new Map(); // by address: the parts of a card that change
const whole = (n) => n.toLocaleString("en");

function ago(at) {
  const seconds = Math.max(0, Date.now() / 1000 - at);
  if (seconds < 60) return "just now";
  const [unit, length] = [["day", 86400], ["hour", 3600], ["minute", 60]].find((each) => seconds >= each[1]);
  return new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(-Math.floor(seconds / length), unit);
}

function accuracyLine(job) {
  if (job.accuracy === null) return `${job.figure} not measured yet`;
  const share = (p) => percent(p).replace(" ", "\u00a0"); // no line ends between a number and its sign
  return `${job.figure} ${share(job.accuracy)}, between ${share(job.low)} and ${share(job.high)} (95\u00a0%), with ${whole(job.measured_at)} labels`;
}

function made(address, name) {
  const card = element("li");
  const title = element("h2");
  const link = element("a", name);
  link.href = address;
  title.append(link);
  const bar = element("div", undefined, "bar");
  const filled = element("div", undefined, "filled");
  bar.append(filled);
  for (const [key, value] of Object.entries({ role: "progressbar", "aria-label": `Labeled in ${name}`, "aria-valuemin": "0", "aria-valuemax": "100" })) bar.setAttribute(key, value);
  const parts = { card, bar, filled, lines: element("div", undefined, "lines") };
  card.append(title, bar, parts.lines);
  return parts;
}

function show(parts, job) {
  const done = job.samples ? Math.floor((100 * job.labeled) / job.samples) : 0;
  parts.filled.style.width = `${done}%`;
  parts.bar.setAttribute("aria-valuenow", String(done));
  parts.bar.hidden = job.problem !== "";
  if (job.problem) {
    parts.lines.replaceChildren(element("p", job.problem, "problem"));
    return;
  }
  const waiting = [job.waiting && `${whole(job.waiting)} waiting`, job.to_review && `${whole(job.to_review)} to look at again`].filter(Boolean);
  const lines = [
    element("p", `${whole(job.labeled)} of ${whole(job.samples)} labeled (${done} %)${waiting.length ? ` · ${waiting.join(" · ")}` : ""}`, "count"),
    element("p", `${job.classes} ${job.classes === 1 ? "class" : "classes"} · ${job.model ? `model ${job.model}` : "no model yet"} · ${accuracyLine(job)}`),
  ];
  if (job.fit.state !== "none" && job.fit.state !== "done") lines.push(element("p", fitLine(job.fit), job.fit.state === "running" ? "running" : "problem"));
  lines.push(element("p", job.last_at === null ? "nobody has labeled here yet" : `last: ${job.last_by}, ${ago(job.last_at)}`));
  // A card that has not changed is left alone, so that it can be selected and read out undisturbed.
  const now = lines.map((line) => `${line.className} ${line.textContent}`).join("\n");
  if (parts.now === now) return;
  parts.now = now;
  parts.lines.replaceChildren(...lines);
}

async function look() {
  let found;
  try {
    found = await call("api/jobs");
  } catch (error) {
    if (!isAway(error)) throw error;
    away(error);
    return;
  }
  $("away").hidden = true;
  for (const { address, overview } of found.jobs) {
    if (!cards.has(address)) {
      cards.set(address, made(address, overview.name));
      $("jobs").append(cards.get(address).card);
    }
    show(cards.get(address), overview);
  }
  const sum = (name) => found.jobs.reduce((n, job) => n + job.overview[name], 0);
  const [labeled, samples] = [sum("labeled"), sum("samples")];
  const done = samples ? Math.floor((100 * labeled) / samples) : 0;
  $("progress").textContent = `${found.jobs.length} ${found.jobs.length === 1 ? "job" : "jobs"} · ${whole(labeled)} of ${whole(samples)} labeled`;
  $("filled").style.width = `${done}%`;
  $("bar").setAttribute("aria-valuenow", String(done));
}

(async () => {
  Object.assign(session, await call("api/session"));
  showAccount();
  await look();
  setInterval(() => { if (!document.hidden) look().catch((error) => notify(error.message, true)); }, EVERY);
  addEventListener("pageshow", (event) => { if (event.persisted) look(); });
})().catch((error) => notify(error.message, true));
