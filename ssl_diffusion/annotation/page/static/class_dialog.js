// The list of classes: other names, keys and numbers of labels; two that become one, and one that ends.

import { useClasses, showClasses } from "./classes.js";
import { $, ask, button, confirm, element, notify } from "./elements.js";
import { call, once } from "./requests.js";
import { me, now, session } from "./session.js";
import { state } from "./state.js";

async function change(verb, name, to = "") {
  try {
    useClasses(await call("api/class", { ...me(), verb, name, to }));
  } catch (error) {
    notify(error.message, true);
  }
  show();
  state();
}

// One dialog at a time: the question closes the list, and the list comes back.
const asking = (question) => once(async () => {
  $("class-dialog").close();
  await question();
  show();
  $("class-dialog").showModal();
});

function show() {
  const head = element("tr");
  for (const text of ["Key", "Name", "Labels", ""]) { const cell = element(text ? "th" : "td", text); if (text) cell.scope = "col"; head.append(cell); }
  $("class-table").replaceChildren(head, ...session.classes.map((name, k) => {
    const line = element("tr");
    const key = element("input");
    key.value = session.keys[k];
    key.maxLength = 2;
    key.setAttribute("aria-label", `Key of ${name}`);
    key.addEventListener("change", () => change("key", name, key.value.trim().toLowerCase()));
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
    const cells = [element("td"), element("td", name), element("td", String(now.counts[name] || 0)), actions];
    cells[0].append(key);
    line.append(...cells);
    return line;
  }));
  showClasses();
}

export function startClassDialog() {
  $("edit-classes").addEventListener("click", () => { show(); $("class-dialog").showModal(); });
  $("class-done").addEventListener("click", () => $("class-dialog").close());
}
