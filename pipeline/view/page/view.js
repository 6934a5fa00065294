"use strict";
// One look at a time: sliders change it, and every panel asks for its picture of the newest one. A panel never has more than one
// question under way, so whoever drags a slider does not queue up pictures that nobody waits for.

const $ = id => document.getElementById(id);
const look = { scene: "", frame: 0, f_number: 2, focal_mm: 50, focus_m: 2, max_coc_m: 1e-3, saturate: 1 };
let state = null;
let scene = null;

async function ask(path, values = {}, options = {}) {
  const query = new URLSearchParams(values).toString();
  const answer = await fetch(query ? `${path}?${query}` : path, options);
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

// `document.body.dataset.busy` counts what is under way.
let busy = 0;
async function busily(work) {
  document.body.dataset.busy = ++busy;
  try { return await work(); } finally { document.body.dataset.busy = --busy; }
}

class Newest {
  // Runs `work(key)` for the newest key only.
  constructor(work) { this.work = work; this.wanted = this.shown = null; this.running = false; }
  async want(key) {
    this.wanted = key;
    if (this.running) return;
    this.running = true;
    await busily(async () => {
      while (this.wanted !== this.shown) {
        const key = this.wanted;
        await this.work(key);
        this.shown = key;
      }
      this.running = false;
    });
  }
}

class Panel {
  constructor(figure) {
    this.figure = figure;
    this.kind = figure.dataset.kind;
    this.image = figure.querySelector("img");
    this.told = figure.querySelector(".told");
    this.newest = new Newest(query => this.show(query));
  }
  want(query) { if (!this.figure.hidden) this.newest.want(query); }
  async show(query) {
    try {
      await setPicture(this.image, this.kind, query);
      this.told.hidden = true;
    } catch (error) { say(this.told, error.message); }
  }
}

async function setPicture(image, kind, query) {
  const blob = await (await ask(`${kind}?${query}`)).blob();
  const old = image.src;
  image.src = URL.createObjectURL(blob);
  if (old) URL.revokeObjectURL(old);
  await image.decode();
  image.dataset.query = query;
}

function say(where, text, bad = true) {
  where.textContent = text;
  where.classList.toggle("bad", bad);
  where.hidden = !text;
}

const panels = [...document.querySelectorAll(".view")].map(figure => new Panel(figure));
const under = document.querySelector(".under");
const counting = new Newest(async query => {
  try { showCounted(await (await ask(`counted?${query}`)).json()); } catch (error) { showCounted(null); }
});

// What each picture depends on; a panel whose query did not change asks for nothing.
function refresh() {
  const frame = { scene: look.scene, frame: look.frame };
  const lens = { ...frame, f_number: look.f_number, focal_mm: look.focal_mm, focus_m: look.focus_m };
  const whole = { ...lens, max_coc_m: look.max_coc_m };
  const queries = { depth: frame, focus: whole, render: { ...whole, saturate: look.saturate }, network: whole };
  for (const panel of panels) panel.want(new URLSearchParams(queries[panel.kind]).toString());
  counting.want(new URLSearchParams(whole).toString());
  showSliders();
}

// Sliders are 0 to 1000. Focus is even in inverse distance, as a focus ring feels; the others are even in their logarithm.
const logarithmic = (low, high) => ({
  value: part => low * (high / low) ** part,
  part: value => Math.log(value / low) / Math.log(high / low),
});
const inverse = (near, far) => ({
  value: part => 1 / (1 / near + part * (1 / far - 1 / near)),
  part: value => (1 / value - 1 / near) / (1 / far - 1 / near),
});
const scales = { f_number: logarithmic(0.95, 22), focal: logarithmic(14, 300), focus: inverse(0.5, 100), max_coc: logarithmic(1e-5, 5e-3) };
const fields = { f_number: "f_number", focal: "focal_mm", focus: "focus_m", max_coc: "max_coc_m" };
const words = {
  f_number: value => `f/${value < 9.95 ? value.toFixed(1) : value.toFixed(0)}`,
  focal: value => `${value.toFixed(0)} mm`,
  focus: value => (value >= 999 ? "sky" : `${value < 1 ? value.toFixed(2) : value < 9.95 ? value.toFixed(1) : value.toFixed(0)} m`),
  max_coc: value => `${micrometres(value)} µm`,
};
const micrometres = value => (value * 1e6).toFixed(value < 1e-5 ? 1 : 0);

function showSliders() {
  for (const [id, scale] of Object.entries(scales)) {
    const value = look[fields[id]];
    $(id).value = 1000 * Math.min(1, Math.max(0, scale.part(value)));
    $(`${id}-out`).textContent = words[id](value);
  }
  $("frame").value = look.frame;
  $("frame-out").textContent = `${look.frame + 1} of ${Number($("frame").max) + 1}`;
  for (const chip of $("lenses").children) {
    const lens = scene.lenses[chip.dataset.number];
    chip.classList.toggle("chosen", ["f_number", "focal_mm", "focus_m"].every(name => lens[name] === look[name]));
  }
  showMark();
}

function showCounted(found) {
  $("words").textContent = found ? found.words : "";
  const percent = share => `${(100 * share).toFixed(0)} %`;
  const rows = found ? [
    ["Mean focus", percent(found.mean_focus)],
    ["Blurred beyond 1 px", percent(found.blurred)],
    ["Beyond max_coc", percent(found.saturated)],
    ["95 % of radii below", `${found.radius_p95_px.toFixed(1)} px`],
    ["Largest radius", `${found.radius_max_px.toFixed(1)} px`],
  ] : [];
  $("counted").replaceChildren(...rows.map(row => {
    const cell = document.createElement("div");
    cell.append(...row.map((text, number) => Object.assign(document.createElement(number ? "dd" : "dt"), { textContent: text })));
    return cell;
  }));
  $("warning").textContent = found ? found.warning : "";
  $("warning").hidden = !(found && found.warning);
}

function place(spot) {
  for (const mark of document.querySelectorAll(".spot")) {
    mark.hidden = !spot;
    if (spot) { mark.style.left = `${100 * spot[0]}%`; mark.style.top = `${100 * spot[1]}%`; }
  }
}

let asked = 0; // of clicks and choices only the last one counts, in whatever order the answers come

async function focusAt(shot, event) {
  const box = shot.getBoundingClientRect();
  const spot = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  place(spot);
  try {
    const where = { scene: look.scene, frame: look.frame, across: spot[0], down: spot[1] };
    const mine = ++asked;
    const found = await (await ask("focus_at", where)).json();
    if (mine !== asked) return;
    look.focus_m = found.focus_m;
    refresh();
  } catch (error) { say($("alarm"), error.message); }
}

async function chooseScene(id) {
  const entry = state.scenes.find(one => one.id === id);
  const mine = ++asked;
  try {
    const found = await (await ask("scene", { scene: id })).json();
    if (mine !== asked) return;
    scene = found;
  } catch (error) { return say($("alarm"), error.message); }
  $("of-scene").textContent = `${entry.frames} frames of ${entry.width}x${entry.height}, for ${entry.split}`;
  look.scene = id;
  look.frame = Math.min(look.frame, entry.frames - 1);
  $("frame").max = entry.frames - 1;
  document.body.style.setProperty("--shape", `${entry.width} / ${entry.height}`);
  document.body.style.setProperty("--ratio", entry.width / entry.height);
  scales.focus = inverse(scene.near_m, scene.far_m);
  if (scene.lenses.length) Object.assign(look, pickLens(scene.lenses[0]));
  else look.focus_m = scene.middle_m;
  $("lenses").replaceChildren(...scene.lenses.map((lens, number) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.textContent = lens.words;
    chip.title = lens.reason;
    chip.dataset.number = number;
    chip.addEventListener("click", () => { place(null); Object.assign(look, pickLens(lens)); refresh(); });
    return chip;
  }));
  $("drawn").hidden = !scene.lenses.length;
  place(null);
  refresh();
}

const pickLens = lens => ({ f_number: lens.f_number, focal_mm: lens.focal_mm, focus_m: lens.focus_m });

// The histogram of phase 4, with everything at or beyond max_coc in the colour of what saturates.
function drawHistogram() {
  const found = state.calibration;
  if (!found) return $("histogram").replaceChildren();
  const { edges, counts } = found.histogram;
  const end = edges[edges.length - 1], top = Math.max(...counts);
  const bars = counts.map((count, number) => {
    const left = 300 * edges[number] / end, height = 78 * count / top;
    return `<rect class="bar" x="${left.toFixed(2)}" y="${(80 - height).toFixed(2)}" width="${(300 / counts.length - 0.6).toFixed(2)}" height="${height.toFixed(2)}"/>`;
  });
  $("histogram").innerHTML = `<svg viewBox="0 0 300 92" preserveAspectRatio="none" role="img" aria-label="how circles of confusion are distributed">${bars.join("")}<line class="axis" x1="0" x2="300" y1="80" y2="80"/><line class="mark confirmed" y1="-2" y2="86"/></svg>`;
  showMark();
}

function showMark() {
  const line = document.querySelector("#histogram .confirmed");
  if (!line) return;
  const { edges } = state.calibration.histogram;
  const end = edges[edges.length - 1];
  const at = Math.min(300, 300 * look.max_coc_m / end);
  line.setAttribute("x1", at);
  line.setAttribute("x2", at);
  document.querySelectorAll("#histogram .bar").forEach((bar, number) => bar.classList.toggle("late", edges[number] >= look.max_coc_m));
  showConfirm();
}

function showConfirm() {
  const found = state.calibration;
  const same = found && found.confirmed_max_coc === look.max_coc_m;
  $("confirm").textContent = same ? "Confirmed" : found ? `Confirm ${micrometres(look.max_coc_m)} µm` : "Confirm";
  $("confirm").disabled = !found || same;
  $("recommended").hidden = !found || found.recommended_max_coc === look.max_coc_m;
}

function showState() {
  const found = state.calibration;
  const count = state.scenes.length;
  $("where").textContent = `${state.out_root} · ${count} ${count === 1 ? "scene" : "scenes"} · previews of at most ${state.long_side_px} px`;
  say($("alarm"), state.missing.join(" "));
  $("standing").textContent = !found ? state.problem : found.confirmed_max_coc
    ? `${micrometres(found.confirmed_max_coc)} µm confirmed by ${found.confirmed_by}, ${found.confirmed_at}. p95: ${micrometres(found.p95)} µm.`
    : `Not confirmed yet. The recommendation is p95 of ${found.scenes_sampled} scenes, ${micrometres(found.recommended_max_coc)} µm.`;
  $("network-said").textContent = state.network;
  $("network-said").hidden = !state.network;
  document.querySelector("[data-kind=network]").hidden = !state.network;
  if (found) scales.max_coc = logarithmic(Math.max(2e-6, found.p50 / 10), Math.min(0.049, 3 * found.max));
  drawHistogram();
  showConfirm();
}

async function confirmValue() {
  const found = state.calibration;
  const value = found.recommended_max_coc === look.max_coc_m ? null : look.max_coc_m;
  $("confirm").disabled = true;
  try {
    const sent = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ max_coc_m: value }) };
    const { next } = await (await ask("confirm", {}, sent)).json();
    state = await (await ask("state")).json();
    showState();
    say($("said"), `Confirmed. Next: ${next}`, false);
  } catch (error) {
    say($("said"), error.message);
    showConfirm();
  }
}

function listen() {
  for (const [id, scale] of Object.entries(scales)) {
    $(id).addEventListener("input", event => {
      if (id === "focus") place(null);
      look[fields[id]] = scales[id].value(event.target.value / 1000);
      refresh();
    });
  }
  $("frame").addEventListener("input", event => { place(null); look.frame = Number(event.target.value); refresh(); });
  $("scene").addEventListener("change", event => busily(() => chooseScene(event.target.value)));
  $("saturate").addEventListener("change", event => { look.saturate = event.target.checked ? 1 : 0; refresh(); });
  $("recommended").addEventListener("click", () => { look.max_coc_m = state.calibration.recommended_max_coc; refresh(); });
  $("confirm").addEventListener("click", () => busily(confirmValue));
  for (const shot of document.querySelectorAll(".shot")) shot.addEventListener("click", event => busily(() => focusAt(shot, event)));
  const show = async shown => {
    under.hidden = !shown;
    if (!shown) return;
    const query = new URLSearchParams({ scene: look.scene, frame: look.frame }).toString();
    if (under.dataset.query !== query) await setPicture(under, "sharp", query).catch(error => say($("alarm"), error.message));
  };
  $("hold").addEventListener("pointerdown", () => show(true));
  for (const name of ["pointerup", "pointerleave", "pointercancel", "blur"]) $("hold").addEventListener(name, () => show(false));
  $("hold").addEventListener("keydown", event => { if (event.key === " " || event.key === "Enter") show(true); });
  $("hold").addEventListener("keyup", () => show(false));
}

async function begin() {
  try { state = await (await ask("state")).json(); } catch (error) { return say($("alarm"), error.message); }
  const found = state.calibration;
  look.max_coc_m = found ? found.confirmed_max_coc || found.recommended_max_coc : state.supposed_max_coc_m;
  $("scene").replaceChildren(...state.scenes.map(one => new Option(one.id, one.id)));
  showState();
  listen();
  await chooseScene(state.scenes[0].id);
}

busily(begin);
