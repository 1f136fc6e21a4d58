// Requests to the server, which may be away for a while: an answer that was given is never lost.

import { $, notify, pause } from "./elements.js";
import { now, session } from "./session.js";

class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export async function call(path, body, again = true) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": session.csrf },
    body: JSON.stringify(body),
  };
  const response = await fetch(path, options);
  if (response.status === 401) { location.href = "/login"; throw new Refused("log in first", 401); }
  if (response.status === 403 && again) { // the server has been started again since
    session.csrf = (await call("api/session")).csrf;
    return call(path, body, false);
  }
  const values = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(values.error || `the server responded with status ${response.status}`, response.status);
  return values;
}

// Whether a request may succeed later: the server, or its store, is away.
export const isAway = (error) => error instanceof TypeError || [502, 503, 504].includes(error.status);

export function away(error) {
  const text = error instanceof TypeError ? "There is no connection to the server." : error.message;
  const kept = unsent().length ? " Your last answer is kept and sent again." : "";
  $("away").textContent = `${text}${kept} Trying again every few seconds.`;
  $("away").hidden = false;
}

// What is tried until the server responds.
export async function persist(task) {
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
const unsentName = () => `ssld-unsent-${session.job}${session.account ? `-${session.account.name}` : ""}`;
export const unsent = () => JSON.parse(localStorage.getItem(unsentName()) || "[]");
const keepUnsent = (bodies) => localStorage.setItem(unsentName(), JSON.stringify(bodies));

export async function send(body, path = "api/label") {
  keepUnsent([...unsent().filter((other) => other.token !== body.token), { ...body, path }]);
  const settled = () => keepUnsent(unsent().filter((other) => other.token !== body.token));
  try {
    const found = await persist(() => call(path, body));
    settled();
    return found;
  } catch (error) {
    if (error.status !== 401) settled(); // refused for good; after a new log-in it is sent again
    throw error;
  }
}

// Choices that were made while a task is running are not lost: they follow it in their order.
let last = Promise.resolve();
export function soon(task) {
  last = last.then(async () => {
    while (now.busy) await pause(30);
    return once(task);
  });
  return last;
}

export async function sendAgain() {
  for (const { path, ...body } of unsent()) await once(() => send(body, path));
}

// One task at a time: a key that is held down does not label samples that have not been seen.
export async function once(task) {
  if (now.busy) return;
  now.busy = true;
  try {
    await task();
  } catch (error) {
    notify(error.message, true);
  } finally {
    now.busy = false;
  }
}
