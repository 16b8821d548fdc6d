// One step on a checkerboard: three small models and their teacher, at work in the page.
// A noise can be dragged. Its true path is integrated here, by Heun's method with the exact denoiser of the board's
// points; the model's is encoded once and moved by e^{A dt}. The slider moves a whole cloud of such states. For a model
// that was asked for guesses, the teacher's are shown in place of its points.
import { network, twelve } from "./points.mjs";
import { axes, choice, COLORS, layout, slider } from "./stage.mjs";

/** Signed 16-bit numbers from base64. */
const numbers = (text) => new Int16Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

/** w' = e^{(alpha - i beta) dt} w for every pair. */
function evolve({ alpha, beta }, z, dt) {
  const out = new Float32Array(z.length), half = alpha.length;
  for (let k = 0; k < half; k++) {
    const g = Math.exp(alpha[k] * dt), c = g * Math.cos(beta[k] * dt), s = g * Math.sin(beta[k] * dt);
    out[k] = c * z[k] + s * z[k + half];
    out[k + half] = c * z[k + half] - s * z[k];
  }
  return out;
}

export function mount(root, data) {
  const { controls, panels, note } = layout(root);
  const packed = twelve(data.weights);
  let at = 0;
  const layer = ([rows, columns, scale, b]) => ({ rows, b,
    w: Float32Array.from(packed.subarray(at, (at += rows * columns)), (v) => v * scale) });
  const half = ({ first, layers, last, shifts }) => ({ first: layer(first), layers: layers.map(layer), last: layer(last), shifts });
  const models = data.models.map((m) => ({ ...m, encoder: half(m.encoder), decoder: half(m.decoder) }));
  const pairs = (flat, scale) => Array.from({ length: flat.length / 2 }, (_, k) => [flat[2 * k] * scale, flat[2 * k + 1] * scale]);
  const points = pairs(numbers(data.points), data.unit);
  const truths = [data.truth, data.guesses].map((text) => pairs(twelve(text), data.coarse));
  const count = data.noises.length, steps = data.sigmas.length - 1, S = data.sigma_data;
  const contrast = ([x, y], sigma) => { const c = S / Math.hypot(S, sigma); return [c * x, c * y]; };

  /** The exact denoiser: a mean of the board's points, each weighted by how likely x came from it. */
  const denoise = ([x, y], sigma) => {
    let total = 0, a = 0, b = 0, least = Infinity;
    const far = points.map(([u, v]) => { const d = (x - u) ** 2 + (y - v) ** 2; if (d < least) least = d; return d; });
    points.forEach(([u, v], k) => { const w = Math.exp((least - far[k]) / (2 * sigma * sigma)); total += w; a += w * u; b += w * v; });
    return [a / total, b / total];
  };
  const slope = (x, sigma, d = denoise(x, sigma)) => [(x[0] - d[0]) / sigma, (x[1] - d[1]) / sigma];
  /** The path of a noise at the stored levels, at unit contrast, and the guesses there. */
  const teacher = (noise) => {
    const levels = data.levels, path = [], guesses = [];
    let x = noise.map((v) => v * levels[0]);
    levels.slice(0, -1).forEach((sigma, k) => {
      const guess = denoise(x, sigma);
      if (k % 2 === 0) { path.push(contrast(x, sigma)); guesses.push(guess); }
      const next = levels[k + 1], h = next - sigma, one = slope(x, sigma, guess);
      let y = [x[0] + h * one[0], x[1] + h * one[1]];
      if (next > 0) { const two = slope(y, next); y = [x[0] + (h * (one[0] + two[0])) / 2, x[1] + (h * (one[1] + two[1])) / 2]; }
      x = y;
    });
    return [[...path, x], [...guesses, x]];
  };

  let which = data.first, k = data.start, noise = data.noise;
  const encode = (model, [x, y]) => network(model.encoder, [x * data.scale, y * data.scale]);
  const place = (model, z, i) => Array.from(network(model.decoder, model.idle ? z : evolve(model, z, data.times[i] - data.times[0])), (v) => S * v);
  const model = () => models[data.choices[which][0]];
  const setting = () => ({ ...model(), idle: data.choices[which][1] });
  const lifted = models.map((m) => data.noises.map((n) => encode(m, n)));

  const box = [-1.35, 1.35], width = 260;
  const left = axes(panels, { x: [-2.6, 2.6], y: [-2.6, 2.6], equal: true, width, title: "Drag a noise",
    alt: "Plane of unit noise with a point to drag." });
  const hues = [...new Set(data.hues)], of = (list, hue) => list.filter((_, i) => data.hues[i] === hue);
  for (const hue of hues) left.dots(of(data.noises, hue), { color: hue, r: 2.2, opacity: 0.7 });
  /** A panel: a cloud, and one way through it with a dot at the chosen time. */
  const panel = (title, alt) => {
    const a = axes(panels, { x: box, y: box, equal: true, width, title, alt, xticks: [-1, 0, 1], yticks: [-1, 0, 1] });
    const clouds = hues.map((hue) => a.dots([], { color: hue, r: 2.2, opacity: 0.9 }));
    const wide = a.line([], { color: COLORS[5], width: 6, opacity: 0.35 });
    const line = a.line([], { color: INK, width: 2.2 }), now = a.dots([], { color: COLORS[1], r: 5.5 });
    return (cloud, way, true_) => {
      hues.forEach((hue, i) => clouds[i].set(of(cloud, hue)));
      wide.set(true_);
      line.set(way);
      now.set([way[k]]);
    };
  };
  const taught = panel("The teacher", "What the teacher has at the chosen time: points of its paths, or guesses.");
  const decoded = panel("The model", "What the model's states decode to at the chosen time.");
  for (const part of panels.children) part.style.flex = "1 1 13rem"; // three beside one another

  let paths = teacher(noise);
  const draw = () => {
    const [index, , , kind] = data.choices[which], m = setting(), z = encode(m, noise), true_ = paths[kind];
    const now = lifted[index].map((state) => place(m, state, k));
    const cloud = truths[kind].slice(k * count, (k + 1) * count);
    taught(cloud, true_, []);
    decoded(now, data.times.map((_, i) => place(m, z, i)), true_);
    let sum = 0;
    now.forEach(([x, y], i) => { const [u, v] = cloud[i]; sum += ((x - u) ** 2 + (y - v) ** 2) / (2 * count * S * S); });
    note.textContent = `The teacher: ${kind ? "what it guesses at this time" : "the points of its paths, at unit contrast"}. ` +
      `The model: decoded from states that were encoded once. It misses by ${(100 * sum).toFixed(1)} % of the board's variance.`;
  };
  choice(controls, { label: "model", options: data.choices.map((c) => c[2]), value: which }, (v) => { which = v; draw(); });
  slider(controls, { label: "time", min: 0, max: steps, step: 1, value: k, text: (v) => `u = ${data.times[v].toFixed(2)}` }, (v) => { k = v; draw(); });
  left.handle(noise, { label: "noise", move: (x, y) => { noise = [x, y]; paths = teacher(noise); draw(); } });
  draw();
}
