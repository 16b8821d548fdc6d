// Aliasing, chapter 3: a clock hand that turns at a true frequency, filmed every dt. The frames fit the true turn, and
// also the slowest turn with the same frames, which is what the logarithm of the eigenvalue reports.

import { COLORS, axes, layout, slider } from "./stage.mjs";

const steps = (low, high, count, f) => Array.from({ length: count + 1 }, (_, k) => {
  const v = low + ((high - low) * k) / count;
  return [v, f(v)];
});

export function mount(root, { frequency, dt }) {
  const parts = layout(root);
  const fold = (w) => w - ((2 * Math.PI) / dt) * Math.round((w * dt) / (2 * Math.PI));
  const film = axes(parts.panels, { x: [0, 6], y: [-1.25, 1.25], xlabel: "time", yticks: [-1, 0, 1], title: "The film",
    alt: "Height of the hand over time: the true turn, the frames, and the turn that the frames report." });
  const truth = film.line([], { color: COLORS[5], width: 1.4, opacity: 0.8 });
  const belief = film.line([], { color: COLORS[1], width: 3, opacity: 0.75 });
  const frames = film.dots([], { color: COLORS[0], r: 5 });
  const chart = axes(parts.panels, { x: [0, 22], y: [-10, 10], xlabel: "true frequency", ylabel: "reported", title: "The report",
    alt: "The frequency reported over the true one, a sawtooth, with a dot at the present choice." });
  const saw = chart.line([], { color: COLORS[0] });
  const here = chart.dots([], { color: COLORS[1], r: 7 });

  const draw = () => {
    const reported = fold(frequency), jump = Math.PI / dt;
    truth.set(steps(0, 6, 600, (t) => Math.sin(frequency * t)));
    belief.set(steps(0, 6, 600, (t) => Math.sin(reported * t)));
    frames.set(Array.from({ length: Math.floor(6 / dt + 1e-9) + 1 }, (_, k) => [k * dt, Math.sin(frequency * k * dt)]));
    const teeth = steps(0, 22, 880, fold); // a gap at each jump
    saw.set(teeth.map(([w, v], k) => [w, k && Math.abs(v - teeth[k - 1][1]) > jump ? NaN : v]));
    here.set([[frequency, reported]]);
    parts.note.textContent = frequency < jump
      ? `Below \u03c0/\u0394t = ${jump.toFixed(2)}: reported truly.`
      : `Beyond \u03c0/\u0394t = ${jump.toFixed(2)}: reported as ${reported.toFixed(2).replace("-", "\u2212")}` +
        (reported < 0 ? ", backwards." : ".");
  };
  slider(parts.controls, { label: "true frequency", min: 0, max: 22, step: 0.1, value: frequency, text: (v) => v.toFixed(1) },
    (value) => { frequency = value; draw(); });
  slider(parts.controls, { label: "\u0394t", min: 0.32, max: 1.2, step: 0.02, value: dt, text: (v) => v.toFixed(2) },
    (value) => { dt = value; draw(); });
  draw();
}
