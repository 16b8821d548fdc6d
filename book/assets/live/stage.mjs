// What every picture that computes in the page stands on: a plot in SVG, handles to drag, sliders, buttons.
// No dependency and no request: a chapter puts this file and its own module into its output (assets/page.py).
// Every control can be focused and moved with the arrow keys, and says its value to a screen reader.

export const COLORS = ["#0072B2", "#D1521B", "#0F9D74", "#E3A008", "#5B2A63", "#6B7480"]; // as in book.mplstyle
const INK = "#22303c", FAINT = "#4c5862", LINE = "#a9b1b8", GRID = "#e6e3dc", PAPER = "#fdfcf9";
const STYLE = `
  .live { background: ${PAPER}; color: ${INK}; border-radius: .4rem; padding: .8rem; box-sizing: border-box;
    font: 14px/1.4 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif; max-width: 46rem;
    margin: 0 auto; }
  .live .panels { display: flex; flex-wrap: wrap; gap: .6rem; justify-content: center; }
  .live .panels > svg { flex: 1 1 17rem; max-width: 100%; min-width: 0; height: auto; }
  .live .controls { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; align-items: center; margin: 0 .3rem .5rem; }
  .live label { display: flex; align-items: center; gap: .5rem; }
  .live input[type=range] { accent-color: ${COLORS[0]}; width: 10.5rem; }
  .live output { min-width: 3.2em; font-variant-numeric: tabular-nums; }
  .live button, .live select { font: inherit; color: ${INK}; background: #fff; border: 1px solid ${LINE};
    border-radius: .3rem; padding: .15rem .7rem; cursor: pointer; }
  .live p { margin: .5rem .3rem 0; color: ${FAINT}; }
  .live svg text { font-family: inherit; fill: ${INK}; }
  .live .handle { cursor: grab; touch-action: none; }
  .live :focus-visible { outline: 2px solid ${COLORS[1]}; outline-offset: 2px; }
  .live circle.handle:focus-visible { outline: none; stroke: ${INK}; stroke-width: 3; }`;

/** An HTML element with attributes and children: html("p", { class: "note" }, "text", child). */
export function html(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** The same for SVG. */
export function svg(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Empty the root, and lay out what all pictures share: a row of controls over a row of panels over a note. */
export function layout(root) {
  const parts = {
    controls: html("div", { class: "controls" }),
    panels: html("div", { class: "panels" }),
    note: html("p", { "aria-live": "polite" }),
  };
  root.replaceChildren(html("style", {}, STYLE), parts.controls, parts.panels, parts.note);
  return parts;
}

/** A slider. `text` writes its value; `move(value)` is called at every change. Returns the input. */
export function slider(parent, { label, min, max, step, value, text = String }, move) {
  const input = html("input", { type: "range", min, max, step, value });
  const shown = html("output", {}, text(Number(value)));
  input.addEventListener("input", () => {
    shown.textContent = text(Number(input.value));
    input.setAttribute("aria-valuetext", shown.textContent);
    move(Number(input.value));
  });
  parent.append(html("label", {}, label, input, shown));
  return input;
}

/** A list to choose from. `options` is a list of strings; `pick(index)` is called at every change. */
export function choice(parent, { label, options, value = 0 }, pick) {
  const select = html("select", {}, ...options.map((name, k) => html("option", { value: k }, name)));
  select.value = value;
  select.addEventListener("change", () => pick(Number(select.value)));
  parent.append(html("label", {}, label, select));
  return select;
}

/** A button. */
export function button(parent, label, press) {
  const element = html("button", { type: "button" }, label);
  element.addEventListener("click", press);
  parent.append(element);
  return element;
}

/** Round numbers for ticks: about `count` of them between a and b. */
export function ticks(a, b, count = 5) {
  const raw = (b - a) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw * 0.999);
  const first = Math.ceil(a / step - 1e-9);
  return Array.from({ length: Math.floor(b / step + 1e-9) - first + 1 }, (_, k) => Number(((first + k) * step).toPrecision(12)));
}

/**
 * Axes. x and y are [low, high]; `alt` says in words what is drawn. `log: true` makes the y axis logarithmic.
 * The methods take data coordinates, and what they draw is cut off at the frame:
 *   line(points, style), dots(points, style) have .set(points); text(x, y, words, style);
 *   heat(values, color) paints rows of values, the first row at the bottom, color(v) -> [r, g, b];
 *   handle(point, { label, move, color, free }) can be dragged and moved by the arrow keys; move(x, y) is called.
 */
export function axes(parent, { x, y, alt, title = "", xlabel = "", ylabel = "", width = 360, height = 300, equal = false,
                               log = false, xticks, yticks }) {
  const [left, right, top, bottom] = [52, 14, title ? 34 : 14, xlabel ? 46 : 28];
  const f = log ? Math.log10 : (v) => v, g = log ? (v) => 10 ** v : (v) => v;
  if (equal) height = top + bottom + ((width - left - right) * (y[1] - y[0])) / (x[1] - x[0]);
  const X = (v) => left + ((v - x[0]) / (x[1] - x[0])) * (width - left - right);
  const Y = (v) => height - bottom - ((f(v) - f(y[0])) / (f(y[1]) - f(y[0]))) * (height - top - bottom);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": alt });
  const clip = `clip-${Math.random().toString(36).slice(2)}`; // ids are global to a page
  const cut = svg("clipPath", { id: clip });
  cut.append(svg("rect", { x: left, y: top, width: width - left - right, height: height - top - bottom }));
  root.append(cut);
  const put = (px, py, words, style = {}) => {
    const t = svg("text", { x: px, y: py, "font-size": 13, ...style });
    t.textContent = words;
    return root.appendChild(t);
  };
  xticks ??= ticks(...x);
  yticks ??= log ? ticks(f(y[0]), f(y[1]), 4).filter(Number.isInteger).map(g) : ticks(...y);
  for (const v of xticks) {
    root.append(svg("line", { x1: X(v), x2: X(v), y1: top, y2: height - bottom, stroke: GRID }));
    put(X(v), height - bottom + 17, String(v).replace("-", "\u2212"), { "text-anchor": "middle", fill: FAINT });
  }
  for (const v of yticks) {
    root.append(svg("line", { x1: left, x2: width - right, y1: Y(v), y2: Y(v), stroke: GRID }));
    const words = log ? v.toPrecision(1).replace("e-", "e\u2212") : String(v).replace("-", "\u2212");
    put(left - 7, Y(v) + 4, words, { "text-anchor": "end", fill: FAINT });
  }
  root.append(svg("path", { d: `M${left} ${top}V${height - bottom}H${width - right}`, fill: "none", stroke: LINE }));
  if (title) put(left, 20, title, { "font-weight": 700, "font-size": 15 });
  if (xlabel) put((left + width - right) / 2, height - 8, xlabel, { "text-anchor": "middle", "font-size": 14 });
  if (ylabel) put(0, 0, ylabel, { "text-anchor": "middle", "font-size": 14,
    transform: `translate(15 ${(top + height - bottom) / 2}) rotate(-90)` });
  const inside = root.appendChild(svg("g", { "clip-path": `url(#${clip})` }));
  parent.append(root);

  // A gap (a point that is not finite) breaks a line in two.
  const path = (points) => points.reduce((d, [a, b], k) => {
    if (!Number.isFinite(a + Y(b))) return d;
    const start = k === 0 || !Number.isFinite(points[k - 1][0] + Y(points[k - 1][1]));
    return d + (start ? "M" : "L") + X(a).toFixed(1) + " " + Math.max(-1e4, Math.min(1e4, Y(b))).toFixed(1);
  }, "");
  const line = (points, { color = COLORS[0], width: w = 2, dash = "", opacity = 1, fill = "none" } = {}) => {
    const p = inside.appendChild(svg("path", { d: path(points), fill, stroke: color, "stroke-width": w, opacity,
      "stroke-dasharray": dash, "stroke-linejoin": "round", "stroke-linecap": "round" }));
    return Object.assign(p, { set: (next) => p.setAttribute("d", path(next)) });
  };
  const dots = (points, { color = COLORS[0], r = 4, opacity = 1 } = {}) => {
    const group = inside.appendChild(svg("g", { fill: color, opacity }));
    group.set = (next) => group.replaceChildren(
      ...next.map(([a, b]) => svg("circle", { cx: X(a).toFixed(1), cy: Y(b).toFixed(1), r })));
    group.set(points);
    return group;
  };
  const heat = (values, color, opacity = 1) => {
    const image = inside.insertBefore(svg("image", { x: left, y: top, width: width - left - right,
      height: height - top - bottom, preserveAspectRatio: "none", opacity }), inside.firstChild);
    const canvas = html("canvas", { width: values[0].length, height: values.length });
    image.set = (rows) => {
      const pixels = new ImageData(rows[0].length, rows.length);
      rows.forEach((row, i) => row.forEach((v, j) =>
        pixels.data.set([...color(v), 255], 4 * ((rows.length - 1 - i) * row.length + j))));
      canvas.getContext("2d").putImageData(pixels, 0, 0);
      image.setAttribute("href", canvas.toDataURL());
    };
    image.set(values);
    return image;
  };
  const handle = (at, { label, move, color = COLORS[1], r = 9, free = [true, true] }) => {
    let point = [...at];
    const circle = root.appendChild(svg("circle", { class: "handle", r, fill: color, stroke: "#fff", "stroke-width": 2,
      tabindex: 0, role: "slider", "aria-label": label }));
    const go = (a, b, tell = true) => {
      point = [free[0] ? Math.min(x[1], Math.max(x[0], a)) : point[0], free[1] ? Math.min(y[1], Math.max(y[0], b)) : point[1]];
      circle.setAttribute("cx", X(point[0]));
      circle.setAttribute("cy", Y(point[1]));
      const said = point.map((v) => Number(v.toFixed(2)));
      circle.setAttribute("aria-valuenow", said[0]);
      circle.setAttribute("aria-valuetext", said.join(", "));
      if (tell) move(...point);
    };
    circle.addEventListener("pointerdown", (event) => { circle.setPointerCapture(event.pointerId); event.preventDefault(); circle.focus(); });
    circle.addEventListener("pointermove", (event) => {
      if (!circle.hasPointerCapture(event.pointerId)) return;
      const box = root.getBoundingClientRect(), scale = width / box.width;
      const [px, py] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
      go(x[0] + ((px - left) / (width - left - right)) * (x[1] - x[0]),
         g(f(y[0]) + ((height - bottom - py) / (height - top - bottom)) * (f(y[1]) - f(y[0]))));
    });
    circle.addEventListener("keydown", (event) => {
      const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!way) return;
      event.preventDefault();
      go(point[0] + (way[0] * (x[1] - x[0])) / 50, point[1] + (way[1] * (y[1] - y[0])) / 50);
    });
    go(...point, false);
    return { circle, set: (a, b) => go(a, b, false) };
  };
  return { svg: root, X, Y, line, dots, heat, handle, text: (a, b, words, style) => put(X(a), Y(b), words, style) };
}

/** One step of Runge and Kutta's fourth-order method for x' = field(x), x a list of numbers. */
export function rk4(field, x, dt) {
  const add = (u, k, v) => u.map((a, i) => a + k * v[i]);
  const k1 = field(x), k2 = field(add(x, dt / 2, k1)), k3 = field(add(x, dt / 2, k2)), k4 = field(add(x, dt, k3));
  return x.map((a, i) => a + (dt / 6) * (k1[i] + 2 * k2[i] + 2 * k3[i] + k4[i]));
}
