// Choosing among hundreds: the list follows what is typed, ticks outlive it, and the button says how many they are.
// Without this, each search is a form that brings the ticks along.
"use strict";
(() => {
  const form = document.querySelector("form.choose");
  if (!form) return;
  const list = form.querySelector("#list"), elsewhere = form.querySelector("[data-elsewhere]");
  const count = form.querySelector("[data-count]"), button = form.querySelector("[data-do]");
  const nowhere = form.querySelector("[data-nowhere]"), said = button.querySelector("[data-rule]");
  const boxes = () => [...form.querySelectorAll("input[name=repository]:not(:disabled)")];
  const chosen = new Map(boxes().filter((box) => box.checked).map((box) => [box.value, name(box)]));
  let after = "", asking = null, waiting = 0;

  function name(box) { return (box.labels[0] ?? box).textContent; }

  // The boxes follow what is chosen: those in the list are ticked, the others get a box of their own.
  const show = () => {
    const shown = new Set();
    list.querySelectorAll("input[name=repository]:not(:disabled)").forEach((box) => {
      box.checked = chosen.has(box.value);
      shown.add(box.value);
    });
    elsewhere.replaceChildren(...[...chosen].filter(([id]) => !shown.has(id)).map(([id, words]) => {
      const label = document.createElement("label"), box = document.createElement("input");
      Object.assign(box, { type: "checkbox", name: "repository", value: id, checked: true });
      label.append(box, words);
      return label;
    }));
    say();
  };
  const say = () => {
    const number = chosen.size, rest = Math.max(0, Number(count.dataset.free) - number);
    const words = `${number.toLocaleString("en")} chosen, ${rest.toLocaleString("en")} not`;
    if (count.textContent !== words) count.textContent = words;
    nowhere.hidden = elsewhere.childElementCount > 0;
    const ruled = said.dataset.rule === "True";
    said.textContent = number ? `Back up ${number === 1 ? "1 repository" : `${number.toLocaleString("en")} repositories`}`
      : ruled ? "Save" : "Choose what to back up";
    button.disabled = !number && !ruled && form.elements.rule.value === "none";
  };

  const query = (part) => {
    const asked = new URLSearchParams();
    form.querySelectorAll("[data-find]").forEach((field) => { if (field.value) asked.set(field.name, field.value); });
    if (after) asked.set("after", after);
    const address = asked.size ? `${list.dataset.address}?${asked}` : list.dataset.address;
    if (!part) return address;
    asked.set("part", part);
    return `${list.dataset.address}?${asked}`;
  };
  const load = async () => {
    asking?.abort();
    const mine = asking = new AbortController();
    try {
      const answer = await fetch(query("list"), { signal: mine.signal });
      if (!answer.ok || answer.redirected) return location.assign(query());
      const page = await answer.text();
      if (mine.signal.aborted) return;
      const at = list.contains(document.activeElement) ? document.activeElement.name : "";
      list.innerHTML = page;
      history.replaceState(null, "", query());
      show();
      if (at) list.querySelector(`[name="${at}"]`)?.focus({ preventScroll: true });
      again();
    } catch (error) {
      if (error.name !== "AbortError") location.assign(query());
    }
  };
  const again = () => { if (list.querySelector("[data-busy]")) setTimeout(load, 2000); };
  const find = () => { after = ""; load(); };

  form.addEventListener("input", (event) => {
    if (!event.target.matches("input[data-find]")) return;
    clearTimeout(waiting);
    waiting = setTimeout(find, 150);
  });
  form.addEventListener("change", (event) => {
    const box = event.target;
    if (box.matches("select[data-find]")) find();
    if (box.name === "rule") say();
    if (box.name !== "repository") return;
    if (box.checked) chosen.set(box.value, name(box));
    else chosen.delete(box.value);  // its box stays where it is, to be ticked again
    say();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    if (event.target.name === "patterns") {
      event.preventDefault();
      form.requestSubmit(button);
    }
    if (!event.target.matches("input[data-find]")) return;
    event.preventDefault();
    clearTimeout(waiting);
    find();
  });
  form.addEventListener("click", async (event) => {
    const pressed = event.target.closest("[data-all], [data-none], [data-turn], [data-plain]");
    if (!pressed) return;
    event.preventDefault();
    if (pressed.matches("[data-plain]")) return find();
    if (pressed.matches("[data-turn]")) {
      after = pressed.value;
      await load();
      return list.scrollIntoView({ block: "nearest" });
    }
    if (pressed.matches("[data-none]")) chosen.clear();
    else {
      const answer = await fetch(query("matching"));
      if (!answer.ok || answer.redirected) return location.assign(query());
      Object.entries(await answer.json()).forEach(([id, words]) => chosen.set(id, words));
    }
    show();
  });
  form.querySelector("[data-plain]").hidden = true;
  addEventListener("pageshow", () => {  // back in the history, a browser ticks again what was ticked
    boxes().forEach((box) => { if (box.checked) chosen.set(box.value, name(box)); });
    show();
    again();
  });
})();
