// The plane painted by K_t g: the colour at x is the value that g will have a time t later, g(Phi_t(x)). Left: the
// plane, some paths, and one path from a start that can be dragged. Right: g along that path. All is computed by rk4.
import { axes, choice, COLORS, layout, rk4, slider } from "./stage.mjs";

const PI = Math.PI, END = 12, STEP = 0.1, COLUMNS = 60, ROWS = 50;
const linear = ([a, b]) => (a * a + b * b) / 2;
// `low`, `high`: of the energy, for the colours and the right panel.
const SYSTEMS = [
  { name: "pendulum", knob: "damping c", max: 1, x: [-6.6, 6.6], y: [-3.2, 3.2],
    rests: [[-2 * PI, 0], [0, 0], [2 * PI, 0]], saddles: [[-PI, 0], [PI, 0]],
    field: (c) => ([a, b]) => [b, -Math.sin(a) - c * b], energy: ([a, b]) => (b * b) / 2 - Math.cos(a),
    formula: "x₂²/2 − cos x₁", low: -1.2, high: 4, stroke: 0.9 },
  { name: "Duffing", knob: "damping c", max: 1, x: [-2.2, 2.2], y: [-2.2, 2.2],
    rests: [[-1, 0], [1, 0]], saddles: [[0, 0]],
    field: (c) => ([a, b]) => [b, a - a ** 3 - c * b], energy: ([a, b]) => (b * b - a * a) / 2 + a ** 4 / 4,
    formula: "x₂²/2 − x₁²/2 + x₁⁴/4", low: -0.5, high: 2.5, stroke: 0.55 },
  { name: "Van der Pol", knob: "constant μ", max: 2, x: [-3, 3], y: [-4, 4], rests: [], saddles: [[0, 0]],
    field: (mu) => ([a, b]) => [b, mu * (1 - a * a) * b - a], energy: linear, formula: "(x₁² + x₂²)/2",
    low: -0.5, high: 7, stroke: 0.4 },
  { name: "spiral", knob: "decay −α", max: 1, x: [-2, 2], y: [-2, 2], rests: [[0, 0]], saddles: [],
    field: (c) => ([a, b]) => [-c * a + b, -a - c * b], energy: linear, formula: "(x₁² + x₂²)/2",
    low: -0.2, high: 2.2, stroke: 0.7 },
];
const OBSERVABLES = ["position x₁", "energy", "is x₁ > 0?"];
const said = (v, digits = 2) => v.toFixed(digits).replace("-", "−").replace(/^−(0(\.0*)?)$/, "$1");

export function mount(root, { system, values, starts, t }) {
  const { controls, panels, note } = layout(root);
  let which = 0, plane, reading, frames, g;

  choice(controls, { label: "system", options: SYSTEMS.map((s) => s.name), value: system }, (k) => {
    system = k;
    relabel();
    build();
  });
  choice(controls, { label: "observable g", options: OBSERVABLES }, (k) => { which = k; build(); });
  const knob = slider(controls, { label: "", min: 0, max: 1, step: 0.02, value: values[system], text: said }, (v) => {
    values[system] = v;
    flow();
    draw();
  });
  slider(controls, { label: "time t", min: 0, max: END, step: STEP, value: t, text: (v) => said(v, 1) },
    (v) => { t = v; draw(); });

  function relabel() {
    Object.assign(knob, { max: SYSTEMS[system].max, value: values[system] });
    knob.previousSibling.textContent = SYSTEMS[system].knob;
    knob.nextSibling.textContent = said(values[system]);
  }

  /** New axes, for another system or another observable. */
  function build() {
    const { name, x, y, energy, formula, low, high, rests, saddles } = SYSTEMS[system];
    const range = [x, [low, high], [-0.15, 1.15]][which];
    g = [([a]) => a, energy, ([a]) => Number(a > 0)][which];
    panels.replaceChildren();
    const axis = axes(panels, { x, y, title: "Painted by Kₜg", xlabel: "x₁", ylabel: "x₂", height: 330,
      alt: `The plane of the ${name}, painted by the observable a time t later, with one path` });
    const graph = axes(panels, { x: [-0.7, END], y: range, title: `g = ${["x₁", formula, "1 if x₁ > 0"][which]}`,
      xlabel: "time", height: 330, xticks: [0, 3, 6, 9, 12], yticks: which === 2 ? [0, 1] : undefined,
      alt: "The observable along the path" });
    // purple below the middle of the range, paper at it, orange above
    const [middle, half] = [(range[0] + range[1]) / 2, (range[1] - range[0]) / 2.2];
    const color = (v) => {
      const s = Math.max(-1, Math.min(1, (v - middle) / half)), ink = s < 0 ? [94, 60, 153] : [226, 122, 28];
      return [253, 252, 249].map((paper, k) => paper + 0.85 * Math.abs(s) * (ink[k] - paper));
    };
    plane = { color, heat: axis.heat(Array(ROWS).fill(Array(COLUMNS).fill(color(middle))), (v) => v),
      strokes: axis.line([], { color: "#22303c", width: 1, opacity: 0.35 }),
      tips: axis.dots([], { color: "#22303c", r: 1.4, opacity: 0.55 }), path: axis.line([], { width: 2.5 }) };
    axis.dots(rests, { color: "#22303c", r: 4 });
    axis.dots(saddles, { color: "#fdfcf9", r: 4 }).setAttribute("stroke", "#22303c");
    plane.now = axis.dots([], { r: 8 });
    axis.handle(starts[system], { label: "start of the path: x1, x2",
      move: (a, b) => { starts[system] = [a, b]; draw(); } });
    for (let k = 0; k < 32; k += 1) { // the colours, as a scale along the axis
      const [v, tall] = [range[0] + ((k + 0.5) / 32) * (range[1] - range[0]), (0.53 * (range[1] - range[0])) / 32];
      graph.line([[-0.7, v - tall], [-0.35, v - tall], [-0.35, v + tall], [-0.7, v + tall]],
        { color: "none", fill: `rgb(${color(v).map(Math.round)})` });
    }
    reading = { path: graph.line([], { width: 2.5 }), up: graph.line([], { color: COLORS[5], width: 1, dash: "3 4" }),
      start: graph.dots([], { color: COLORS[1], r: 6 }), now: graph.dots([], { r: 8 }) };
    flow();
    draw();
  }

  /** What does not depend on the start: the strokes, and a fresh film of the grid (frames are added when needed). */
  function flow() {
    const { x, y, stroke, field } = SYSTEMS[system], f = field(values[system]), pieces = [], tips = [];
    const at = ([low, high], share) => low + share * (high - low);
    for (let i = 0; i < 13; i += 1) for (let j = 0; j < 11; j += 1) {
      let point = [at(x, (i + (j % 2) / 2 + 0.25) / 13), at(y, (j + 0.5) / 11)];
      for (let k = 0; k < 12; k += 1) { pieces.push(point); point = rk4(f, point, stroke / 12); }
      pieces.push([NaN, NaN]);
      tips.push(pieces[pieces.length - 2]);
    }
    plane.strokes.set(pieces);
    plane.tips.set(tips);
    frames = [Array.from({ length: ROWS * COLUMNS }, (_, k) =>
      [at(x, ((k % COLUMNS) + 0.5) / COLUMNS), at(y, (Math.floor(k / COLUMNS) + 0.5) / ROWS)])];
  }

  function draw() {
    const f = SYSTEMS[system].field(values[system]), last = Math.round(t / STEP);
    while (frames.length <= last) frames.push(frames[frames.length - 1].map((point) => rk4(f, point, STEP)));
    const painted = frames[last].map((point) => plane.color(g(point)));
    plane.heat.set(Array.from({ length: ROWS }, (_, i) => painted.slice(i * COLUMNS, (i + 1) * COLUMNS)));
    const path = [starts[system]];
    for (let k = 0; k < 2 * Math.round(END / STEP); k += 1) path.push(rk4(f, path[k], STEP / 2));
    const now = path[2 * last], along = path.map((point, k) => [(k * STEP) / 2, g(point)]);
    plane.path.set(path);
    plane.now.set([now]);
    reading.path.set(along);
    reading.up.set([[t, -100], [t, 100]]);
    reading.start.set(along.slice(0, 1));
    reading.now.set([[t, g(now)]]);
    const [a, b] = starts[system];
    note.textContent = `(Kₜg)(x) = g(Φₜ(x)): from x = (${said(a)}, ${said(b)}) the state is at (${said(now[0])}, `
      + `${said(now[1])}) after t = ${said(t, 1)}, where g = ${said(g(now))}. `
      + `That value is the colour under the orange start.`;
  }
  relabel();
  build();
}
