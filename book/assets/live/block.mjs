// One 2x2 block: drag its pair of rates alpha +- i beta through the complex plane, and see the path of (p, q) from (1, 0).
// w = p + i q moves as w(t) = e^{(alpha - i beta) t}: growth e^{alpha t}, rotation by -beta t.
import { COLORS, axes, layout, slider } from "./stage.mjs";

export function mount(root, { alpha, beta, t, T }) {
  const { controls, panels, note } = layout(root);
  const [blue, orange, , , , slate] = COLORS;
  const at = (s) => [Math.exp(alpha * s) * Math.cos(beta * s), -Math.exp(alpha * s) * Math.sin(beta * s)];
  const sampled = (end, f) => Array.from({ length: 401 }, (_, k) => f((k * end) / 400));
  const said = (v, digits) => v.toFixed(digits).replace("-", "\u2212").replace(/^\u2212(0(\.0*)?)$/, "$1");

  slider(controls, { label: "time t", min: 0, max: T, step: 0.1, value: t, text: (v) => v.toFixed(1) }, (v) => {
    t = v;
    draw();
  });

  // Left: where the rates are. The growth half plane is shaded; the conjugate follows the handle.
  const rates = axes(panels, { x: [-0.8, 0.4], y: [-4.5, 4.5], title: "The rates \u03b1 \u00b1 i\u03b2", xlabel: "real part \u03b1",
    ylabel: "imaginary part \u03b2", xticks: [-0.8, -0.4, 0, 0.4], height: 374,
    alt: "The complex plane of rates, with the half plane of growth shaded and a conjugate pair of points" });
  rates.line([[0, -5], [1, -5], [1, 5], [0, 5]], { color: "none", fill: slate, opacity: 0.14 });
  rates.line([[-1, 0], [1, 0]], { color: slate, width: 1 });
  rates.text(0.2, 4.05, "growth", { "text-anchor": "middle", fill: slate });
  rates.text(-0.4, 4.05, "decay", { "text-anchor": "middle", fill: slate });
  const link = rates.line([], { color: orange, width: 1, dash: "3 4" });
  const conjugate = rates.dots([], { color: orange, r: 9, opacity: 0.45 });
  rates.handle([alpha, beta], { label: "rate: real part alpha, imaginary part beta", move: (a, b) => {
    [alpha, beta] = [Math.abs(a) < 1e-9 ? 0 : a, Math.abs(b) < 1e-9 ? 0 : b];
    draw();
  } });

  // Right: the pair itself, the whole path faint, the part up to t bold.
  const plane = axes(panels, { x: [-2, 2], y: [-2, 2], equal: true, title: "The pair (p, q)", xlabel: "p", ylabel: "q",
    xticks: [-2, -1, 0, 1, 2], yticks: [-2, -1, 0, 1, 2], alt: "The path of the pair from the point (1, 0) in the plane" });
  const future = plane.line([], { color: slate, width: 1, opacity: 0.6 });
  const past = plane.line([], { color: blue, width: 2.5 });
  const arm = plane.line([], { color: blue, width: 1 });
  plane.dots([[1, 0]], { color: slate, r: 5 });
  const now = plane.dots([], { color: blue, r: 8 });

  // Below: p over time between its envelopes; as wide as the page allows, so that its letters stay as large as the others'.
  const wide = root.clientWidth > 560;
  const time = axes(panels, { x: [0, T], y: [-2, 2], title: "p(t) between \u00b1exp(\u03b1t)", xlabel: "time t", width: wide ? 700 : 360,
    height: 200, yticks: [-1, 0, 1], alt: "The first member of the pair over time, between its two exponential envelopes" });
  const envelopes = [1, -1].map((sign) => [sign, time.line([], { color: orange, width: 1.2, dash: "5 4" })]);
  const wave = time.line([], { color: blue, width: 2.5 });
  const mark = time.dots([], { color: blue, r: 7 });

  function draw() {
    link.set([[alpha, -beta], [alpha, beta]]);
    conjugate.set([[alpha, -beta]]);
    future.set(sampled(T, at));
    past.set(sampled(t, at));
    arm.set([[0, 0], at(t)]);
    now.set([at(t)]);
    envelopes.forEach(([sign, curve]) => curve.set(sampled(T, (s) => [s, sign * Math.exp(alpha * s)])));
    wave.set(sampled(T, (s) => [s, at(s)[0]]));
    mark.set([[t, at(t)[0]]]);
    const way = beta * t > 0 ? "clockwise" : "anticlockwise";
    const turned = said(Math.abs((beta * t) / (2 * Math.PI)), 2);
    note.textContent = `Rates ${said(alpha, 2)} \u00b1 ${said(Math.abs(beta), 2)}i. At t = ${said(t, 1)} the pair is `
      + `${said(Math.exp(alpha * t), 2)} times as long as at the start, after ${turned} turns` + (turned === "0.00" ? "." : ` ${way}.`);
  }
  draw();
}
