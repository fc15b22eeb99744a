// Uploading a file in pieces: with its progress, a pause, and going on after a broken connection or a reload.
// Where the vault's store takes them, pieces are encrypted here and go straight to it; otherwise to Everref.
"use strict";
(() => {
  const form = document.querySelector("[data-bring]");
  if (!form) return;
  const api = form.dataset.bring, find = (name) => form.querySelector(`[data-${name}]`);
  const bar = find("bar"), far = find("far"), told = find("told"), send = find("send"), pause = find("pause");
  const SMALL = 1 << 18, LARGE = 1 << 23, WAITS = [1, 2, 5, 10, 30];  // bytes; seconds
  const said = { going: "Uploading.", paused: "Paused. The upload goes on where it stopped.", gone: "The connection is broken. Trying again." };
  let paused = false, asking = null, wake = null;
  let straight = form.dataset.straight !== undefined && !!window.crypto?.subtle, failures = 0, next = null;
  const value = (name) => form.elements[name].value.trim();
  const size = (bytes) => bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
  const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
  const say = (text) => { if (told.textContent !== text) told.textContent = text; };
  const show = (came, all) => {
    bar.max = all;
    bar.value = came;
    far.textContent = bar.ariaValueText = `${size(came)} of ${size(all)}`;
  };
  const wait = (seconds) => new Promise((done) => { wake = done; if (seconds) setTimeout(done, seconds * 1000); });
  // Not by fetch(), which does not tell how much of a body has gone out. No answer is an error without `status`.
  const carry = (method, url, headers, body, moved) => new Promise((done, fail) => {
    if (paused) throw new Error(said.paused);
    const answer = asking = new XMLHttpRequest();
    answer.open(method, url);
    for (const [name, text] of Object.entries(headers)) answer.setRequestHeader(name, text);
    if (moved) answer.upload.onprogress = (event) => moved(event.loaded);
    answer.onload = () => done({ ok: answer.status >= 200 && answer.status < 300, status: answer.status, text: answer.responseText });
    answer.onerror = answer.onabort = () => fail(new Error(said.gone));
    answer.send(body);
  });
  const ask = async (method, path, body, moved) => {
    const raw = body instanceof Blob, headers = { "x-csrf-token": value("csrf"), accept: "application/json" };
    if (body !== undefined) headers["content-type"] = raw ? "application/octet-stream" : "application/json";
    const answer = await carry(method, api + path, headers, raw || body === undefined ? body : JSON.stringify(body), moved);
    if (answer.ok) return JSON.parse(answer.text);
    let problem = {};
    try { problem = JSON.parse(answer.text); } catch { /* of a proxy, in its own words */ }
    const again = answer.status >= 500 || answer.status === 429 || answer.status === 408;
    throw Object.assign(new Error(problem.detail || `The server answered ${answer.status}.`), { again, status: answer.status });
  };
  const raw = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const hex = (buffer) => Array.from(new Uint8Array(buffer), (one) => one.toString(16).padStart(2, "0")).join("");
  // As core/keyring.py encrypts it.
  const encrypted = async (how, piece) => {
    const nonce = crypto.getRandomValues(new Uint8Array(12));
    const key = await crypto.subtle.importKey("raw", raw(how.key), "AES-GCM", false, ["encrypt"]);
    const options = { name: "AES-GCM", iv: nonce, additionalData: raw(how.context) };
    return new Blob([raw(how.head), nonce, await crypto.subtle.encrypt(options, key, await piece.arrayBuffer())]);
  };
  // A piece straight to the store; what the store itself refuses, or the browser for it, is an error with `store`.
  const sendStraight = async (path, offset, piece, moved) => {
    if (next?.offset !== offset) ({ next } = await ask("POST", `${path}/straight`, {}));
    if (next?.offset !== offset) return ask("GET", path);  // another tab was faster
    const body = await encrypted(next, piece);
    const sha256 = hex(await crypto.subtle.digest("SHA-256", await body.arrayBuffer()));
    const about = { offset, bytes: piece.size, sha256 };
    const link = await ask("POST", `${path}/link`, about);
    const answer = await carry("PUT", link.url, link.headers, body, moved).catch(() => null);
    if (!answer?.ok) throw Object.assign(new Error("The store does not answer."), { store: true });
    const told = await ask("POST", `${path}/straight`, { arrived: about });
    next = told.next;
    failures = 0;
    return told.upload;
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
    const { items } = await ask("GET", "");
    const same = items.find((one) => one.state === "coming" && one.file === file.name && one.bytes === file.size);
    if (same) return same;
    const wanted = { file: file.name, bytes: file.size, keep_refs: form.elements.keep_refs.checked };
    if (value("repo")) wanted.repo = value("repo"); else if (value("name")) wanted.name = value("name");
    // A limit that is reached (429) is said at once.
    return ask("POST", "", wanted).catch((error) => { throw Object.assign(error, { again: error.status >= 500 }); });
  };
  const upload = async (file) => {
    let at = await kept(() => begin(file)), step = 1 << 20;
    const path = `/${at.id}`;
    while (at.state === "coming" && at.came < file.size) {
      show(at.came, file.size);
      say(said.going);
      at = await kept(async () => {
        const began = Date.now();
        try {
          const piece = file.slice(at.came, at.came + step);
          const moved = (bytes) => {
            show(at.came + Math.min(bytes, piece.size), file.size);
            say(said.going);
          };
          const now = straight ? await sendStraight(path, at.came, piece, moved) : await ask("PATCH", `${path}?offset=${at.came}`, piece, moved);
          const took = Date.now() - began;
          step = took < 2000 ? Math.min(step * 2, LARGE) : took > 8000 ? Math.max(step / 2, SMALL) : step;
          return now;
        } catch (error) {
          show(at.came, file.size);
          if (paused || error.status === 413) throw error;
          step = Math.max(step / 2, SMALL);
          const now = await ask("GET", path);  // what came although no answer did
          if (now.came !== at.came || now.state !== "coming") return now;
          // Everref answers and the store does not: once more, then through Everref.
          if (!straight || (error.status !== undefined && error.again) || (error.status === undefined && !error.store)) throw error;
          straight = ++failures < 2 && error.status === undefined;
          return now;
        }
      });
    }
    show(file.size, file.size);
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
    if (paused) asking?.abort();
    wake?.();
  });
})();
