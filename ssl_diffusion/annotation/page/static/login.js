// Logging in with an account. It is sent as JSON, which no other site can send in somebody's name.

const form = document.querySelector("form");
const problem = document.getElementById("problem");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  problem.textContent = "";
  try {
    const body = JSON.stringify(Object.fromEntries(new FormData(form)));
    const response = await fetch("/login", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (response.ok) { location.href = "/"; return; }
    problem.textContent = `${(await response.json()).error}.`.replace(/^./, (first) => first.toUpperCase());
    document.getElementById("password").select();
  } catch {
    problem.textContent = "There is no connection to the server.";
  }
  button.disabled = false;
});
