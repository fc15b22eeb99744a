// The home page beyond links and forms: results come while somebody types, and Enter goes on to them.
"use strict";
(() => {
  const form = document.querySelector("form[data-found]"), field = form?.querySelector("[data-search]");
  if (!form || !field) return;
  const WAIT = 150;  // milliseconds after the last key
  let timer = 0, asked = 0, shown = field.value.trim(), pending = null;

  const address = () => {
    const found = new URL(form.action, location.href);
    for (const [name, value] of new FormData(form)) if (value && name !== "go") found.searchParams.set(name, value.trim());
    return found;
  };
  const renew = async () => {
    clearTimeout(timer);
    const text = field.value.trim(), number = ++asked, where = address();
    try {
      const answer = await fetch(where, { headers: { accept: "text/html" } });
      if (!answer.ok || answer.redirected || number !== asked) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (number !== asked || !window.everref?.renew(page)) return;
      history.replaceState(history.state, "", where);
      shown = text;
    } catch { /* Enter asks as a form does */ }
  };
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { pending = renew(); }, WAIT);
  });
  form.addEventListener("submit", async (event) => {
    if (!field.value.trim()) return;  // all of them again
    event.preventDefault();
    if (field.value.trim() !== shown) pending = renew();
    await pending;
    const links = [...document.querySelectorAll('[data-part="list"] [data-row] a')].filter((a) => a.offsetParent);
    const rows = document.querySelectorAll('[data-part="list"] [data-row]');
    if (field.value.trim() !== shown) { form.submit(); return; }
    if (rows.length === 1 && links.length) links[0].click();
    else links[0]?.focus();
  });
})();
