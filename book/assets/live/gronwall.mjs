// A lift with a known defect: x' = -x + x^2 by the powers of y = x / unit, cut after m of them (Carleman). Left, the path and
// what the lift makes of it; right, the error of x, the bound by the logarithmic norm of A, and what the largest rate,
// -1, would allow, which is no bound.
import { COLORS, axes, layout, rk4, slider } from "./stage.mjs";

const STEPS = 160;

/** The largest eigenvalue of (A + A^T) / 2, a tridiagonal matrix, by bisection on the signs of its leading minors. */
export function logarithmicNorm(m, unit) {
  const above = (s) => { // is some eigenvalue above s?
    let pivot = 1;
    for (let k = 1; k <= m; k += 1) {
      const beside = ((k - 1) * unit) / 2;
      pivot = s + k - (k > 1 ? (beside * beside) / pivot : 0);
      if (pivot <= 0) return true;
    }
    return false;
  };
  let [low, high] = [-1, m * unit];
  for (let i = 0; i < 60; i += 1) {
    const middle = (low + high) / 2;
    if (above(middle)) low = middle; else high = middle;
  }
  return (low + high) / 2;
}

export function mount(root, { start, m, unit, T }) {
  const { controls, panels, note } = layout(root);
  const [blue, orange, , , , slate] = COLORS;
  const times = Array.from({ length: STEPS + 1 }, (_, k) => (k * T) / STEPS);
  const true_ = (t) => (start * Math.exp(-t)) / (1 - start * (1 - Math.exp(-t)));
  const grown = (mu, t) => (Math.abs(mu) < 1e-9 ? t : Math.expm1(mu * t) / mu);
  const short = (v) => (v >= 100 ? v.toFixed(0) : v.toPrecision(2).replace("e-", "e\u2212"));
  const said = (v, digits) => v.toFixed(digits).replace("-", "\u2212");

  slider(controls, { label: "powers m", min: 1, max: 10, step: 1, value: m }, (v) => { m = v; draw(); });
  slider(controls, { label: "unit \u2113", min: 0.4, max: 4, step: 0.1, value: unit, text: (v) => v.toFixed(1) },
    (v) => { unit = v; draw(); });

  const paths = axes(panels, { x: [0, T], y: [0, 1], title: "x: true (grey), by the lift (blue)", xlabel: "time t",
    alt: "The true path in grey and the path by the lift in blue, with a point of it to drag" });
  const truth = paths.line([], { color: slate, width: 7, opacity: 0.35 });
  const lifted = paths.line([], { color: blue, width: 2.5 });
  // The path through the dragged point starts where the flow, run backwards, says.
  paths.handle([0, start], { label: "a point of the path", move: (t, v) => {
    const x = Math.min(0.97, Math.max(0.02, v)), fade = Math.exp(-t);
    start = x / (fade + x * (1 - fade));
    draw();
  } });
  const errors = axes(panels, { x: [0, T], y: [1e-5, 10], yticks: [1e-4, 1e-2, 1], log: true, title: "error of x (blue), bound (orange)",
    xlabel: "time t", alt: "Error, bound and would-be bound over time on a logarithmic axis" });
  const wouldBe = errors.line([], { color: slate, width: 2, dash: "3 5" });
  const bound = errors.line([], { color: orange, width: 2.5, dash: "7 5" });
  const error = errors.line([], { color: blue, width: 2.5 });

  function draw() {
    const field = (z) => z.map((v, k) => (k + 1) * (unit * (z[k + 1] ?? 0) - v));
    let z = Array.from({ length: m }, (_, k) => (start / unit) ** (k + 1));
    const path = times.map((t, k) => {
      for (let i = 0; k > 0 && i < 4; i += 1) z = rk4(field, z, T / STEPS / 4);
      return [t, unit * z[0]];
    });
    const mu = logarithmicNorm(m, unit), defect = m * unit * (start / unit) ** (m + 1);
    const gaps = path.map(([t, v]) => [t, Math.abs(v - true_(t))]);
    truth.set(times.map((t) => [t, true_(t)]));
    lifted.set(path);
    error.set(gaps.slice(1).map(([t, v]) => [t, Math.max(v, 1e-9)]));
    bound.set(times.slice(1).map((t) => [t, unit * defect * grown(mu, t)]));
    wouldBe.set(times.slice(1).map((t) => [t, unit * defect * grown(-1, t)]));
    const crossed = gaps.some(([t, v]) => v > unit * defect * grown(-1, t) * (1 + 1e-6) && v > 1e-9);
    const last = unit * defect * grown(mu, T);
    note.textContent = `\u03bc(A) = ${said(mu, 2)}, largest rate \u22121.00, defect at most ${short(defect)}. At t = ${T} the error of x is `
      + `${short(gaps.at(-1)[1])}, the bound ${short(last)}. The grey dotted line, with the largest rate in place of \u03bc, `
      + (crossed ? "falls below the error: it is no bound." : "stays above the error here, but need not.");
  }
  draw();
}
