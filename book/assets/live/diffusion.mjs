// Four clouds on a line, and the flow that carries noise to them, computed here. Left, one path in the clock rho at unit
// contrast, with a solver that tries to follow it in N steps. Right, what the denoiser knows at one point of the path: how
// likely each cloud is to be behind x, and the mean of that, which is its answer.
import { axes, choice, layout, rk4, slider, COLORS } from "./stage.mjs";

const LOW = 0.002, HIGH = 80, STEPS = 300, SPREAD = 0.5; // SPREAD: the deviation of data, for unit contrast
const root7 = (s) => s ** (1 / 7);
/** EDM's noise levels: n of them, from HIGH down to LOW, evenly spaced in the seventh root. */
const karras = (n) => Array.from({ length: n }, (_, k) =>
  (root7(HIGH) + (n > 1 ? k / (n - 1) : 0) * (root7(LOW) - root7(HIGH))) ** 7);
const SIGMAS = karras(STEPS + 1);
const reading = (s) => (Math.max(root7(s), root7(LOW)) - root7(LOW)) / (root7(HIGH) - root7(LOW));
const contrast = (x, s) => x / Math.hypot(SPREAD, s);
const CROWD = [-2.1, -1.4, -0.9, -0.5, -0.15, 0.2, 0.6, 1.1, 1.8];
const words = (k) => SIGMAS[STEPS - k].toPrecision(2).replace("8.0e+1", "80");
const said = (v, digits = 2) => v.toFixed(digits).replace("-", "\u2212");

export function mount(root, { points, weights, delta, start, level, n, normals }) {
  const { controls, panels, note } = layout(root);
  const [blue, orange, green, , , slate] = COLORS;
  const SOLVERS = ["Euler (DDIM)", "Heun", "ancestral"];
  let solver = 0, held = start; // the point that can be dragged: x at unit contrast, at the level of the slider

  /** How likely each cloud is to be behind x at level s. */
  function posterior(x, s) {
    const v = delta ** 2 + s * s, logs = points.map((y, i) => Math.log(weights[i]) - (x - y) ** 2 / (2 * v));
    const top = Math.max(...logs), w = logs.map((l) => Math.exp(l - top)), total = w.reduce((a, b) => a + b);
    return w.map((value) => value / total);
  }
  /** The mean of cloud i, given x at level s. */
  const centre = (x, s, i) => (delta ** 2 * x + s * s * points[i]) / (delta ** 2 + s * s);
  const denoise = (x, s) => posterior(x, s).reduce((sum, w, i) => sum + w * centre(x, s, i), 0);
  const slope = (x, s) => (x - denoise(x, s)) / s;

  /** The true path through x at SIGMAS[k]: its x at every level, followed both ways. */
  function path(k, x) {
    const xs = new Array(STEPS + 1), step = (j, to) => {
      xs[to] = rk4(([a, s]) => [slope(a, s), 1], [xs[j], SIGMAS[j]], SIGMAS[to] - SIGMAS[j])[0];
    };
    xs[k] = x;
    for (let j = k; j < STEPS; j += 1) step(j, j + 1);
    for (let j = k; j > 0; j -= 1) step(j, j - 1);
    return xs;
  }

  /** The solver's points (sigma, x), the last one at sigma = 0. */
  function solve(x) {
    const levels = [...karras(n), 0], found = [[HIGH, x]];
    for (let k = 0; k < n; k += 1) {
      const [t, s] = [levels[k], levels[k + 1]], a = found[k][1], f = slope(a, t);
      let b = a + (s - t) * f;
      if (solver === 1 && s > 0) b = a + ((s - t) * (f + slope(b, s))) / 2;
      if (solver === 2) {
        const r = (s / t) ** 2;
        b = r * a + (1 - r) * denoise(a, t) + s * Math.sqrt(1 - r) * normals[k];
      }
      found.push([s, b]);
    }
    return found;
  }

  choice(controls, { label: "solver", options: SOLVERS }, (k) => { solver = k; draw(); });
  slider(controls, { label: "steps N", min: 1, max: 20, step: 1, value: n }, (v) => { n = v; draw(); });
  const ruler = slider(controls, { label: "noise level σ", min: 0, max: STEPS, step: 2, value: level,
    text: words }, (k) => {
    held = contrast(mine.xs[STEPS - k], SIGMAS[STEPS - k]); // along the path
    level = k;
    grip.set(k / STEPS, held);
    draw();
  });
  slider(controls, { label: "width δ", min: 0, max: 0.3, step: 0.02, value: delta, text: (v) => v.toFixed(2) },
    (v) => { delta = v; paint(); draw(); });

  const plane = axes(panels, { x: [0, 1], y: [-3, 3], title: "x at unit contrast", xlabel: "picture  \u2190 clock rho \u2192  noise",
    alt: "Paths from noise on the right to four clouds on the left, and a solver's steps beside the thick one" });
  const belief = axes(panels, { x: [-1.2, 1.2], y: [0, 1.05], title: "what may be behind x", xlabel: "clean value",
    alt: "For each cloud how likely it is, before x was seen in grey and after in blue, and the mean as an orange line" });
  const shade = [34, 90, 140]; // a quiet blue, over paper
  const tone = (v) => shade.map((c, i) => Math.round([253, 252, 249][i] + (c - [253, 252, 249][i]) * Math.min(0.75, v)));
  const heat = plane.heat(density(), tone);
  const crowd = CROWD.map(() => plane.line([], { color: blue, width: 1.2, opacity: 0.65 }));
  const when = plane.line([], { color: slate, width: 1.5, dash: "5 4" });
  const mine = plane.line([], { color: orange, width: 3 });
  const steps = plane.line([], { color: green, width: 2 });
  const stops = plane.dots([], { color: green, r: 4.5 });
  const grip = plane.handle([level / STEPS, held], { label: "a point of the path", color: orange, move: (t, u) => {
    [level, held] = [Math.round(t * STEPS), u];
    ruler.value = level;
    ruler.nextElementSibling.textContent = words(Number(ruler.value));
    draw();
  } });
  const prior = belief.line([], { color: slate, width: 1.5, fill: slate, opacity: 0.3 });
  const now = belief.line([], { color: blue, width: 2.5 });
  const mean = belief.line([], { color: orange, width: 3 });

  /** Bumps of height w_i about m_i. */
  function bumps(w, m, width) {
    return Array.from({ length: 481 }, (_, k) => {
      const y = -1.2 + k / 200;
      return [y, w.reduce((sum, wi, i) => sum + wi * Math.exp(-((y - m[i]) ** 2) / (2 * width * width)), 0)];
    });
  }

  /** The density of noisy data at unit contrast, over the clock: rows from the lowest to the highest. */
  function density() {
    return Array.from({ length: 90 }, (_, i) => Array.from({ length: 80 }, (_, j) => {
      const s = (root7(LOW) + ((j + 0.5) / 80) * (root7(HIGH) - root7(LOW))) ** 7, u = -3 + ((i + 0.5) * 6) / 90;
      const scale = Math.hypot(SPREAD, s), x = u * scale, width = Math.max(Math.hypot(delta, s), 0.03);
      return points.reduce((sum, y, m) => sum + (weights[m] * scale * Math.exp(-((x - y) ** 2) / (2 * width ** 2))) / width, 0) / 2.2;
    }));
  }
  function paint() { // what does not depend on the dragged point
    heat.set(density());
    crowd.forEach((line, k) => line.set(shaped(path(0, CROWD[k] * Math.hypot(SPREAD, HIGH)))));
  }
  const shaped = (xs) => xs.map((x, k) => [reading(SIGMAS[k]), contrast(x, SIGMAS[k])]);

  function draw() {
    const k = STEPS - level, s = SIGMAS[k], x = held * Math.hypot(SPREAD, s), xs = path(k, x), x0 = xs[0];
    mine.xs = xs;
    mine.set(shaped(xs));
    when.set([[reading(s), -3], [reading(s), 3]]);
    const found = solve(x0), drawn = [];
    for (let j = 0; j < n; j += 1) { // a step is straight in (sigma, x), and is drawn as what it is
      const [[t, a], [r, b]] = [found[j], found[j + 1]];
      for (let m = 0; m <= 24; m += 1) {
        const at = (root7(t) + (m / 24) * (root7(r) - root7(t))) ** 7, part = (t - at) / (t - r);
        drawn.push([reading(at), contrast(a + part * (b - a), at)]);
      }
    }
    steps.set(drawn);
    stops.set(found.map(([r, a]) => [reading(r), contrast(a, r)]));
    const w = posterior(x, s), guess = denoise(x, s);
    prior.set(bumps(weights, points, Math.max(delta, 0.015)));
    now.set(bumps(w, points.map((_, i) => centre(x, s, i)), Math.max((delta * s) / Math.hypot(delta, s), 0.015)));
    mean.set([[guess, 0], [guess, 1.05]]);
    const cost = solver === 1 ? 2 * n - 1 : n, end = found[n][1];
    note.textContent = `At \u03c3 = ${words(level)} the state is x = ${said(x)} and the best guess D = ${said(guess)}. `
      + `The path ends at ${said(xs[STEPS])}; ${SOLVERS[solver]}, with N = ${n} and ${cost} evaluation${cost > 1 ? "s" : ""}, at ${said(end)}.`;
  }
  paint();
  draw();
}
