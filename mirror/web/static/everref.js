// What every page can do beyond links and forms: progress as it happens, keys, copying, fresh ages.
// Everything works without it. It asks only this host, and runs nothing that a page brings.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);

  // Ages, in the words of mirror/words.py.
  const ages = [[120, 1, "s"], [7200, 60, "min"], [172800, 3600, "h"], [5184000, 86400, "days"],
    [63113904, 2629746, "months"], [Infinity, 31556952, "years"]];
  const ago = (then, now) => {
    const seconds = (now - then) / 1000;
    if (Math.abs(seconds) < 1) return "just now";
    const [, length, unit] = ages.find(([limit]) => Math.abs(seconds) < limit);
    const number = Math.floor(Math.abs(seconds) / length);
    return seconds > 0 ? `${number} ${unit} ago` : `in ${number} ${unit}`;
  };
  const skew = Date.parse(document.documentElement.dataset.now) - Date.now();  // this machine's clock may be off
  const refresh = () => all("time[data-ago]").forEach((time) => {
    const words = ago(Date.parse(time.dateTime), Date.now() + (skew || 0));
    if (time.textContent !== words) time.textContent = words;
  });
  setInterval(refresh, 1000);

  // The browser's time zone: for a sign-in, and offered where the clocks of the page go otherwise.
  const here = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
  const clocks = (zone) => [0, 6].map((month) => new Date(2026, month, 1).toLocaleString("en", { timeZone: zone })).join();
  const offer = (form) => {
    const there = document.documentElement.dataset.zone;
    try {
      if (!here || form.dataset.zoneOffer === here || clocks(here) === clocks(there)) return;
    } catch { return; }  // a zone that this browser does not know
    form.elements.zone.value = here;
    form.elements.next.value = location.pathname + location.search;
    all("[data-here]", form).forEach((part) => { part.textContent = here; });
    form.hidden = false;
  };

  // Progress: the server sends the part of the page that changed.
  const follow = (part) => {
    const source = new EventSource(part.dataset.live);
    let last = part.innerHTML;
    source.addEventListener("part", (event) => {
      if (!part.isConnected) source.close();
      if (event.data === last) return;
      last = event.data;
      part.innerHTML = event.data;
      prepare(part);
    });
    source.addEventListener("end", () => {
      source.close();
      if ("liveReload" in part.dataset) location.reload();
    });
    addEventListener("pagehide", () => source.close());
  };

  // The parts of a page that are sent anew: what is focused and unfolded, and how far it is scrolled, stays.
  const part = (root, name) => one(`[data-part="${CSS.escape(name)}"]`, root);
  const same = (element) => element.id ? `#${CSS.escape(element.id)}`
    : element.matches("a[href]") ? `a[href="${CSS.escape(element.getAttribute("href"))}"]`
      : element.matches("summary") && element.parentElement.id ? `#${CSS.escape(element.parentElement.id)} > summary` : null;
  const put = (there, fresh) => {
    const at = document.activeElement, again = there.contains(at) && at !== there ? same(at) : null;
    const open = all("details[id][open]", there).map((details) => details.id);
    const x = scrollX, y = scrollY;
    there.replaceChildren(...fresh.childNodes);
    open.forEach((id) => { const details = one(`#${CSS.escape(id)}`, there); if (details) details.open = true; });
    prepare(there);
    if (again) one(again, there)?.focus({ preventScroll: true });
    scrollTo(x, y);
  };
  const renewParts = (page) => {
    const here = all("main [data-part]"), names = here.map((element) => element.dataset.part);
    if (!here.length || names.some((name) => !part(page, name)) || all("main [data-part]", page).length !== here.length) return false;
    here.forEach((element) => {
      const fresh = part(page, element.dataset.part);
      if (element.innerHTML !== fresh.innerHTML) put(element, fresh);
      element.parentElement.className = fresh.parentElement?.className ?? element.parentElement.className;
    });
    document.title = page.title;
    const main = one("main[data-watch]"), fresh = one("main[data-watch]", page);
    if (main && fresh) main.dataset.mark = fresh.dataset.mark;
    return true;
  };
  window.everref = { renew: renewParts };

  // A page about what changes asks for itself again when it did, unless somebody is writing on it just then.
  const watch = (main) => {
    let source = null, stale = false;
    const written = () => main.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
    const renew = async () => {
      stale = true;
      if (written() && !one("[data-part]", main)) return;
      try {
        const answer = await fetch(location.href, { headers: { accept: "text/html" } });
        if (!answer.ok || answer.redirected) return;
        const page = new DOMParser().parseFromString(await answer.text(), "text/html"), fresh = one("main[data-watch]", page);
        if (fresh && renewParts(page)) { stale = false; return; }
        if (!fresh || written()) return;
        stale = false;
        const said = one(".said", main);
        main.dataset.mark = fresh.dataset.mark;
        document.title = page.title;
        if (said) fresh.prepend(said);
        put(main, fresh);
      } catch { /* the next change asks again */ }
    };
    const open = () => {
      source = new EventSource(main.dataset.watch);
      source.addEventListener("part", (event) => { if (event.data !== main.dataset.mark) renew(); });
    };
    const turn = () => {  // a browser keeps few connections for all its windows: those that nobody sees need none
      source?.close();
      if (document.visibilityState === "visible") open();
    };
    main.addEventListener("focusout", () => { if (stale) renew(); });
    document.addEventListener("visibilitychange", turn);
    addEventListener("pagehide", () => source?.close());
    turn();
  };

  // Copying.
  const copying = (button) => {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const words = button.textContent;
      try {
        await navigator.clipboard.writeText(button.dataset.copy ?? one("code, pre", button.parentElement).textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(one("code, pre", button.parentElement));
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = words; }, 1500);
    });
  };

  // Parts that take the server a little longer come after the page.
  const load = async (part) => {
    try {
      const answer = await fetch(part.dataset.load, { headers: { accept: "text/html" } });
      if (!answer.ok) return;
      part.innerHTML = await answer.text();
      prepare(part);
    } catch { /* what stands there leads to the same */ }
  };

  // Tabs that do not fit scroll sideways: they open at the one that is current.
  all(".tabs").forEach((tabs) => {
    const current = one("[aria-current]", tabs);
    if (current) tabs.scrollLeft = current.offsetLeft - tabs.offsetLeft - (tabs.clientWidth - current.offsetWidth) / 2;
  });

  // Keys, until somebody turns them off: single letters get in the way of some voice and switch controls.
  const help = one("#keys"), wanted = one("[data-keys-on]");
  const kept = () => { try { return localStorage.getItem("keys") !== "off"; } catch { return true; } };
  if (wanted) {
    wanted.checked = kept();
    wanted.addEventListener("change", () => { try { localStorage.setItem("keys", wanted.checked ? "on" : "off"); } catch { /* private */ } });
  }
  let before = "", beforeAt = 0;
  const rows = () => all("[data-row]").map((row) => row.matches("a") ? row : one("a", row)).filter((a) => a && a.offsetParent);
  const step = (by) => {
    const found = rows(), at = found.indexOf(document.activeElement);
    const next = found[Math.min(found.length - 1, Math.max(0, at < 0 ? (by > 0 ? 0 : found.length - 1) : at + by))];
    if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.key === "Escape") {
      all("details.menu[open]").forEach((menu) => { menu.open = false; one("summary", menu).focus(); });
      if (document.activeElement?.matches("[data-search]")) document.activeElement.blur();
      return;
    }
    if (event.target.closest("input, select, textarea, [contenteditable]") || one("dialog[open]") || !kept()) return;
    const key = event.key, chained = before === "g" && event.timeStamp - beforeAt < 1200;
    before = key; beforeAt = event.timeStamp;
    if (chained) {
      const link = one(`a[data-go="${CSS.escape(key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    const search = one("[data-search]");
    if (key === "/" && search) { event.preventDefault(); search.focus(); search.select(); }
    else if (key === "j") step(1);
    else if (key === "k") step(-1);
    else if (key === "?" && help) { event.preventDefault(); help.showModal(); }
  });
  document.addEventListener("click", (event) => {
    all("details.menu[open]").forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; });
    if (event.target === help) help.close();
    const opener = event.target.closest("[data-keys]");
    if (opener && help) help.showModal();
  });

  // Addresses without what was left empty.
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "get") return;
    const empty = [...event.target.elements].filter((field) => field.name && field.value === "" && !field.disabled);
    empty.forEach((field) => { field.disabled = true; });
    setTimeout(() => empty.forEach((field) => { field.disabled = false; }));
  });

  // Choosing many at once; sending a form when a choice is made.
  const choosing = (box) => box.addEventListener("change", () => {
    all(box.dataset.all, box.form ?? document).forEach((other) => {
      if (!other.disabled && other.checked !== box.checked) {
        other.checked = box.checked;
        other.dispatchEvent(new Event("change", { bubbles: true }));
      }
    });
  });

  document.addEventListener("click", (event) => { if (event.target.closest?.("[data-print]")) print(); });

  const prepare = (root) => {
    all("main[data-watch]", root).forEach(watch);
    all("[data-live]", root).forEach(follow);
    all("[data-load]", root).forEach(load);
    all("[data-copy]", root).forEach(copying);
    all("input[data-all]", root).forEach(choosing);
    all("select[data-send]", root).forEach((select) => select.addEventListener("change", () => select.form.requestSubmit()));
    all("[data-zone-here]", root).forEach((field) => { field.value = here; });
    all("form[data-zone-offer]", root).forEach(offer);
    all("[data-script]", root).forEach((part) => { part.hidden = false; });
    document.dispatchEvent(new CustomEvent("prepared", { detail: root }));  // for the scripts of single pages
  };
  prepare(document);
})();
