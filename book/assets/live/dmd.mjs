// The spiral wave of chapter 3, summed in the page from the modes that DMD found: x(t) = sum_k mode_k e^{i k omega t}.
// Mode k comes as bytes, real part before imaginary part, size * size integers each, times scale / 127; the modes
// with negative k are the conjugates, so each pair adds 2 Re(...).

import { COLORS, axes, layout, slider } from "./stage.mjs";

const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];

/** u in [-0.1, 1.1] to a colour. */
function color(u) {
  const place = Math.min(4.999, Math.max(0, ((u + 0.1) / 1.2) * 5)), k = Math.floor(place);
  return CIVIDIS[k].map((low, c) => Math.round(low + (place - k) * (CIVIDIS[k + 1][c] - low)));
}

export function mount(root, { size, omega, modes, errors }) {
  const parts = layout(root);
  const fields = modes.map(({ scale, bytes }) => {
    const ints = new Int8Array(Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0)).buffer);
    return Float64Array.from(ints, (v) => (v * scale) / 127);
  });
  let rungs = 1, t = 0.4;

  const wave = () => {
    const sum = Float64Array.from(fields[0].subarray(0, size * size));
    for (let k = 1; k <= rungs; k++) {
      const c = 2 * Math.cos(k * omega * t), s = 2 * Math.sin(k * omega * t), field = fields[k];
      for (let i = 0; i < size * size; i++) sum[i] += c * field[i] - s * field[i + size * size];
    }
    return Array.from({ length: size }, (_, row) => sum.subarray(row * size, (row + 1) * size));
  };
  const factor = (k) => [Math.cos(k * omega * t), Math.sin(k * omega * t)];
  const dots = (from, to) => Array.from({ length: Math.max(0, to - from + 1) }, (_, k) => factor(from + k));

  const field = axes(parts.panels, { x: [0, 40], y: [0, 40], equal: true, title: "The sum", xticks: [0, 20, 40],
    yticks: [0, 20, 40], alt: "The spiral wave, summed from the modes that are kept." });
  const picture = field.heat(wave(), color);
  const turn = axes(parts.panels, { x: [-1.3, 1.3], y: [-1.3, 1.3], equal: true, title: "The factors", xticks: [-1, 0, 1],
    yticks: [-1, 0, 1], alt: "The unit circle. One dot for each rung stands at its factor, exp of i k omega t." });
  const ring = Array.from({ length: 121 }, (_, k) => [Math.cos((k * Math.PI) / 60), Math.sin((k * Math.PI) / 60)]);
  turn.line(ring, { color: COLORS[5], width: 1.2 });
  const hand = turn.line([[0, 0], factor(1)], { color: COLORS[1], width: 2.5 });
  const dropped = turn.dots([], { color: COLORS[5], r: 4, opacity: 0.45 });
  const kept = turn.dots([], { color: COLORS[1], r: 6.5 });

  const draw = () => {
    picture.set(wave());
    hand.set([[0, 0], factor(1)]);
    dropped.set(dots(rungs + 1, modes.length - 1));
    kept.set(dots(0, rungs));
    const turns = ((t * omega) / (2 * Math.PI)).toFixed(1);
    parts.note.textContent = `Rank ${2 * rungs + 1}. Error over the film ${(100 * errors[rungs]).toFixed(0)}%. ` +
      `After ${turns} turns, in one jump: rung k has been multiplied by e^(ik\u03c9t).`;
  };
  slider(parts.controls, { label: "rungs kept", min: 0, max: modes.length - 1, step: 1, value: rungs }, (value) => {
    rungs = value;
    draw();
  });
  slider(parts.controls, { label: "time", min: 0, max: 15, step: 0.1, value: t, text: (v) => v.toFixed(1) }, (value) => {
    t = value;
    draw();
  });
  draw();
}
