// A map of Gaussian noise onto two intervals of length 1 with a gap between them. The exact map jumps; the drawn one is as
// steep as the slider allows. No map of that steepness that serves both halves alike sends less into the gap. Right, the
// density of what comes out.
import { COLORS, axes, layout, slider } from "./stage.mjs";

const EDGE = 3.2, COUNT = 640;

/** erf to 1.2e-7 (Numerical Recipes' rational Chebyshev fit, chapter 6.2). */
export function erf(x) {
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const fit = [0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196,
    1.00002368, -1.26551223].reduce((sum, c) => sum * t + c, 0);
  const value = 1 - t * Math.exp(-x * x + fit);
  return x >= 0 ? value : -value;
}

export function mount(root, { gap, gamma, noise }) {
  const { controls, panels, note } = layout(root);
  const [blue, orange, , , , slate] = COLORS;
  const exact = (u) => gap / 2 + erf(u / Math.SQRT2); // for u > 0; the map is odd
  const odd = (f) => (u) => Math.sign(u) * f(Math.abs(u));
  const best = odd((u) => Math.min(gamma * u, exact(u)));
  const bell = (u) => Math.exp((-u * u) / 2) / Math.sqrt(2 * Math.PI);

  slider(controls, { label: "gap g", min: 0, max: 3, step: 0.05, value: gap, text: (v) => v.toFixed(2) },
    (v) => { gap = v; draw(); });
  slider(controls, { label: "steepness \u0393", min: 0.6, max: 20, step: 0.1, value: gamma, text: (v) => v.toFixed(1) },
    (v) => { gamma = v; draw(); });

  const map = axes(panels, { x: [-EDGE, EDGE], y: [-3.2, 2.7], title: "noise to data", xlabel: "noise \u03be",
    alt: "The exact map in grey, with its jump, and the map of bounded steepness in blue, with a noise to drag" });
  const hole = map.line([], { color: "none", fill: orange, opacity: 0.13 });
  const halves = [map.line([], { color: slate, width: 7, opacity: 0.3 }), map.line([], { color: slate, width: 7, opacity: 0.3 })];
  const way = map.line([], { color: orange, width: 1.6, dash: "5 4" });
  const curve = map.line([], { color: blue, width: 2.6 });
  const landed = map.dots([], { color: orange, r: 6 });
  const chosen = map.handle([noise, -2.95], { label: "a noise", free: [true, false], move: (v) => { noise = v; draw(); } });

  const out = axes(panels, { x: [0, 1], y: [-3.2, 2.7], title: "what comes out", xlabel: "density", xticks: [0, 0.5, 1],
    alt: "The density of what the map makes: data in blue, strays in the gap in orange" });
  const data = out.line([], { color: "none", fill: blue, opacity: 0.55 });
  const strays = out.line([], { color: "none", fill: orange, opacity: 0.75 });
  const wish = out.line([], { color: slate, width: 2 });
  const here = out.dots([], { color: orange, r: 6 });

  // Area under a piece of the density: from y = a to b by noise u, closed along the axis.
  const area = (us) => {
    const rim = us.slice(1).map((u, k) => {
      const rise = (best(u) - best(us[k])) / (u - us[k]);
      return [Math.min(1.5, bell((u + us[k]) / 2) / Math.max(rise, 1e-6)), best((u + us[k]) / 2)];
    });
    return rim.length ? [[0, rim[0][1]], ...rim, [0, rim.at(-1)[1]]] : [];
  };
  const grid = (a, b) => Array.from({ length: COUNT + 1 }, (_, k) => a + ((b - a) * k) / COUNT);

  function draw() {
    const meets = gap / 2 / gamma; // the noise that reaches the edge of the gap
    const [h, low, high] = [gap / 2, grid(-EDGE, -Math.max(meets, 1e-9)), grid(Math.max(meets, 1e-9), EDGE)];
    hole.set([[-EDGE, -h], [EDGE, -h], [EDGE, h], [-EDGE, h]]);
    halves[0].set(low.filter((u) => u < 0).concat([-1e-9]).map((u) => [u, odd(exact)(u)]));
    halves[1].set([1e-9].concat(high).map((u) => [u, odd(exact)(u)]));
    curve.set(grid(-EDGE, EDGE).map((u) => [u, best(u)]));
    const y = best(noise);
    chosen.set(noise, -2.95);
    way.set([[noise, -2.95], [noise, y], [EDGE, y]]);
    landed.set([[noise, y]]);
    here.set([[0.012, y]]);
    data.set([...area(low), ...area(high)]);
    strays.set(gap > 0 ? area(grid(-meets, meets)) : []);
    wish.set([[0, -h - 1], [0.5, -h - 1], [0.5, -h], [0, -h], [0, h], [0.5, h], [0.5, h + 1], [0, h + 1]]);
    const share = Math.max(0, erf(meets / Math.SQRT2)), fate = Math.abs(y) < h ? "falls into the gap" : "lands on data";
    const percent = (v) => `${(100 * v).toFixed(v < 0.1 ? 1 : 0)} %`;
    note.textContent = `${percent(share)} of the noise goes astray. No map of steepness ${gamma.toFixed(1)} that serves both halves `
      + `alike can do better; half as many strays need about ${(2 * gamma).toFixed(1)}. The dragged noise ${fate}.`;
  }
  draw();
}
