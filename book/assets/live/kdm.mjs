// KDM on a checkerboard: drag a noise; the model's encoder, matrix and decoder run in the page. Which of the stored
// noises are nearest, by their latents or by themselves, is shown in all three places; the last slider shakes the latent.
import { linear, network, twelve } from "./points.mjs";
import { axes, choice, COLORS, layout, slider } from "./stage.mjs";

/** Standard normal numbers, the same in every browser. */
function normals(count) {
  let state = 7;
  const uniform = () => { state = (Math.imul(state, 1664525) + 1013904223) >>> 0; return (state + 0.5) / 4294967296; };
  return Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}

export function mount(root, data) {
  const { controls, panels, note } = layout(root);
  const packed = twelve(data.weights);
  let at = 0;
  const layer = ([rows, columns, scale, b]) => ({ rows, b,
    w: Float32Array.from(packed.subarray(at, (at += rows * columns)), (v) => v * scale) });
  const half = ({ first, layers, last, shifts }) => ({ first: layer(first), layers: layers.map(layer), last: layer(last), shifts });
  const encoder = half(data.encoder), K = layer(data.K), decoder = half(data.decoder);
  const push = (noise) => linear(K, network(encoder, noise.map((v) => v * data.scale)));
  const decode = (z) => Array.from(network(decoder, z));
  const seen = (z) => data.components.map((c) => c.reduce((sum, v, i) => sum + v * (z[i] - data.mean[i]), 0));

  const latents = data.noises.map(push), ends = latents.map(decode), places = latents.map(seen);
  const size = latents[0].length, shaky = normals(60 * size);
  const kicks = Array.from({ length: 60 }, (_, k) => shaky.slice(k * size, (k + 1) * size));
  let noise = data.noise, near = 0, count = 12, shake = 0;

  const span = Math.max(...places.flat().map(Math.abs)) * 1.12;
  const frame = { equal: true, width: 300 };
  const left = axes(panels, { ...frame, x: [-2.8, 2.8], y: [-2.8, 2.8], title: "Drag a noise", xticks: [-2, 0, 2], yticks: [-2, 0, 2],
    alt: "Plane of unit noise with a point to drag, and its nearest among 400 stored noises." });
  const middle = axes(panels, { ...frame, x: [-span, span], y: [-span, span], title: "Its latent", xticks: [-4, 0, 4], yticks: [-4, 0, 4],
    alt: "Pushed latents in their two principal coordinates." });
  const right = axes(panels, { ...frame, x: [-1.1, 1.1], y: [-1.1, 1.1], title: "Where it lands", xticks: [-1, 0, 1], yticks: [-1, 0, 1],
    alt: "The board with the point that the noise becomes." });
  for (const { svg } of [left, middle, right]) svg.style.flex = "1 1 12rem";
  const hues = [...new Set(data.hues)], of = (list, hue) => list.filter((_, i) => data.hues[i] === hue);
  const clouds = [[left, data.noises], [middle, places], [right, ends]];
  for (const [panel, list] of clouds) for (const hue of hues) panel.dots(of(list, hue), { color: hue, r: 2.6, opacity: 0.55 });
  const rings = clouds.map(([panel]) => panel.dots([], { color: "#22303c", r: 3.4, opacity: 0.9 }));
  const shaken = right.dots([], { color: COLORS[1], r: 3, opacity: 0.65 });
  const here = [middle, right].map((panel) => panel.dots([], { color: COLORS[1], r: 6 }));

  const draw = () => {
    const z = push(noise), end = decode(z);
    const [mine, list] = near ? [noise, data.noises] : [z, latents];
    const far = list.map((other) => other.reduce((sum, v, i) => sum + (v - mine[i]) ** 2, 0));
    const close = far.map((_, i) => i).sort((a, b) => far[a] - far[b]).slice(0, count);
    clouds.forEach(([, points], k) => rings[k].set(close.map((i) => points[i])));
    here[0].set([seen(z)]);
    here[1].set([end]);
    shaken.set(shake ? kicks.map((kick) => decode(z.map((v, i) => v + shake * kick[i]))) : []);
    const mean = close.reduce((sum, i) => sum + Math.hypot(ends[i][0] - end[0], ends[i][1] - end[1]), 0) / count;
    const said = (v) => v.toFixed(2).replace("-", "\u2212");
    note.textContent = `It lands at (${said(end[0])}, ${said(end[1])}). The dark points, its ${count} nearest by ${near ? "noise" : "latent"}, ` +
      `land ${mean.toFixed(2)} away from it on average.` + (shake ? " Small orange points: its latent with noise added, decoded." : "");
  };
  choice(controls, { label: "nearest by", options: ["latent", "noise"], value: near }, (v) => { near = v; draw(); });
  slider(controls, { label: "how many", min: 1, max: 40, step: 1, value: count }, (v) => { count = v; draw(); });
  slider(controls, { label: "noise in the latent", min: 0, max: 0.6, step: 0.05, value: shake, text: (v) => v.toFixed(2) }, (v) => { shake = v; draw(); });
  left.handle(noise, { label: "noise", r: 8, move: (x, y) => { noise = [x, y]; draw(); } });
  draw();
}
