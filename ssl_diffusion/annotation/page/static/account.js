// Who has logged in, and what that person may do: what needs another role is not on the page.

import { $, button, element, notify } from "./elements.js";
import { call, once } from "./requests.js";
import { may, session } from "./session.js";

// `leave` is done before the session ends, while requests are still accepted.
export function showAccount(leave = async () => undefined) {
  for (const made of document.querySelectorAll("[data-needs]")) made.hidden = !may(made.dataset.needs);
  $("account").hidden = session.account === null;
  if (session.account === null) return;
  const named = element("span", `${session.account.name} · ${session.account.role}`);
  named.id = "account-name";
  const signOut = async () => {
    await leave();
    await call("/logout", {});
    location.href = "/login";
  };
  $("account").replaceChildren(named, button("Password", () => passwordDialog().showModal()), button("Log out", () => once(signOut)));
}

function passwordDialog() {
  const box = element("dialog");
  box.id = "password-dialog";
  const form = element("form");
  form.method = "dialog";
  const input = (id, text, complete) => {
    const label = element("label", text);
    label.htmlFor = id;
    const made = element("input");
    Object.assign(made, { id, type: "password", autocomplete: complete, maxLength: 1000, required: true });
    form.append(label, made);
    return made;
  };
  const now = input("password-now", "Password until now", "current-password");
  const next = input("password-next", "New password, at least 12 characters", "new-password");
  const problem = element("p", "", "problem");
  problem.setAttribute("role", "alert");
  const menu = element("menu");
  const change = element("button", "Change");
  change.id = "password-change";
  menu.append(button("Cancel", () => box.close()), change);
  form.append(problem, menu);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await call("/password", { password: now.value, new: next.value });
      session.csrf = (await call("api/session")).csrf; // it is a new session
      box.close();
      notify("your password is changed");
    } catch (error) {
      problem.textContent = error.message;
    }
  });
  box.append(form);
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  return box;
}
