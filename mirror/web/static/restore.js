// The page of a restore: what is chosen is planned at once, beneath the choices, by asking for the same page.
"use strict";
(() => {
  const form = document.querySelector("[data-rescue]");
  if (!form) return;
  const said = document.querySelector("[data-planned]");
  document.querySelectorAll("[data-plain]").forEach((part) => { part.hidden = true; });
  const dock = document.getElementById("go");
  let asking = null, timer = 0, early = false;
  const parts = (root) => [...root.querySelectorAll("#plan, #go, .more[id], .way .means")];
  // What holds the focus stays as it is, except for the plan and its button: those must be of what is chosen.
  const put = (part, fresh) => {
    const at = document.activeElement, within = part.contains(at), field = within && at.id ? at.id : "";
    if (within && part !== dock && part.id !== "plan") return;
    const typed = field && at.matches("input[type=text]") ? at.value : "";
    part.replaceChildren(...fresh.childNodes);
    if (!within) return;
    const again = field ? document.getElementById(field) : null;
    if (again && typed) again.value = typed;
    (again ?? part.querySelector(".btn"))?.focus({ preventScroll: true });
  };
  const address = () => {
    const to = new URL(form.action);
    to.search = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    return to;
  };
  const busy = (yes) => ["plan", "go"].forEach((id) => document.getElementById(id).setAttribute("aria-busy", yes));
  const renew = async () => {
    const to = address(), mine = asking = new AbortController();
    if (said) said.textContent = "Planning";
    try {
      const answer = await fetch(to, { headers: { accept: "text/html" }, signal: mine.signal });
      if (answer.redirected) { location.assign(to); return; }  // somebody must say who they are first
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (mine.signal.aborted) return;
      if (!page.getElementById("plan")) {  // there is no plan of this: the button stays without effect
        if (said) said.textContent = page.querySelector("main [role=alert]")?.textContent.trim() || "There is no plan of this.";
        said?.classList.remove("hear");
        return;
      }
      const fresh = parts(page), old = parts(document);
      if (fresh.length !== old.length) { location.assign(to); return; }
      old.forEach((part, at) => put(part, fresh[at]));
      history.replaceState(null, "", to);
      if (said) said.textContent = early ? "The plan has changed. Press the button again." : "Planned";
      said?.classList.toggle("hear", !early);
      early = false;
      busy(false);
    } catch (error) {
      if (error.name !== "AbortError") location.assign(to);
    }
  };
  const soon = (wait) => {
    asking?.abort();
    clearTimeout(timer);
    busy(true);
    timer = setTimeout(renew, wait);
  };
  form.addEventListener("change", (event) => soon(event.target.type === "radio" ? 150 : 0));
  form.addEventListener("input", (event) => { if (event.target.type === "text") soon(600); });
  form.addEventListener("submit", (event) => { event.preventDefault(); soon(0); });
  dock.addEventListener("submit", (event) => {  // the button is still that of another choice
    if (dock.ariaBusy === "true") { event.preventDefault(); early = true; }
  });
})();
