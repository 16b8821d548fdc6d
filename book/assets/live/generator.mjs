// Two models at work in the page: encode noise once, then evolve, weigh the bands and decode at every move of a slider.
// The graphs (hkd_mini/app/onnx_export.py) run in onnxruntime-web; they, and it, are files beside the page, put there when
// the book is built (assets/ext/hkd_pages.py). Nothing is sent anywhere. Until the first picture is there, and where
// files, WebAssembly or a network are missing, the still picture in the page stays.
import { COLORS, axes, html, layout, svg } from "./stage.mjs";

const SIZE = 32, NUMBERS = 3 * SIZE * SIZE;

/** Time and noise level between a model's lowest and highest level, as in hkd_mini/diffusion/schedule.py. */
export const CLOCKS = {
  rho: (lowest, highest) => {
    const [low, high] = [lowest ** (1 / 7), highest ** (1 / 7)];
    return { time: (sigma) => (sigma ** (1 / 7) - low) / (high - low), sigma: (t) => (low + t * (high - low)) ** 7 };
  },
  log: () => ({ time: Math.log, sigma: Math.exp }),
};

/** Draws uniform numbers from a seed, from the `first` of the row on: mulberry32, as onnx_export.seeded_uniform does. */
function uniforms(seed, first = 0) {
  let state = (seed + Math.imul(first, 0x6d2b79f5)) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** n numbers of unit noise from a seed: Box and Muller's pairs, as onnx_export.seeded_noise draws them. */
export function noise(seed, n = NUMBERS) {
  const uniform = uniforms(seed);
  const out = new Float32Array(n + (n % 2));
  for (let i = 0; i < n; i += 2) {
    const radius = Math.sqrt(-2 * Math.log1p(-uniform())), angle = 2 * Math.PI * uniform();
    out[i] = radius * Math.cos(angle);
    out[i + 1] = radius * Math.sin(angle);
  }
  return out.subarray(0, n);
}

/** The class of a seed where none is chosen, one in `classes`: onnx_export.seeded_class. */
export const seededClass = (seed, classes) => Math.floor(classes * uniforms(seed, NUMBERS)());

/** Rank of every pair by a rate among all states of its side, equal rates in storage order: hkd_mini.hkd.spectra.ranks
 *  with the states of a resolution as a group. One list for each state, and of how many. */
export function ranks(states, key) {
  const rate = { alpha: ({ alpha }, i) => alpha[i], abs: ({ alpha }, i) => Math.abs(alpha[i]), beta: ({ beta }, i) => Math.abs(beta[i]) }[key];
  const found = states.map(({ alpha }) => ({ rank: new Int32Array(alpha.length), of: 0 }));
  for (const side of new Set(states.map((state) => state.side))) {
    const group = [];
    states.forEach((state, s) => state.side === side && state.alpha.forEach((_, i) => group.push([Math.fround(rate(state, i)), s, i])));
    group.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2]);
    group.forEach(([, s, i], k) => (found[s].rank[i] = k));
    states.forEach((state, s) => state.side === side && (found[s].of = group.length));
  }
  return found;
}

/** Whether each pair's rank lies in a band: `low` and `high` are the shares left out at either end, in percent. */
export function band({ rank, of }, { low, high }) { // the package's comparisons, with whole numbers on both sides
  return Uint8Array.from(rank, (k) => (100 * k >= low * of && 100 * k < (100 - high) * of ? 1 : 0));
}

/** What the graph is given for one state: gain of its own pairs and share of the other picture's. */
export function weights(kept, { gain }, { rest, mix }) {
  return {
    gain: Float32Array.from(kept, (inside) => (inside ? gain * (1 - mix) : rest)),
    share: Float32Array.from(kept, (inside) => (inside ? gain * mix : 0)),
  };
}

/** Rates of every state from one list of float32: alphas, then betas, state by state. `rates` has a shape for each state,
 *  one number for each pair where A is shared over places; `states` says which resolution it is of. */
export function readRates(buffer, { rates, states }) {
  let at = 0;
  return rates.map((shape, i) => {
    const n = shape.reduce((a, b) => a * b);
    const [alpha, beta] = [0, 1].map((k) => new Float32Array(buffer, 4 * (at + k * n), n));
    at += 2 * n;
    return { alpha, beta, side: states[i][1] };
  });
}

const rms = (a, b) => Math.sqrt(a.reduce((sum, v, i) => sum + (v - b[i]) ** 2, 0) / a.length);
const clipped = (values) => values.map((v) => Math.min(1, Math.max(-1, v)));
const others = (kept) => kept.map((inside) => Float32Array.from(inside, (one) => 1 - one));
const said = (v) => (v < 0.0995 ? v.toPrecision(1) : v < 9.95 ? v.toFixed(1) : v.toFixed(0)).replace("-", "\u2212");

// Files -------------------------------------------------------------------------------------------------------------

async function get(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return answer;
}

async function unpacked(url) {
  return new Response((await get(url)).body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** The runtime, from beside the page or, in a book built without npm, from where the book says. */
async function runtime(base, files) {
  const [ort, wasm] = await Promise.all([import(new URL(files.ort, base).href), files.wasm && unpacked(new URL(files.wasm, base))]);
  ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
  if (wasm) ort.env.wasm.wasmBinary = wasm;
  return ort;
}

/** The four files of a model. */
function fetched(base, name) {
  const file = (end) => new URL(`${name}${end}`, base), packed = ["-rates.bin.gz", "-lift.onnx.gz", "-draw.onnx.gz"];
  return Promise.all([get(file(".json")).then((answer) => answer.json()), ...packed.map((end) => unpacked(file(end)))]);
}

/** One model: `lift(x, sigma, label)` and `draw(label, dt, states, gains, dt', states', shares)`, whose numbers are not cut off.
 *  `label` is a class, -1 for none, which a model without classes does not ask for. */
async function open(ort, name, [about, rates, lift, draw]) {
  // disable_quant_qdq: unpack the bytes of the weights once, now, and not at every picture
  const options = { graphOptimizationLevel: "all", extra: { session: { disable_quant_qdq: "1" } } };
  const sessions = { lift: await ort.InferenceSession.create(lift, options), draw: await ort.InferenceSession.create(draw, options) };
  const shapes = about.states, clock = CLOCKS[about.clock](about.sigma_min, about.sigma_max);
  const one = (v) => new ort.Tensor("float32", Float32Array.of(v), [1]);
  const zeros = shapes.map((shape) => new ort.Tensor("float32", new Float32Array(shape[0] * shape[1] * shape[2]), [1, ...shape]));
  const pairs = (values) => values.map((v, i) => new ort.Tensor("float32", v, about.rates[i]));
  const told = (session, label) => (session.inputNames.includes("told")
    ? { told: new ort.Tensor("float32", Float32Array.from({ length: about.classes }, (_, k) => Number(k === label)), [1, about.classes]) } : {});
  return {
    name, clock, T: clock.time(about.sigma_max), eps: clock.time(about.sigma_min), rates: readRates(rates, about),
    noClass: about.no_class,
    async lift(x, sigma, label) {
      const given = { x: new ort.Tensor("float32", x, [1, 3, SIZE, SIZE]), sigma: one(sigma), ...told(sessions.lift, label) };
      const out = await sessions.lift.run(given);
      return shapes.map((_, i) => out[`z${i}`]);
    },
    async draw(label, dt, states, gains, dtRef = 0, refs = zeros, shares = gains.map((gain) => new Float32Array(gain.length))) {
      const feeds = { dt: one(dt), dt_ref: one(dtRef), ...told(sessions.draw, label) };
      for (const [part, list] of Object.entries({ z: states, ref: refs, gain: pairs(gains), share: pairs(shares) })) {
        list.forEach((tensor, i) => (feeds[`${part}${i}`] = tensor));
      }
      return (await sessions.draw.run(feeds)).image.data;
    },
  };
}

// Pictures ----------------------------------------------------------------------------------------------------------

/** Numbers in [-1, 1], channel by channel, as the address of a PNG. */
function address(values) {
  const canvas = html("canvas", { width: SIZE, height: SIZE }), pixels = new ImageData(SIZE, SIZE), n = SIZE * SIZE;
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = Math.round(127.5 * (values[c * n + i] + 1));
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas.toDataURL();
}

function picture(parent, kind, label) {
  const root = svg("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, role: "img", "aria-label": label, class: `gen-${kind}` });
  const image = root.appendChild(svg("image", { width: SIZE, height: SIZE }));
  const figure = parent.appendChild(html("figure", {}, root));
  if (kind !== "big") figure.append(html("figcaption", {}, label));
  return { root, set: (values) => image.setAttribute("href", address(values)) };
}

/** The middle square of anything that can be drawn, averaged down to 32 x 32, as numbers. */
function small(source, width, height) {
  let side = Math.min(width, height), from = source, [left, top] = [(width - side) / 2, (height - side) / 2];
  do { // halve until it fits: one large step would skip most pixels
    const next = Math.max(SIZE, Math.ceil(side / 2)), canvas = html("canvas", { width: next, height: next }), pen = canvas.getContext("2d");
    pen.fillStyle = "#fff"; // under transparent pictures
    pen.fillRect(0, 0, next, next);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(from, left, top, side, side, 0, 0, next, next);
    [from, side, left, top] = [canvas, next, 0, 0];
  } while (side > SIZE);
  const { data } = from.getContext("2d").getImageData(0, 0, SIZE, SIZE), n = SIZE * SIZE;
  return Float32Array.from({ length: NUMBERS }, (_, k) => data[4 * (k % n) + Math.floor(k / n)] / 127.5 - 1);
}

/** A picture to start with, drawn here: a sun over the sea. */
function sunset() {
  const canvas = html("canvas", { width: 128, height: 128 }), pen = canvas.getContext("2d");
  const fill = (stops, top, height) => {
    pen.fillStyle = pen.createLinearGradient(0, top, 0, top + height);
    stops.forEach((color, k) => pen.fillStyle.addColorStop(k / (stops.length - 1), color));
    pen.fillRect(0, top, 128, height);
  };
  fill(["#27558f", "#8fa6c4", "#f2b27a"], 0, 76);
  fill(["#b9694b", "#23405f", "#152a43"], 76, 52);
  pen.fillStyle = "#ffe9a8";
  pen.arc(82, 60, 17, 0, 7);
  pen.fill();
  return small(canvas, 128, 128);
}

// The page ----------------------------------------------------------------------------------------------------------

const KEYS = { alpha: "growth rate \u03b1", abs: "size of \u03b1", beta: "frequency |\u03b2|" };
const LEFT_OUT = "#b9bfc4", square = (side) => `${side} \u00d7 ${side}`;
const ANY = -1; // no class is chosen: each seed has its own
const FRESH = (seed, label, sides) => ({ seed, label, way: 0, key: "alpha", rest: 0, mix: 0, told: 0.3,
  levels: Object.fromEntries(sides.map((side) => [side, { low: 0, high: 0, gain: 1 }])) });

/** `sigmas` are the lowest and the highest noise level that all models know; `levels` are [side, name] of the states, fine to
 *  coarse; `classes` the names of what may be asked for, for the models whose `classes` is true. */
export async function mount(root, { seed, models, first, reach, sigmas, levels, classes }) {
  const note = root.appendChild(html("p", { class: "gen-note", role: "status" }));
  const up = document.documentElement.dataset.content_root;
  if (up === undefined) {
    note.textContent = "This picture is alive in the rendered book. Here, chapters 13 and 14 have controls of the same kind.";
    return;
  }
  let page;
  try {
    const base = new URL(`${up}_static/live/`, document.baseURI);
    const files = await get(new URL("files.json", base)).then((answer) => answer.json());
    if (!files.models) throw new Error("the book was built without them");
    if (navigator.connection?.saveData) await invited(root);
    note.textContent = "Loading the two models.";
    const [ort, small] = await Promise.all([runtime(base, files), fetched(base, first)]);
    page = build(root, { seed, models, reach, sigmas, levels, classes });
    await page.join(await open(ort, first, small)); // its picture is there before the larger model is asked for
    for (const name of Object.keys(models).filter((other) => other !== first)) await page.join(await open(ort, name, await fetched(base, name)));
    note.remove();
  } catch (error) {
    page?.remove(); // where the first came and the second did not, too: one would look like two
    note.textContent = `The models could not be loaded here, so the picture stands still (${error.message}).`;
  }
}

/** Where the reader's device asks to save data, eight megabytes wait for a click. */
function invited(root) {
  const start = root.appendChild(html("button", { type: "button" }, "Load the models (8 MB)"));
  return new Promise((go) => start.addEventListener("click", () => (start.remove(), go())));
}

/** The page's own part of the picture: two columns, and controls that both obey. */
function build(root, { seed, models, reach, sigmas, levels, classes }) {
  const sigmaOf = CLOCKS.rho(...sigmas).sigma; // how far from picture to noise, as EDM's schedule counts it
  const still = root.querySelector(".gen-still"), view = html("div", { class: "gen", hidden: "" });
  root.append(view);
  layout(view); // for the style that all live pictures share
  view.replaceChildren(view.firstChild);
  const sides = levels.map(([side]) => side), lit = Object.fromEntries(sides.map((side, k) => [side, COLORS[k]]));
  const fresh = () => FRESH(seed, ANY, sides);
  let state = fresh(), other = sunset(), quiet;
  const columns = [], fields = [];
  const pictures = view.appendChild(html("div", { class: "gen-columns gen-pictures" }));
  const panel = view.appendChild(html("div", { class: "gen-controls" }));
  const planes = view.appendChild(html("div", { class: "gen-columns" }));
  const note = view.appendChild(html("p", { class: "gen-note", role: "status" }));

  // Columns: the picture, three small ones below it, and further down the plane of rates.
  for (const [name, { title, about }] of Object.entries(models)) {
    const part = pictures.appendChild(html("section", { "aria-label": name }, html("p", { class: "gen-title" }, title), html("p", {}, about)));
    const big = picture(part, "big", `Picture of ${name}`), row = part.appendChild(html("div", { class: "gen-row" }));
    const views = Object.fromEntries(["whole", "A = 0", "change", "left out"].map((label) => [label, picture(row, "small", label)]));
    const kept = still?.querySelector(`img[data-model="${name}"]`);
    if (kept) big.root.firstChild.setAttribute("href", kept.src);
    const effect = part.appendChild(html("p", { class: "gen-effect" }, "loading"));
    columns.push({ name, big, views, effect, plane: plane(planes, name, reach, lit), model: null });
  }

  planes.append(html("p", { class: "gen-key" }, ...[...sides.map((side) => [lit[side], square(side)]), [LEFT_OUT, "left out"]].map(
    ([color, words]) => html("span", {}, html("i", { style: `background: ${color}` }), words))));

  // Controls. Each has a label and a value in words, and is a plain input: keys and screen readers know it.
  const set = (parent, legend) => parent.appendChild(html("fieldset", {}, html("legend", {}, legend)));
  const range = (parent, label, [min, max, step], text, read, write) => {
    const input = html("input", { type: "range", min, max, step }), shown = html("output", {});
    const show = () => {
      input.value = read();
      shown.textContent = text(read());
      input.setAttribute("aria-valuetext", shown.textContent);
    };
    input.addEventListener("input", () => (write(Number(input.value)), show(), redraw()));
    parent.append(html("label", { class: "gen-range" }, html("span", {}, label), input, shown));
    fields.push(show);
  };
  const choose = (parent, label, options, read, write, text) => {
    const select = html("select", {}, ...options.map(([value, words]) => html("option", { value }, words)));
    const shown = text ? [html("output", {})] : [];
    const show = () => {
      select.value = read();
      for (const output of shown) output.textContent = text();
    };
    select.addEventListener("change", () => (write(select.value), show(), redraw()));
    parent.append(html("label", text ? { class: "gen-said" } : {}, label, select, ...shown));
    fields.push(show);
  };
  const press = (parent, label, act) => {
    const element = parent.appendChild(html("button", { type: "button" }, label));
    element.addEventListener("click", act);
  };

  const begin = panel.appendChild(html("div", { class: "gen-line" }));
  const number = html("input", { type: "number", min: 0, max: 4294967295, step: 1, inputmode: "numeric" });
  number.addEventListener("change", () => plant(Number(number.value)));
  fields.push(() => (number.value = state.seed));
  begin.append(html("label", {}, "Seed", number));
  press(begin, "Next seed", () => plant(state.seed + 1));
  const conditional = Object.keys(models).filter((name) => models[name].classes).join(", ");
  const chosen = ({ seed, label }) => (label === ANY ? seededClass(seed, classes.length) : label);
  const drawn = () => (state.label === ANY ? `this seed: ${classes[chosen(state)]}` : "");
  if (conditional) choose(begin, `Class for ${conditional}`, [[ANY, "any"], ...classes.entries()], () => String(state.label), (v) => (state.label = Number(v)), drawn);
  const level = (way) => (way === 0 ? "picture" : `\u03c3 = ${said(sigmaOf(way))}`);
  range(begin, "Evolved to level", [0, 1, 0.02], level, () => state.way, (v) => (state.way = v));

  const bands = panel.appendChild(html("div", { class: "gen-columns" }));
  const percent = (v) => `${v} %`;
  for (const [side, name] of levels) {
    const box = set(bands, `${name}, ${square(side)}`), of = () => state.levels[side];
    range(box, "Lowest, left out", [0, 100, 5], percent, () => of().low, (v) => (of().low = v));
    range(box, "Highest, left out", [0, 100, 5], percent, () => of().high, (v) => (of().high = v));
    range(box, "Gain of the band", [0, 2, 0.05], (v) => v.toFixed(2), () => of().gain, (v) => (of().gain = v));
  }
  const line = panel.appendChild(html("div", { class: "gen-line" }));
  choose(line, "Ranked by", Object.entries(KEYS), () => state.key, (v) => (state.key = v));
  choose(line, "What is left out is", [["0", "removed"], ["1", "kept as it was"]], () => String(state.rest), (v) => (state.rest = Number(v)));

  const yours = set(panel, "Your picture, mixed into the band");
  const row = yours.appendChild(html("div", { class: "gen-yours" }));
  const shown = picture(row, "small", "your picture, 32 \u00d7 32");
  const sliders = row.appendChild(html("div", { class: "gen-sliders" }));
  range(sliders, "Share of your picture", [0, 1, 0.05], (v) => percent(Math.round(100 * v)), () => state.mix, (v) => (state.mix = v));
  range(sliders, "Encoded at level", [0.02, 1, 0.02], (v) => `\u03c3 = ${said(sigmaOf(v))}`, () => state.told, (v) => (state.told = v));
  const file = html("input", { type: "file", accept: "image/*" });
  sliders.append(html("label", { class: "gen-file" }, "Choose a picture, or drop one here", file));
  file.addEventListener("change", () => take(file.files[0]));
  for (const kind of ["dragover", "drop"]) yours.addEventListener(kind, (event) => event.preventDefault());
  yours.addEventListener("dragover", () => yours.classList.add("over"));
  yours.addEventListener("dragleave", () => yours.classList.remove("over"));
  yours.addEventListener("drop", (event) => (yours.classList.remove("over"), take(event.dataTransfer.files[0])));
  press(panel.appendChild(html("div", { class: "gen-line" })), "Reset", () => {
    [state, other] = [fresh(), sunset()];
    refresh();
  });

  function plant(next) {
    state.seed = Math.min(4294967295, Math.max(0, Math.floor(next) || 0));
    refresh();
  }
  let trouble = ""; // said until something is moved
  async function take(picked) {
    if (!picked) return;
    try {
      const bitmap = await createImageBitmap(picked);
      other = small(bitmap, bitmap.width, bitmap.height);
      [state.mix, state.rest] = [Math.max(state.mix, 0.8), 1];
      refresh();
    } catch {
      note.textContent = trouble = `${picked.name}: not a picture that this browser can read.`;
    }
  }
  function refresh() {
    fields.forEach((show) => show());
    shown.set(other);
    return redraw();
  }

  function reveal() {
    if (view.hidden) performance.mark("first picture");
    view.hidden = false;
    still?.setAttribute("hidden", "");
  }

  // The latest state wins: while a picture is being computed, moves are noted, and drawn once.
  let busy = null, again = false;
  function redraw() {
    trouble = "";
    again = true;
    return (busy ??= drawing());
  }
  async function drawing() {
    clearTimeout(quiet);
    while (again) {
      again = false;
      const ready = columns.filter(({ model }) => model);
      for (const column of ready) await draw(column);
      for (const column of ready) column.show();
      await new Promise((go) => setTimeout(go)); // moves made meanwhile are heard here
      for (const column of ready) if (!again) await leave(column);
    }
    busy = null;
    quiet = setTimeout(() => (busy ??= resting().then(() => ((busy = null), again && redraw()))), 400);
  }

  /** Words, once the controls rest. */
  async function resting() {
    const ready = columns.filter(({ model }) => model);
    const each = (numbers) => ready.map(({ name }, k) => `${name} ${numbers[k].toFixed(1)}`).join(", ");
    let words = `Distance from the whole picture, in grey levels: ${each(ready.map(({ moved }) => moved))}.`;
    if (ready.some(({ part }) => part)) {
      const gaps = [];
      for (const column of ready) gaps.push(await gap(column));
      words += ` Kept and left-out pairs, drawn apart and added, miss the picture of all pairs by: ${each(gaps)}.`;
    }
    note.textContent = trouble || words;
  }

  /** How far the pictures of the kept and of the left-out pairs are from adding up to that of all, in grey levels. */
  async function gap({ model, label, states, kept, part, dt }) {
    const one = await model.draw(label, dt, states, kept.map((inside) => Float32Array.from(inside)));
    const all = await model.draw(label, dt, states, kept.map(({ length }) => new Float32Array(length).fill(1)));
    return 127.5 * rms(all, one.map((v, i) => v + (part ? part[i] : 0)));
  }

  /** What is left out, alone: grey where that is nothing. */
  async function leave(column) {
    if (column.left === column.sign) return;
    column.left = column.sign;
    const some = column.kept.some((inside) => inside.includes(0));
    column.part = some ? await column.model.draw(column.label, column.dt, column.states, others(column.kept)) : null;
    column.views["left out"].set(column.part ?? new Float32Array(NUMBERS));
  }

  async function draw(column) {
    const { model, views, big } = column, now = structuredClone(state), all = model.rates.map(({ alpha }) => new Float32Array(alpha.length).fill(1));
    const { seed } = now, label = models[column.name].classes ? chosen(now) : -1, asked = [seed, label].join();
    const begun = column.begun !== asked;
    if (begun) column.states = await model.lift(noise(seed).map((v) => 80 * v), 80, label);
    [column.begun, column.label] = [asked, label];
    const told = sigmaOf(now.told), asks = [other, now.told, asked];
    if (now.mix > 0 && asks.some((v, i) => v !== column.asked?.[i])) {
      column.asked = asks;
      const unit = noise(4294967295 - seed);
      column.refs = await model.lift(other.map((v, i) => v + told * unit[i]), told, model.noClass ? -1 : label); // nobody said what is on it
    }
    if (column.key !== now.key) [column.key, column.ranks] = [now.key, ranks(model.rates, now.key)];
    const kept = column.ranks.map((rank, i) => band(rank, now.levels[model.rates[i].side]));
    const parts = kept.map((inside, i) => weights(inside, now.levels[model.rates[i].side], now));
    const t = now.way === 0 ? model.eps : model.clock.time(sigmaOf(now.way)), dt = t - model.T;
    const gains = parts.map(({ gain }) => gain), shares = parts.map(({ share }) => share);
    const values = clipped(await (now.mix > 0
      ? model.draw(label, dt, column.states, gains, t - model.clock.time(told), column.refs, shares)
      : model.draw(label, dt, column.states, gains)));
    big.set(values);
    if (label >= 0) big.root.setAttribute("aria-label", `Picture of ${column.name}, asked for the class ${classes[label]}`);
    reveal();
    if (begun) { // once for each noise and class: without bands, and without A
      column.whole = clipped(await model.draw(label, model.eps - model.T, column.states, all));
      column.idle = clipped(await model.draw(label, 0, column.states, all));
      views.whole.set(column.whole);
      views["A = 0"].set(column.idle);
    }
    views.change.set(values.map((v, i) => v - column.whole[i]));
    column.effect.textContent = `A = 0 changes it by ${(127.5 * rms(column.whole, column.idle)).toFixed(1)} grey levels`;
    const bands = [now.key, ...Object.values(now.levels).flatMap(({ low, high }) => [low, high])].join();
    Object.assign(column, { kept, dt, sign: [bands, dt, asked].join(), moved: 127.5 * rms(column.whole, values) });
    column.show = () => { // the plane, where the band has changed
      if (column.drawn !== bands) column.plane(model, kept);
      column.drawn = bands;
    };
  }

  return {
    remove: () => (view.remove(), still?.removeAttribute("hidden")),
    async join(model) {
      columns.find(({ name }) => name === model.name).model = model;
      await refresh();
    },
  };
}

/** The plane of rates, times T - eps so that clocks compare: kept pairs in the `color` of their side, the rest grey. */
function plane(parent, name, reach, color) {
  const narrow = parent.clientWidth < 560 && innerWidth < 700;
  const [x, y] = reach.map((most) => [-most, most]);
  const frame = axes(parent, { x, y, width: narrow ? 215 : 360, height: narrow ? 215 : 300, title: narrow ? "" : name,
    xlabel: "\u03b1 (T \u2212 \u03b5)", ylabel: "\u03b2 (T \u2212 \u03b5)",
    alt: `Rates of ${name} in the complex plane; those of the band are coloured` });
  const [left, top, wide, high] = [frame.X(x[0]), frame.Y(y[1]), frame.X(x[1]) - frame.X(x[0]), frame.Y(y[0]) - frame.Y(y[1])];
  const image = svg("image", { x: left, y: top, width: wide, height: high, preserveAspectRatio: "none" });
  frame.svg.append(image);
  return (model, kept) => {
    const canvas = html("canvas", { width: 2 * Math.round(wide), height: 2 * Math.round(high) }), pen = canvas.getContext("2d");
    const scale = model.T - model.eps, at = ([low, up], v, n) => Math.round(((v * scale - low) / (up - low)) * n);
    for (const lit of [0, 1]) {
      model.rates.forEach(({ alpha, beta, side }, l) => {
        const r = alpha.length < 1000 ? 5 : 1.5; // one rate a pair, or one at each place
        [pen.fillStyle, pen.globalAlpha] = lit ? [color[side], r > 2 ? 0.8 : 0.5] : [LEFT_OUT, r > 2 ? 0.8 : 0.35];
        for (let i = 0; i < alpha.length; i++) {
          if (kept[l][i] !== lit) continue;
          const [a, b] = [at(x, alpha[i], canvas.width), canvas.height - at(y, beta[i], canvas.height)];
          pen.beginPath();
          pen.arc(a, b, r, 0, 7);
          pen.fill();
        }
      });
    }
    image.setAttribute("href", canvas.toDataURL());
  };
}
