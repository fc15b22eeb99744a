// A repository's page: the picture of every ref over time, its handle and slider, and steps from snapshot to snapshot.
// Everything works without it: cuts, steps and the moment's form are links and fields.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const NEAR = 8;  // pixels from a notch at which it is meant

  // What the next page takes up: where the focus was, and how far it was scrolled.
  const stay = (what) => {
    try {
      const kept = sessionStorage.getItem("stay");
      if (what) sessionStorage.setItem("stay", JSON.stringify({ what, y: scrollY }));
      else sessionStorage.removeItem("stay");
      return kept && JSON.parse(kept);
    } catch { return null; }
  };
  const step = (key, what) => {
    const link = one(`a[data-step="${key}"]`);
    if (link) { stay(what); location.href = link.href; }
    return Boolean(link);
  };

  // The picture: what its notches and cuts are, which one is near, and what is said of them.
  const pictured = (box) => {
    const svg = one("svg", box), tip = one(".tip", box);
    const from = Number(box.dataset.from), to = Number(box.dataset.to);
    const left = Number(box.dataset.left), width = Number(box.dataset.width);
    const lanes = all("g[data-lane]", svg).map((lane) => lane.dataset.lane);
    const marks = all("[data-n]", svg).map((mark) => {
      const shape = mark.matches("a") ? one("rect", mark) : mark, title = one("title", mark);
      const found = { mark, n: mark.dataset.n, cut: mark.matches("a"), said: title?.textContent ?? `push #${mark.dataset.n}`,
        lane: lanes[mark.dataset.of] ?? mark.parentElement.dataset.lane,
        x: Number(shape.getAttribute("x")) + Number(shape.getAttribute("width")) / 2,
        y: Number(shape.getAttribute("y")) + Number(shape.getAttribute("height")) / 2 };
      title?.remove();  // it would show beside ours
      return found;
    }).sort((a, b) => a.x - b.x);
    const scale = () => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    const place = (event) => {
      const seen = svg.getBoundingClientRect();
      return { x: (event.clientX - seen.left) / scale(), y: (event.clientY - seen.top) / scale() };
    };
    const nearest = ({ x, y }, weight) => marks.reduce((best, mark) => {
      const far = Math.abs(mark.x - x) + Math.abs(mark.y - y) * weight;
      return !best || far < best.far ? { mark, far } : best;
    }, null);
    const label = (mark) => mark.cut ? `#${Math.max(mark.n - 1, 1)}` : `#${mark.n}`;
    const go = (mark) => {
      const link = mark.cut ? mark.mark.getAttribute("href") : null;
      const here = box.dataset.here;
      location.href = link ?? `${here}${here.includes("?") ? "&" : "?"}at=${encodeURIComponent(label(mark))}`;
    };

    // What is said of the one under the pointer or the focus; the rest of it comes from the server.
    const known = new Map();
    let shown = null, timer = 0;
    const hide = () => { shown = null; tip.hidden = true; clearTimeout(timer); };
    const show = (mark) => {
      if (shown === mark) return;
      shown = mark;
      clearTimeout(timer);
      tip.innerHTML = known.get(mark) ?? "";
      if (!known.has(mark)) tip.textContent = mark.said;
      tip.hidden = false;
      const at = () => {
        const x = svg.getBoundingClientRect().left - box.getBoundingClientRect().left + box.scrollLeft + mark.x * scale();
        const room = box.scrollLeft + box.clientWidth - tip.offsetWidth - 8;
        tip.style.left = `${Math.max(box.scrollLeft + 8, Math.min(x + 12, room))}px`;
        const below = (mark.y + 22) * scale() + svg.offsetTop;
        const y = svg.getBoundingClientRect().top - box.getBoundingClientRect().top + (mark.y + 20) * scale();
        tip.style.top = `${Math.min(y, Math.max(box.clientHeight - tip.offsetHeight - 4, 0)) || below}px`;
      };
      at();
      if (known.has(mark)) return;
      timer = setTimeout(async () => {
        try {
          const query = new URLSearchParams({ ref: mark.lane });
          const answer = await fetch(`${box.dataset.caption}/${mark.n}?${query}`, { headers: { accept: "text/html" } });
          if (!answer.ok) return;
          known.set(mark, await answer.text());
          if (shown === mark) { tip.innerHTML = known.get(mark); at(); }
        } catch { /* what is said already stays */ }
      }, 120);
    };
    svg.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch" || event.buttons) return;
      const near = nearest(place(event), 1.2);
      if (near && near.far * scale() <= NEAR + 8 && Math.abs(near.mark.x - place(event).x) * scale() <= NEAR) show(near.mark);
      else hide();
    });
    svg.addEventListener("pointerleave", hide);
    box.addEventListener("focusin", (event) => {  // not at the picture itself: that would become a stop of its own
      const mark = marks.find((other) => other.mark === event.target.closest("a"));
      if (mark) show(mark);
    });
    box.addEventListener("focusout", hide);
    addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

    // The arrows lead from one to the next while the picture has the focus, and Enter goes there.
    box.addEventListener("keydown", (event) => {
      if (event.target !== box || event.ctrlKey || event.metaKey || event.altKey || !marks.length) return;
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) {
        event.preventDefault();
        const at = shown ? marks.indexOf(shown) + by : by < 0 ? marks.length - 1 : 0;
        const next = marks[Math.min(marks.length - 1, Math.max(0, at))];
        const x = next.x * scale();
        if (x < box.scrollLeft || x > box.scrollLeft + box.clientWidth - 40) box.scrollLeft = x - box.clientWidth / 2;
        show(next);
      } else if (event.key === "Enter" && shown) go(shown);
    });

    // The handle.
    const words = one("[data-moment]"), slider = one("input[data-slider]");
    const { zone: timeZone = "UTC", now: today } = document.documentElement.dataset;
    const language = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "long", year: "numeric",
      hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone });
    const parts_of = (time) => Object.fromEntries(language.formatToParts(time).map(({ type, value }) => [type, value]));
    const year = parts_of(Date.parse(today)).year;
    const letters = [...(slider?.dataset.letters ?? "").matchAll(/(-?\d+) (\S+)/g)].reverse();  // as the server calls the zone
    const clock = (seconds) => {
      const at = parts_of(seconds * 1000), name = letters.find(([, since]) => Number(since) <= seconds)?.[2] ?? "";
      return `${at.day} ${at.month}${at.year === year ? "" : ` ${at.year}`}, ${at.hour}:${at.minute}:${at.second} ${name}`.trim();
    };
    const said = (seconds) => slider && seconds >= to && "now" in slider.dataset ? "Now" : clock(seconds);
    const x_of = (seconds) => left + width * Math.min(1, Math.max(0, (seconds - from) / Math.max(1, to - from)));
    const seconds_of = (x) => Math.round(from + (to - from) * Math.min(1, Math.max(0, (x - left) / width)));
    const move = (seconds) => {
      if (words) words.textContent = said(seconds);
      const line = one(".head", svg), grip = one(".grip", svg), text = one(".gt", svg);
      if (!line) return;
      const x = x_of(seconds);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      if (!grip || !text) return;
      const wide = Number(grip.getAttribute("width"));
      const begin = Math.min(Math.max(x - wide / 2, 0), left + width - wide);
      grip.setAttribute("x", begin);
      text.setAttribute("x", begin + wide / 2);
      text.textContent = said(seconds).replace(/:\d\d( |$)/, "$1").slice(0, 24);
      all(".beside", svg).forEach((other) => other.remove());
    };
    // Moments are those of pushes: the nearest one is meant, or now at the right edge.
    const snap = (x, y, weight) => {
      const near = nearest({ x, y }, weight), end = left + width;
      if (x >= left && (!near || end - x < Math.abs(near.mark.x - x))) {
        if (slider && !("now" in slider.dataset) && near) go(near.mark);
        else location.href = box.dataset.here;
      } else if (near) go(near.mark);
    };
    let held = false;
    svg.addEventListener("pointerdown", (event) => {
      const { x } = place(event);
      if (event.button !== 0 || event.pointerType === "touch" || x < left || event.target.closest("a")) return;
      held = true;
      svg.setPointerCapture(event.pointerId);
      hide();
      move(seconds_of(x));
    });
    svg.addEventListener("pointermove", (event) => { if (held) move(seconds_of(place(event).x)); });
    svg.addEventListener("pointerup", (event) => {
      if (!held) return;
      held = false;
      stay("picture");
      snap(place(event).x, place(event).y, 0.12);
    });
    svg.addEventListener("pointercancel", () => { held = false; });
    svg.addEventListener("click", (event) => {
      if (event.pointerType === "touch" && !event.target.closest("a") && place(event).x >= left) snap(place(event).x, place(event).y, 0.12);
    });
    slider?.addEventListener("input", () => move(Number(slider.value)));
    slider?.addEventListener("change", () => { stay("slider"); snap(x_of(Number(slider.value)), 0, 0); });

    // Where it is too narrow for all of it, it opens at the handle, and the names of its lanes stay in sight.
    box.classList.add("ready");  // without a script it begins at its latest end
    const names = one(".names", svg);
    const follow = () => names?.style.setProperty("--x", `${box.scrollLeft / scale()}px`);
    const head = one(".head", svg);
    if (head && box.scrollWidth > box.clientWidth) {
      box.scrollLeft = 0;
      box.scrollLeft = head.getBoundingClientRect().left - box.getBoundingClientRect().left - box.clientWidth * 0.6;
    }
    box.addEventListener("scroll", follow, { passive: true });
    follow();
  };

  // A slider steps from snapshot to snapshot by its arrows; without a picture it goes to the time it stands at.
  const sliding = (slider) => {
    slider.addEventListener("keydown", (event) => {
      const key = { ArrowLeft: "[", ArrowDown: "[", ArrowRight: "]", ArrowUp: "]" }[event.key];
      if (!key || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      step(key, "slider");
    });
    if (one("[data-picture]")) return;
    const field = slider.form.elements.at, to = Number(slider.dataset.to);
    slider.addEventListener("change", () => {
      const seconds = Number(slider.value), live = seconds >= to && "now" in slider.dataset;
      field.value = live ? "" : new Date(seconds * 1000).toISOString().replace(/\.\d+Z$/, "Z");
      stay("slider");
      slider.form.requestSubmit();
    });
  };

  // `[` and `]` step; whoever turned single keys off keeps them off.
  const wanted = () => { try { return localStorage.getItem("keys") !== "off"; } catch { return true; } };
  addEventListener("keydown", (event) => {
    if (event.key !== "[" && event.key !== "]") return;
    const typed = event.getModifierState("AltGraph") || !(event.ctrlKey || event.altKey || event.metaKey);
    if (!typed || event.isComposing || one("dialog[open]") || !wanted()) return;
    if (event.target.closest("input:not([type=range]), select, textarea, [contenteditable]")) return;
    if (step(event.key, document.activeElement.matches("[data-slider]") ? "slider" : "step")) event.preventDefault();
  });

  const taken = stay();
  const prepare = (root) => {
    all("[data-picture]", root).filter((box) => one("svg", box)).forEach(pictured);
    all("input[data-slider]", root).forEach(sliding);
  };
  prepare(document);
  document.addEventListener("prepared", (event) => prepare(event.detail));
  if (taken) {
    scrollTo(0, taken.y);
    const slider = one("input[data-slider]");
    if (taken.what === "slider" && slider) {  // for the next press of an arrow
      const folded = slider.closest("details");
      if (folded) folded.open = true;
      slider.focus({ preventScroll: true });
    }
  }
})();
