// The pendulum's residual over the complex plane. For the z under the handle, the function g of the dictionary that
// comes nearest to K g = z g: the lowest eigenvector of J = (K - z)* (K - z) + R* R, by inverse iteration.
import { axes, button, choice, layout, COLORS } from "./stage.mjs";

// Colours between a few given ones, at the place u in [0, 1] of the list.
const mix = (stops) => (u) => {
  const at = Math.min(Math.max(u, 0), 0.9999) * (stops.length - 1), k = Math.floor(at);
  return stops[k].map((v, j) => v + (at - k) * (stops[k + 1][j] - v));
};
const cividis = mix([[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]]);
const signed = mix([[59, 26, 100], [146, 131, 190], [253, 252, 249], [243, 165, 70], [145, 68, 6]]);

/** The lower triangle of the symmetric matrix a (rows), factored in place: a = C C^T. */
export function cholesky(a) {
  for (let i = 0; i < a.length; i++)
    for (let j = 0; j <= i; j++) {
      let sum = a[i][j];
      for (let k = 0; k < j; k++) sum -= a[i][k] * a[j][k];
      a[i][j] = i === j ? Math.sqrt(Math.max(sum, 1e-12)) : sum / a[j][j];
    }
  return a;
}

/** Solve C C^T x = b, in place. */
export function solve(C, x) {
  for (let i = 0; i < x.length; i++) {
    for (let k = 0; k < i; k++) x[i] -= C[i][k] * x[k];
    x[i] /= C[i][i];
  }
  for (let i = x.length - 1; i >= 0; i--) {
    for (let k = i + 1; k < x.length; k++) x[i] -= C[k][i] * x[k];
    x[i] /= C[i][i];
  }
  return x;
}

/** The smallest residual at z and the coefficients [real, imaginary] of its function. L is K^T K + R^T R. */
export function nearest(K, L, [a, b]) {
  const n = K.length, J = [];
  const real = (i, j) => L[i][j] - a * (K[i][j] + K[j][i]) + (i === j ? a * a + b * b + 1e-9 : 0);
  for (let i = 0; i < n; i++) J.push(Float64Array.from({ length: n }, (_, j) => real(i, j)));
  for (let i = 0; i < n; i++) // a complex Hermitian S + i T is the real symmetric [[S, -T], [T, S]]
    J.push(Float64Array.from({ length: 2 * n }, (_, j) => (j < n ? b * (K[i][j] - K[j][i]) : real(i, j - n))));
  const C = cholesky(J);
  let x = Float64Array.from({ length: 2 * n }, (_, k) => Math.cos(1 + 3 * k)), size = 1;
  for (let step = 0; step < 12; step++) {
    x = solve(C, x);
    size = Math.hypot(...x);
    x = x.map((v) => v / size);
  }
  return { residual: Math.sqrt(Math.max(1 / size - 1e-9, 0)), c: [x.slice(0, n), x.slice(n)] };
}

export function mount(root, { K, R, basis, centres, width, eigenvalues, heat, top }) {
  const { controls, panels, note } = layout(root);
  const n = K.length, L = K.map(() => new Float64Array(n));
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++)
    for (let k = 0; k < n; k++) L[i][j] += K[k][i] * K[k][j] + (k <= i && k <= j ? R[k][i - k] * R[k][j - k] : 0);

  // The orthonormal functions at the pixels of the right panel; null where no sample ever is.
  const box = { x: [-2.8, 2.8], y: [-2.1, 2.1] }, columns = 64, rows = 48;
  const pixels = Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (_, j) => {
    const q = box.x[0] + ((j + 0.5) * (box.x[1] - box.x[0])) / columns, v = box.y[0] + ((i + 0.5) * (box.y[1] - box.y[0])) / rows;
    if (v * v / 2 - Math.cos(q) > top) return null;
    const psi = centres.map(([p, w]) => Math.exp(-((q - p) ** 2 + (v - w) ** 2) / (2 * width ** 2)));
    return basis.map((column) => column.reduce((sum, b, k) => sum + b * psi[k], 0)); // column j has j + 1 numbers
  }));

  let z = [Math.cos(0.8), Math.sin(0.8)], kind = 0, next = -1;
  const plane = axes(panels, { x: [-1.25, 1.25], y: [-1.25, 1.25], equal: true, title: "Smallest residual at z",
    xlabel: "real part", ylabel: "imaginary part", xticks: [-1, 0, 1], yticks: [-1, 0, 1],
    alt: "The complex plane: a dark ring at the unit circle, yellow far from it, and the eigenvalues of EDMD as white dots." });
  plane.heat(heat, (v) => cividis(v / 100));
  plane.dots(eigenvalues, { color: "#fff", r: 2.6 });
  const space = axes(panels, { ...box, title: "The function that has it", xlabel: "angle", ylabel: "velocity", height: 374,
    alt: "Phase space of the pendulum, coloured by the function of the dictionary that is nearest to an eigenfunction for z." });
  const paper = [253, 252, 249], picture = space.heat(pixels.map((row) => row.map(() => paper)), (v) => v);

  const draw = () => {
    const { residual, c } = nearest(K, L, z);
    const g = pixels.map((row) => row.map((q) => q && c.map((part) => q.reduce((sum, v, k) => sum + v * part[k], 0))));
    const inside = g.flat().filter(Boolean);
    const sum = (f) => inside.reduce((total, v) => total + f(v), 0); // turn g until its real part is largest
    const turn = -Math.atan2(2 * sum(([p, q]) => p * q), sum(([p, q]) => p * p - q * q)) / 2;
    const value = ([p, q]) => (kind ? Math.hypot(p, q) : p * Math.cos(turn) - q * Math.sin(turn));
    const peak = Math.max(...inside.map((v) => Math.abs(value(v))));
    const colour = (v) => (kind ? cividis(v / peak) : signed((1 + v / peak) / 2));
    picture.set(g.map((row) => row.map((v) => (v ? colour(value(v)) : paper))));
    const [modulus, angle] = [Math.hypot(...z), Math.atan2(z[1], z[0])];
    note.textContent = `Modulus ${modulus.toFixed(2)}, angle ${angle.toFixed(2)}: the smallest residual is ` +
      `${residual.toFixed(2)}, and none can be smaller than ${Math.abs(1 - modulus).toFixed(2)}.`;
  };
  const handle = plane.handle(z, { label: "the point z", color: COLORS[1], move: (a, b) => { z = [a, b]; draw(); } });
  button(controls, "Jump to EDMD's next eigenvalue", () => {
    next = (next + 1) % eigenvalues.length;
    z = eigenvalues[next];
    handle.set(...z);
    draw();
  });
  choice(controls, { label: "show", options: ["real part", "modulus"] }, (index) => { kind = index; draw(); });
  draw();
}
