// The schedules of a training run, chapter 10: learning rate, weight of the squared error, what the moving average
// holds, and how far Adam can have carried a rate of A. The formulas are those of hkd_mini.engine.config.TrainConfig.
import { axes, layout, slider, COLORS } from "./stage.mjs";

export const stepsOf = ({ images, batch }) => Math.max(1, Math.floor(images / batch));
/** TrainConfig.lr_at: linear warm-up, constant, linear fall over the last part. */
export const lrAt = (run, step) => {
  const up = Math.min(1, ((step + 1) * run.batch) / Math.max(run.warmup, 1));
  const down = Math.min(1, (stepsOf(run) - step) / Math.max(run.decay * stepsOf(run), 1));
  return run.lr * Math.min(up, down);
};
/** TrainConfig.ema_beta: keep rate for a half-life that grows with the run. */
export const halflife = (run, step) => Math.min(run.halflife, 0.05 * (step + 1) * run.batch);
export const emaBeta = (run, step) => 0.5 ** (run.batch / Math.max(halflife(run, step), 1e-8));
/** losses.annealed: the weight of the squared error at a part of the run. */
export const annealed = (progress, end) => end ** progress;
/** What each step's weights count in the average that has seen steps 0 to `last`. */
export function shares(run, last) {
  const out = [];
  for (let k = last, kept = 1; k >= 0; k -= 1) {
    const beta = emaBeta(run, k);
    out[k] = kept * (1 - beta);
    kept *= beta;
  }
  return out;
}

const words = (v, digits = 2) => (v === 0 ? "0" : v >= 1000 ? Math.round(v).toLocaleString("en-US") : Number(v.toPrecision(digits)).toString());

export function mount(root, data) {
  const parts = layout(root), run = { ...data };
  let at = 0.7; // the part of the run that the marks stand at
  const frame = { width: 340, height: 225, x: [0, 1], xlabel: "part of the run", xticks: [0, 0.25, 0.5, 0.75, 1] };
  const top = { y: [0, 1.08], yticks: [0, 0.5, 1] };
  const rate = axes(parts.panels, { ...frame, ...top, title: "learning rate, of its peak",
    alt: "Learning rate over the run, as a part of its peak." });
  const anneal = axes(parts.panels, { ...frame, y: [1e-4, 1.6], log: true, title: "weight of the squared error",
    alt: "Weight of the squared error over the run, on a logarithmic axis." });
  const average = axes(parts.panels, { ...frame, ...top, title: "share in the average",
    alt: "How much each step so far counts in the moving average, as a part of the greatest." });
  const reach = axes(parts.panels, { ...frame, y: [0, 25], yticks: [0, 5, 10, 15, 20, 25], title: "how far a rate of A can be",
    alt: "Sum of A's learning rates so far, with a band of rates from 5 to 20." });
  reach.line([[0, 5], [1, 5], [1, 20], [0, 20]], { color: "none", fill: COLORS[3], opacity: 0.3 });

  const curves = [rate.line([], { color: COLORS[0] }), anneal.line([], { color: COLORS[1] }),
    average.line([], { color: COLORS[2], width: 1.5, fill: COLORS[2], opacity: 0.75 }), reach.line([], { color: COLORS[4] })];
  const marks = [[rate, 0], [anneal, 1], [average, 2], [reach, 4]].map(([panel, c]) => panel.dots([], { color: COLORS[c], r: 6 }));

  function draw() {
    const n = stepsOf(run), last = Math.min(n - 1, Math.round(at * (n - 1)));
    const drawn = Math.min(n, 400), some = Array.from({ length: drawn }, (_, k) => Math.round((k * (n - 1)) / Math.max(drawn - 1, 1)));
    const part = (k) => k / Math.max(n - 1, 1);
    const sums = [];
    for (let k = 0, sum = 0; k < n; k += 1) sums.push((sum += lrAt(run, k) * run.rateA));
    const kept = shares(run, last), most = Math.max(...kept);
    curves[0].set(some.map((k) => [part(k), lrAt(run, k) / run.lr]));
    curves[1].set(some.map((k) => [part(k), annealed(k / n, run.end)]));
    curves[2].set([[0, 0], ...some.filter((k) => k <= last).map((k) => [part(k), kept[k] / most]), [part(last), kept[last] / most], [part(last), 0]]);
    curves[3].set(some.map((k) => [part(k), sums[k]]));
    [lrAt(run, last) / run.lr, annealed(last / n, run.end), kept[last] / most, sums[last]].forEach((v, k) => marks[k].set([[part(last), v]]));
    let half = 0;
    for (let sum = 0; sum < 0.5 && half <= last; half += 1) sum += kept[last - half];
    parts.note.textContent = `Step ${words(last + 1)} of ${words(n)}: learning rate ${words(lrAt(run, last))}, l1 = ${words(annealed(last / n, run.end))}. `
      + `Half of the average is from the last ${words(half)} steps. By now Adam can have carried a rate of A to about ${words(sums[last])}; `
      + `the shaded band is where rates of moving pictures lie.`;
  }
  const control = (label, name, values, text) => slider(parts.controls, { label, min: 0, max: values.length - 1, step: 1,
    value: values.indexOf(data[name]), text: (k) => text(values[k]) }, (k) => { run[name] = values[k]; draw(); });
  slider(parts.controls, { label: "look at", min: 0, max: 1, step: 0.01, value: at, text: (v) => `${Math.round(100 * v)} %` }, (v) => { at = v; draw(); });
  control("images", "images", data.choices.images, (v) => words(v));
  control("peak rate", "lr", data.choices.lr, (v) => String(v));
  control("A's rate ×", "rateA", data.choices.rateA, (v) => String(v));
  control("warm-up", "warmup", data.choices.warmup, (v) => words(v));
  control("last part falls", "decay", data.choices.decay, (v) => `${Math.round(100 * v)} %`);
  control("half-life", "halflife", data.choices.halflife, (v) => words(v));
  control("last l1", "end", data.choices.end, (v) => String(v));
  draw();
}
