// The list of classes: their names, keys, numbers of labels and examples; owners change them, make one of two, and end one.

import { useClasses, showClasses } from "./classes.js";
import { $, ask, button, confirm, element, notify } from "./elements.js";
import { chooseExample, examplesOf, picture } from "./examples.js";
import { call, once } from "./requests.js";
import { may, me, now, session } from "./session.js";
import { state } from "./state.js";
import { findClass } from "./views.js";

async function change(verb, name, to = "") {
  try {
    useClasses(await call("api/class", { ...me(), verb, name, to }));
  } catch (error) {
    notify(error.message, true);
  }
  await state();
  show();
}

// One dialog at a time: the question closes the list, and the list comes back.
const asking = (question) => once(async () => {
  $("class-dialog").close();
  await question();
  show();
  $("class-dialog").showModal();
});

function field(name, verb, value, facts) {
  const input = element("input");
  Object.assign(input, facts);
  input.value = value;
  input.setAttribute("aria-label", `${verb === "key" ? "Key" : "Number of labels that are wanted"} of ${name}`);
  input.addEventListener("change", () => change(verb, name, input.value.trim().toLowerCase()));
  return input;
}

// A picture that was chosen ends with a click; others are chosen among all images of the class.
function pictures(name, owner) {
  const cell = element("td", undefined, "examples");
  for (const each of examplesOf(name)) {
    if (!owner || !each.chosen) { cell.append(picture(each)); continue; }
    const made = button("", () => once(async () => { await chooseExample(each.id, name, false); show(); }));
    made.append(picture(each));
    made.setAttribute("aria-label", `${each.id} is no longer an example of ${name}`);
    made.title = "click: no longer an example";
    cell.append(made);
  }
  if (owner && now.counts[name]) {
    const choose = button("Choose", () => { $("class-dialog").close(); once(() => findClass(name)); });
    choose.setAttribute("aria-label", `Choose examples of ${name}`);
    cell.append(choose);
  }
  return cell;
}

function show() {
  const owner = may("owner");
  const head = element("tr");
  for (const text of ["Key", "Name", "Labels", "Wanted", "Examples", ...(owner ? [""] : [])]) { const cell = element(text ? "th" : "td", text); if (text) cell.scope = "col"; head.append(cell); }
  $("class-table").replaceChildren(head, ...session.classes.map((name, k) => {
    const line = element("tr");
    const target = now.targets[name];
    const cells = [element("td"), element("td", name), element("td", String(now.counts[name] || 0)), element("td"), pictures(name, owner)];
    cells[0].append(owner ? field(name, "key", session.keys[k], { maxLength: 2 }) : session.keys[k]);
    cells[3].append(owner ? field(name, "target", target || "", { inputMode: "numeric", maxLength: 7, placeholder: "any" }) : String(target || "any"));
    if (owner) cells.push(actionsOf(name));
    line.append(...cells);
    return line;
  }));
  showClasses();
}

function actionsOf(name) {
  const actions = element("td");
  actions.append(
    button("Rename", () => asking(async () => { const to = await ask(`New name of ${name}`, name); if (to && to !== name) await change("rename", name, to); })),
    " ",
    button("Merge", () => asking(async () => { const to = await ask(`Class that ${name} becomes part of`, ""); if (to) await change("merge", name, to); })),
    " ",
    button("Remove", () => asking(async () => {
      const n = now.counts[name] || 0;
      const then = session.multilabel ? `The other classes of ${n} images stay.` : `Its ${n} labels are withdrawn, and their images have to be labeled again.`;
      if (await confirm(`Remove ${name}? ${n ? then : "It has no labels."}`)) await change("remove", name);
    })),
  );
  for (const made of actions.querySelectorAll("button")) made.setAttribute("aria-label", `${made.textContent} ${name}`);
  return actions;
}

export function startClassDialog() {
  $("edit-classes").addEventListener("click", () => { show(); $("class-dialog").showModal(); });
  $("class-done").addEventListener("click", () => $("class-dialog").close());
}
