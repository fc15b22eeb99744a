// The page of a restore: what is chosen is planned at once, beneath the choices, by asking for the same page.
// The page of a receipt: a button that prints it.
"use strict";
(() => {
  document.querySelectorAll("[data-print]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => print());
  });
  const form = document.querySelector("[data-rescue]");
  if (!form) return;
  const said = document.querySelector("[data-planned]");
  document.querySelectorAll("[data-plain]").forEach((part) => { part.hidden = true; });
  let asking = null, timer = 0;
  const parts = (root) => [...root.querySelectorAll("#plan, .more[id], .means")];
  const address = () => {
    const to = new URL(form.action);
    to.search = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    return to;
  };
  const renew = async () => {
    const to = address(), mine = asking = new AbortController(), plan = document.getElementById("plan");
    plan.setAttribute("aria-busy", "true");
    if (said) said.textContent = "Planning";
    try {
      const answer = await fetch(to, { headers: { accept: "text/html" }, signal: mine.signal });
      if (answer.redirected) { location.assign(to); return; }  // somebody must say who they are first
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (mine.signal.aborted || !page.getElementById("plan")) return;
      const fresh = parts(page), old = parts(document);
      if (fresh.length !== old.length) { location.assign(to); return; }
      old.forEach((part, at) => { if (!part.contains(document.activeElement)) part.replaceChildren(...fresh[at].childNodes); });
      history.replaceState(null, "", to);
      if (said) said.textContent = "Planned";
    } catch (error) {
      if (error.name !== "AbortError") location.assign(to);
    } finally {
      if (asking === mine) plan.removeAttribute("aria-busy");
    }
  };
  const soon = (wait) => {
    asking?.abort();
    clearTimeout(timer);
    timer = setTimeout(renew, wait);
  };
  form.addEventListener("change", (event) => soon(event.target.type === "radio" ? 150 : 0));
  form.addEventListener("input", (event) => { if (event.target.type === "text") soon(600); });
  form.addEventListener("submit", (event) => { event.preventDefault(); soon(0); });
})();
