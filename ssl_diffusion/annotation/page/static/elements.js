// Making and finding elements. Text from outside is only ever set as textContent, never as HTML.

export const $ = (id) => document.getElementById(id);

export function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function button(text, task, className) {
  const made = element("button", text, className);
  made.type = "button";
  made.addEventListener("click", task);
  return made;
}

let clearing = null;
export function notify(text, problem = false) {
  $("message").textContent = text;
  $("message").classList.toggle("problem", problem);
  clearTimeout(clearing);
  clearing = setTimeout(() => { $("message").textContent = ""; }, problem ? 8000 : 2500);
}

function dialog(question, { value = "", needed = false, input = true } = {}) {
  return new Promise((done) => {
    const box = $("ask");
    $("question").textContent = question;
    $("answer").hidden = !input;
    $("answer").value = value;
    $("cancel").hidden = needed;
    box.oncancel = (event) => { if (needed) event.preventDefault(); };
    box.onclose = () => done(box.returnValue === "ok");
    box.returnValue = "cancel";
    box.showModal();
    if (input) $("answer").select();
    else $("ok").focus();
  });
}

export const ask = async (question, value, options) => ((await dialog(question, { value: value || "", ...options })) ? $("answer").value.trim() : "");
export const confirm = (question) => dialog(question, { input: false });

export const percent = (p) => `${(100 * p).toFixed(1)} %`;
export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// crypto.randomUUID exists on https and localhost only; this page is also served over plain http.
export const randomId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
