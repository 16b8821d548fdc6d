// Two clouds at -a and a, each of deviation delta, and the flow that parts noise into them, against a clock of your
// choice. The state carries its own time, (x, tau)' = (x - a tanh(a x e^(-2 tau)), 1): the suspended system. Paths are
// drawn at unit contrast, x / sqrt(a^2 + delta^2 + sigma^2), where the flow of one Gaussian would stand still.
import { axes, choice, layout, rk4, slider, COLORS } from "./stage.mjs";

const LOW = 0.002, HIGH = 80, STEPS = 360;
const root7 = (s) => s ** (1 / 7);
// Noise levels, evenly spaced in the seventh root from picture to noise: fine enough for every clock and every cloud.
const SIGMAS = Array.from({ length: STEPS + 1 },
  (_, k) => (root7(LOW) + (k / STEPS) * (root7(HIGH) - root7(LOW))) ** 7);
const CLOCKS = [
  { name: "rho", time: root7, slope: (s) => root7(s) / (7 * s) },
  { name: "edm", time: (s) => Math.log(0.25 + s * s) / 2, slope: (s) => s / (0.25 + s * s) },
  { name: "log sigma", time: Math.log, slope: (s) => 1 / s },
  { name: "sigma", time: (s) => s, slope: () => 1 },
];
const OTHERS = [-2.2, -1.4, -0.8, -0.35, -0.1, 0.1, 0.35, 0.8, 1.4, 2.2]; // starts, in deviations of the noise

export function mount(root, data) {
  const parts = layout(root);
  let { a, delta } = data, clock = 0, held = [...data.start]; // the dragged point: (reading of the clock, x / contrast)

  choice(parts.controls, { label: "clock", options: CLOCKS.map((c) => c.name) }, (k) => {
    const kept = nearest(held[0]); // the same noise level in the new clock
    clock = k;
    held[0] = reading(SIGMAS[kept]);
    grip.set(...held);
    draw();
  });
  slider(parts.controls, { label: "centres ±a", min: 0, max: 1, step: 0.02, value: a, text: (v) => v.toFixed(2) },
    (v) => { a = v; draw(); });
  slider(parts.controls, { label: "width δ", min: 0.08, max: 0.6, step: 0.02, value: delta, text: (v) => v.toFixed(2) },
    (v) => { delta = v; draw(); });

  const paths = axes(parts.panels, { x: [0, 1], y: [-3, 3], title: "x at unit contrast", xlabel: "picture  ← clock →  noise",
    alt: "Paths of the probability flow of two clouds against the clock" });
  const rates = axes(parts.panels, { x: [0, 1], y: [-20, 20], title: "local rate", xlabel: "picture  ← clock →  noise",
    alt: "Rate at which neighbours of the dragged path part, against the clock" });
  const crowd = OTHERS.map(() => paths.line([], { color: COLORS[0], width: 1.5, opacity: 0.6 }));
  const mine = paths.line([], { color: COLORS[1], width: 3 });
  rates.line([[0, 0], [1, 0]], { color: COLORS[5], width: 1 });
  const steady = rates.line([], { color: COLORS[5], width: 2, dash: "5 5" });
  const rate = rates.line([], { color: COLORS[1], width: 3 });
  const here = rates.dots([], { color: COLORS[1], r: 6 }); // the dragged point's own rate
  const grip = paths.handle(held, { label: "a point of a path", move: (t, u) => { held = [t, u]; draw(); } });

  /** The clock's reading, scaled so that the picture is at 0 and the noise at 1. */
  function reading(s) {
    const { time } = CLOCKS[clock];
    return (time(s) - time(LOW)) / (time(HIGH) - time(LOW));
  }
  function nearest(t) {
    return SIGMAS.reduce((best, s, k) => (Math.abs(reading(s) - t) < Math.abs(reading(SIGMAS[best]) - t) ? k : best), 0);
  }
  /** The path through u at level k: at every level x, from the suspended system, stepped both ways. */
  function path(k, u) {
    const tau = SIGMAS.map((s) => Math.log(delta ** 2 + s * s) / 2);
    const field = ([x, t]) => [x - a * Math.tanh(a * x * Math.exp(-2 * t)), 1];
    const x = new Array(STEPS + 1);
    x[k] = u * Math.hypot(a, delta, SIGMAS[k]);
    for (let j = k; j < STEPS; j += 1) x[j + 1] = rk4(field, [x[j], tau[j]], tau[j + 1] - tau[j])[0];
    for (let j = k; j > 0; j -= 1) x[j - 1] = rk4(field, [x[j], tau[j]], tau[j - 1] - tau[j])[0];
    return x;
  }

  function draw() {
    const times = SIGMAS.map(reading), span = CLOCKS[clock].time(HIGH) - CLOCKS[clock].time(LOW);
    const shape = (x) => x.map((v, k) => [times[k], v / Math.hypot(a, delta, SIGMAS[k])]);
    crowd.forEach((line, k) => line.set(shape(path(STEPS, OTHERS[k]))));
    const x = path(nearest(held[0]), held[1]);
    mine.set(shape(x));
    // d/dx of dx/dsigma = sigma (x - a tanh(a x / v)) / v with v = delta^2 + sigma^2, per unit of the scaled clock
    const local = SIGMAS.map((s, k) => {
      const v = delta ** 2 + s * s, bend = 1 - ((a * a) / v) / Math.cosh((a * x[k]) / v) ** 2;
      return [times[k], ((s / v) * bend * span) / CLOCKS[clock].slope(s)];
    });
    rate.set(local);
    here.set([local[nearest(held[0])]]);
    const mean = Math.log(Math.hypot(a, delta, HIGH) / Math.hypot(a, delta, LOW));
    steady.set([[0, mean], [1, mean]]);
    parts.note.textContent = `The path ends at x = ${x[0].toFixed(2).replace("-", "\u2212")}. Dashed: the constant rate of one Gaussian with the `
      + "same deviation in its own clock. Below zero, neighbours part on the way to the picture.";
  }
  draw();
}
