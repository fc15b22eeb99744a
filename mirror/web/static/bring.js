// Uploading a file in pieces: with its progress, a pause, and going on after a broken connection or a reload.
"use strict";
(() => {
  const form = document.querySelector("[data-bring]");
  if (!form) return;
  const api = form.dataset.bring, find = (name) => form.querySelector(`[data-${name}]`);
  const bar = find("bar"), told = find("told"), send = find("send"), pause = find("pause");
  const SMALL = 1 << 18, LARGE = 1 << 23, WAITS = [1, 2, 5, 10, 30];  // bytes; seconds
  const said = { going: "Uploading", paused: "Paused. The upload goes on where it stopped.", gone: "The connection is broken. Trying again." };
  let paused = false, asking = null, wake = null;
  const value = (name) => form.elements[name].value.trim();
  const size = (bytes) => bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
  const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
  const say = (text) => { if (told.textContent !== text) told.textContent = text; };
  const wait = (seconds) => new Promise((done) => { wake = done; if (seconds) setTimeout(done, seconds * 1000); });
  const ask = async (method, path, body) => {
    const raw = body instanceof Blob, headers = { "x-csrf-token": value("csrf"), accept: "application/json" };
    if (body !== undefined) headers["content-type"] = raw ? "application/octet-stream" : "application/json";
    asking = new AbortController();
    const answer = await fetch(api + path, { method, headers, body: raw || body === undefined ? body : JSON.stringify(body), signal: asking.signal });
    if (answer.ok) return answer.json();
    const problem = await answer.json().catch(() => ({}));
    const again = answer.status >= 500 || answer.status === 429 || answer.status === 408;
    throw Object.assign(new Error(problem.detail || `The server answered ${answer.status}.`), { again, status: answer.status });
  };
  // Whatever may work later is tried again, for as long as the page is open.
  const kept = async (work) => {
    for (let tries = 0; ; tries++) {
      while (paused) { say(said.paused); await wait(0); }
      try { return await work(); } catch (error) {
        if (error.status !== undefined && !error.again) throw error;
        if (paused) continue;
        say(said.gone);
        await wait(WAITS[Math.min(tries, WAITS.length - 1)]);
      }
    }
  };
  const begin = async (file) => {
    const { items } = await kept(() => ask("GET", ""));
    const same = items.find((one) => one.state === "coming" && one.file === file.name && one.bytes === file.size);
    if (same) return same;
    const wanted = { file: file.name, bytes: file.size, keep_refs: form.elements.keep_refs.checked };
    if (value("repo")) wanted.repo = value("repo"); else if (value("name")) wanted.name = value("name");
    return ask("POST", "", wanted);
  };
  const upload = async (file) => {
    let at = await begin(file), step = 1 << 20;
    const path = `/${at.id}`;
    while (at.state === "coming" && at.came < file.size) {
      bar.max = file.size;
      bar.value = at.came;
      say(`${said.going}: ${size(at.came)} of ${size(file.size)}`);
      at = await kept(async () => {
        const began = Date.now();
        try {
          const next = await ask("PATCH", `${path}?offset=${at.came}`, file.slice(at.came, at.came + step));
          const took = Date.now() - began;
          step = took < 2000 ? Math.min(step * 2, LARGE) : took > 8000 ? Math.max(step / 2, SMALL) : step;
          return next;
        } catch (error) {
          if (paused || error.status === 413) throw error;
          step = Math.max(step / 2, SMALL);
          const now = await ask("GET", path);  // what came although no answer did
          if (now.came !== at.came || now.state !== "coming") return now;
          throw error;
        }
      });
    }
    bar.value = file.size;
    say("The whole file is here. Git checks it next.");
    if (at.state === "coming") await kept(() => ask("POST", `${path}/finish`, {}));
    location.assign(`${form.dataset.shown}${path}`);
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const file = form.elements.file.files[0];
    if (!file) return;
    find("sending").hidden = pause.hidden = false;
    send.disabled = true;
    pause.focus();  // a button that is disabled loses it
    upload(file).catch((error) => {
      say(sentence(error.message));
      told.classList.add("wrong");
      send.disabled = false;
      find("sending").hidden = pause.hidden = true;
      send.focus();
    });
    told.classList.remove("wrong");
  });
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    if (paused) asking?.abort(); else wake?.();
  });
})();
