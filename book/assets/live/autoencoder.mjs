// A trained lift at work in the page: drag a start in the pendulum's plane; the network encodes it once, jumps, decodes.
// Beside it the pair (p, q) of observables, which turns clockwise: w(t) = e^{(alpha - i beta) t} w(0).
import { COLORS, axes, choice, layout, rk4, slider } from "./stage.mjs";

// A linear map plus a residual network of layers [weights, biases], as hkd_mini.koopman.autoencoder.MLP.
const silu = (v) => v / (1 + Math.exp(-v));
const linear = ([W, b], x) => W.map((row, i) => row.reduce((sum, a, j) => sum + a * x[j], b[i]));
function mlp({ skip, layers }, x) {
  let h = linear(layers[0], x).map(silu);
  for (const layer of layers.slice(1, -1)) h = linear(layer, h).map((v, i) => h[i] + silu(v));
  return linear([skip, linear(layers.at(-1), h)], x);
}

// [alpha_k, beta_k] of every pair: the same for all states, or a frequency for each length.
function rates(model, z) {
  const pairs = z.length / 2;
  if (model.A) return Array.from({ length: pairs }, (_, k) => [model.A[k], model.A[k + pairs]]);
  return mlp(model.frequency, Array.from({ length: pairs }, (_, k) => z[k] ** 2 + z[k + pairs] ** 2)).map((b) => [0, b]);
}

function evolve(model, z, t) {
  const pairs = z.length / 2, moved = z.slice();
  rates(model, z).forEach(([alpha, beta], k) => {
    const [c, s] = [Math.cos(beta * t), Math.sin(beta * t)].map((v) => v * Math.exp(alpha * t));
    moved[k] = c * z[k] + s * z[k + pairs];
    moved[k + pairs] = c * z[k + pairs] - s * z[k];
  });
  return moved;
}

export function mount(root, { models, start, t, T }) {
  const { controls, panels, note } = layout(root);
  const [blue, orange, , , , slate] = COLORS;
  let model = models[0];
  const flow = choice(controls, { label: "pendulum", options: models.map((m) => m.name) }, (k) => {
    model = models[k];
    draw();
  });
  flow.style.maxWidth = "15rem";
  slider(controls, { label: "time t", min: 0, max: T, step: 0.1, value: t, text: (v) => v.toFixed(1) }, (v) => {
    t = v;
    draw();
  });

  const plane = axes(panels, { x: [-3, 3], y: [-3, 3], equal: true, title: "States", xlabel: "angle", ylabel: "velocity",
    alt: "The pendulum's plane: the true path, the learned forecast, and the border of the training set" });
  const border = plane.line([], { color: slate, width: 1.2, dash: "3 4" });
  const truth = plane.line([], { color: blue, width: 5, opacity: 0.35 });
  const forecast = plane.line([], { color: orange, width: 2 });
  const there = plane.dots([], { color: blue, r: 8, opacity: 0.6 });
  const guess = plane.dots([], { color: orange, r: 5 });
  plane.handle(start, { label: "start: angle, velocity", color: slate, move: (a, b) => {
    start = [a, b];
    draw();
  } });

  const lifted = axes(panels, { x: [-1, 1], y: [-1, 1], equal: true, title: "Observables", xlabel: "p", ylabel: "q", xticks: [0],
    yticks: [0], alt: "The first pair of observables: its linear path, and the encoded true path" });
  const encoded = lifted.line([], { color: blue, width: 5, opacity: 0.35 });
  const jump = lifted.line([], { color: orange, width: 2 });
  const now = lifted.dots([], { color: orange, r: 6 });

  function draw() {
    const { damping, energy, size } = model, count = 200, h = t / count;
    const field = ([a, v]) => [v, -Math.sin(a) - damping * v];
    const path = [start];
    for (let k = 0; k < count; k++) path.push(rk4(field, path[k], h || 0));
    const z = mlp(model.encoder, start), pairs = z.length / 2, pair = (v) => [v[0] / size, v[pairs] / size];
    const moved = path.map((_, k) => evolve(model, z, k * h));
    const guessed = moved.map((v) => mlp(model.decoder, v));
    const turn = Math.acos(-energy), up = Array.from({ length: 101 }, (_, k) => turn * Math.cos((k * Math.PI) / 50));
    border.set(up.map((a, k) => [a, (k < 50 ? 1 : -1) * Math.sqrt(Math.max(0, 2 * (energy + Math.cos(a))))]));
    truth.set(path);
    forecast.set(guessed);
    there.set([path.at(-1)]);
    guess.set([guessed.at(-1)]);
    encoded.set(path.map((x) => pair(mlp(model.encoder, x))));
    jump.set(moved.map(pair));
    now.set([pair(moved.at(-1))]);
    const error = Math.hypot(...path.at(-1).map((v, i) => v - guessed.at(-1)[i]));
    const inside = start[1] ** 2 / 2 - Math.cos(start[0]) < energy;
    note.textContent = `At t = ${t.toFixed(1)} the forecast (orange, one jump) is ${error.toFixed(2)} from the true state (blue, small steps). `
      + (inside ? "" : "The start is outside the training set, which the dashed line bounds: nothing is promised here. ")
      + `The first pair ${damping ? "shrinks and turns" : "keeps its length and turns"} at the frequency ${Math.abs(rates(model, z)[0][1]).toFixed(2)}.`;
  }
  draw();
}
