// A page that learns: the HKD of the checkerboard, small enough to be trained while the reader watches. It learns from
// the chapter's paths and the exact denoiser's guesses on them, by the paper's objective or with guess decoding beside it.
import { adam, batch, dice, evolve, forward, hkd, learn } from "./learner.mjs";
import { twelve } from "./points.mjs";
import { axes, button, choice, COLORS, html, layout } from "./stage.mjs";

const LEAST = 20, CALM = 1000, LIVELY = 120; // milliseconds: work in a frame; from one picture to the next
const LEARN_STYLE = `
  .live .learn { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .4rem .6rem; max-width: 36rem; margin: 0 auto; }
  .live .learn > svg { width: 100%; }
  .live .learn-controls select { max-width: 100%; }
  .live .learn-controls button { min-width: 6rem; min-height: 2.1rem; }`;

/** The paths of the page in units of the board's deviation: to learn from, and to look at. */
export function unpack({ inputs, guesses, noises, ways, coarse, deviation, times }) {
  const scaled = (text) => Float64Array.from(twelve(text), (v) => (v * coarse) / deviation);
  const count = scaled(guesses).length / (2 * times.length), noise = scaled(noises);
  return {
    paths: { times, count, inputs: scaled(inputs), guesses: scaled(guesses) },
    seen: { noise, count: noise.length / 2, guesses: scaled(ways) },
  };
}

/** The frame of a panel is drawn closer: none has numbers at the left, and only one has some below. */
function closer(panel, width, below) {
  const height = Number(panel.svg.getAttribute("viewBox").split(" ")[3]);
  panel.svg.setAttribute("viewBox", `50 0 ${width - 56} ${height - below}`);
  return panel;
}

/** The squares of the board, in units of its deviation: the side is half the square root of 3. */
function squares(panel) {
  const side = Math.sqrt(3) / 2;
  for (let k = 0; k < 8; k++) {
    const i = (k >> 1) - 2, j = 2 * (k & 1) - 2 + ((k >> 1) & 1), [x, y] = [i * side, j * side];
    panel.line([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], { color: "none", fill: COLORS[5], opacity: 0.13 });
  }
}

/** Lines in the colours of their squares: set(curves) takes a list of points for each. */
function bundle(panel, colors, style) {
  const lines = colors.map((color) => panel.line([], { color, ...style }));
  return (curves) => lines.forEach((line, i) => line.set(curves[i] ?? []));
}

/** Dots in the colours of their squares: set(points) takes one for each. */
function cloud(panel, colors, r) {
  const groups = [...new Set(colors)].map((color) => [color, panel.dots([], { color, r, opacity: 0.9 })]);
  return (points) => groups.forEach(([color, group]) => group.set(points.filter((_, i) => colors[i] === color)));
}

/** The four panels. Returns what redraws each. */
function stagePanels(parent, hues, some) {
  const plain = { equal: true, width: 260, xticks: [], yticks: [] }, way = some.map((i) => hues[i]);
  const make = (title, size, alt, more = {}) =>
    closer(axes(parent, { ...plain, x: [-size, size], y: [-size, size], title, alt, ...more }), 260, more.xticks ? 0 : 16);
  const one = make("One step", 2, "Where noises that were not trained on land in one step, over the squares of the board.");
  const on = make("On the way", 2, "What forty noises' states decode to from noise to picture, over what the teacher has.");
  const state = make("States, one pair", 1.1, "The two numbers of the pair that moves most, from noise to picture.");
  const rate = make("Rates of A", 4.5, "Growth rates to the right, frequencies upwards, of all pairs.",
    { xticks: [-4, -2, 0, 2, 4], yticks: [-4, -2, 0, 2, 4] });
  [one, on].forEach(squares);
  const wide = { color: COLORS[5], width: 5, opacity: 0.3 }, circles = rate.dots([], { color: COLORS[1], r: 5, opacity: 0.75 });
  const taught = some.map(() => on.line([], wide));
  return {
    samples: cloud(one, hues, 2.4),
    taught: (curves) => taught.forEach((line, i) => line.set(curves[i])),
    ways: bundle(on, way, { width: 1.6 }), ends: cloud(on, way, 3.2),
    states: bundle(state, way, { width: 1.6 }), arrived: cloud(state, way, 3.2),
    rates: (points) => circles.set(points),
  };
}

/** A matrix in rows as a list of points. */
const points = (flat) => Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]);

/** The states of noises at T, three numbers in a row for the encoder. */
function lift(model, noise) {
  const x = new Float64Array((noise.length / 2) * 3);
  points(noise).forEach(([a, b], i) => x.set([a, b, 1], 3 * i));
  return forward(model.encoder, x).out;
}

/** States at T moved to the time t, and what they decode to. */
const movedTo = (model, z, t) => evolve(model.A, z, new Float64Array(z.length / model.A.value.length).fill(t - 1));
const decoded = (model, z) => points(forward(model.decoder, z).out);

/** Which pair the way from T to the picture changes most; the one shown stays unless another does half as much again. */
function busiest(z, moved, d, shown) {
  const half = d / 2, change = new Float64Array(half);
  for (let i = 0; i < z.length; i++) change[(i % d) % half] += (moved[i] - z[i]) ** 2;
  const most = change.indexOf(Math.max(...change));
  return change[most] > 1.5 * change[shown] ? most : shown;
}

/** The paths of one pair of all states in `series` (one matrix for each time), in units of the largest number. */
function pairPaths(series, d, pair) {
  const count = series[0].length / d;
  const curves = Array.from({ length: count }, (_, r) => series.map((z) => [z[r * d + pair], z[r * d + pair + d / 2]]));
  const largest = Math.max(1e-9, ...curves.flat(2).map(Math.abs));
  return curves.map((curve) => curve.map(([p, q]) => [p / largest, q / largest]));
}

/** Squared error of points, as a share of the board's variance: their unit is its deviation. */
const missed = (found, wish) => found.reduce((sum, [a, b], i) =>
  sum + ((a - wish[2 * i]) ** 2 + (b - wish[2 * i + 1]) ** 2) / (2 * found.length), 0);

/** Draws the model, and says in words how far it misses. */
function painter(data, seen, panels) {
  const { times, some } = data, d = data.network.state, last = times.length - 1;
  const chosen = Float64Array.from(some.flatMap((i) => [seen.noise[2 * i], seen.noise[2 * i + 1]]));
  const wish = seen.guesses.subarray(2 * last * seen.count);
  const teacher = some.map((i) => times.map((_, k) => points(seen.guesses.subarray(2 * (k * seen.count + i), 2 * (k * seen.count + i) + 2))[0]));
  let pair = 0;
  return (model, guesses) => {
    const all = lift(model, seen.noise), end = decoded(model, movedTo(model, all, 0));
    const z = lift(model, chosen), series = times.map((t) => movedTo(model, z, t));
    const clouds = series.map((moved) => decoded(model, moved));
    pair = busiest(z, series[last], d, pair);
    const traced = pairPaths(series, d, pair);
    panels.samples(end);
    panels.taught(teacher.map((curve) => (guesses ? curve : curve.slice(last).flatMap((p) => [p, p]))));
    panels.ways(some.map((_, i) => clouds.map((cloud) => cloud[i])));
    panels.ends(clouds[last]);
    panels.states(traced);
    panels.arrived(traced.map((curve) => curve[last]));
    const alpha = [...model.A.value.subarray(0, d / 2)], beta = [...model.A.value.subarray(d / 2)];
    panels.rates(alpha.flatMap((a, k) => [[a, beta[k]], [a, -beta[k]]]));
    const percent = (v) => `${(100 * v).toFixed(v < 0.1 ? 1 : 0)}\u00a0%`;
    return `One step misses by ${percent(missed(end, wish))} of the board's variance, ` +
      `and with A = 0 by ${percent(missed(decoded(model, all), wish))}.`;
  };
}

/** Warm-up, then a straight fall to 0 at the end of the run. */
export const rateAt = ({ lr, steps, warmup }, k) => lr * Math.min(1, (k + 1) / warmup) * (1 - k / steps);

export function mount(root, data) {
  const { controls, panels, note } = layout(root), { paths, seen } = unpack(data), run = data.run;
  panels.className = "learn";
  controls.classList.add("learn-controls");
  root.prepend(html("style", {}, LEARN_STYLE));
  const paint = painter(data, seen, stagePanels(panels, data.hues, data.some));
  const pause = matchMedia("(prefers-reduced-motion: reduce)").matches ? CALM : LIVELY;
  let model, random, count, at, guesses = true, running = false, drawn = 0, seed = data.seed;

  const say = () => {
    const errors = paint(model, guesses);
    note.setAttribute("aria-live", running ? "off" : "polite"); // ten times a second is no news
    note.textContent = `Iteration ${at} of ${run.steps}. ${errors}`;
    train.textContent = running ? "Pause" : at === run.steps ? "Train on" : "Train";
  };
  const start = () => {
    model = hkd({ ...data.network, seed });
    random = dice(seed + 1);
    [count, at, running] = [0, 0, false];
    seed += 2;
    say();
  };
  const step = () => {
    learn(model, batch(paths, run.batch, guesses, random));
    adam(model, rateAt(run, at), (count += 1));
    at += 1;
    running = at < run.steps;
  };
  const frame = () => {
    if (!running) return;
    const begun = performance.now();
    do step(); while (running && performance.now() - begun < LEAST);
    if (!running || begun - drawn > pause) {
      say();
      drawn = begun;
    }
    requestAnimationFrame(frame);
  };
  const train = button(controls, "Train", () => {
    running = !running;
    if (running && at === run.steps) at = 0; // another run, from where this one ended
    say();
    requestAnimationFrame(frame);
  });
  button(controls, "Start again", start);
  choice(controls, { label: "asked for", options: ["the ends alone", "ends and guesses"], value: 1 }, (v) => {
    guesses = v === 1;
    say();
  });
  start();
}
