// What each part is worth: models of the ablations, table by table, on a measure of the reader's choice and on two at once.
// A dot is a mean over seeds, the small ones are the seeds; a stick ends at the value with A set to 0. Numbers come from
// the notebook; nothing is computed here but logarithms.
import { choice, COLORS, layout, slider, svg } from "./stage.mjs";

export function mount(root, { measures, tables, y, x }) {
  const { controls, panels, note } = layout(root);
  let models = tables[0].rows, chosen = 0;
  const mean = (values) => values.reduce((a, b) => a + b) / values.length;
  const digits = (v) => (v >= 100 ? v.toFixed(0) : String(Number(v.toPrecision(3)))).replace("-", "\u2212");
  const names = measures.map((m) => m.name);
  choice(controls, { label: "table", options: tables.map((t) => t.table) }, (k) => {
    models = tables[k].rows;
    pick.max = models.length;
    y = offer(lists[0], y, 3);
    x = offer(lists[1], x, 1);
    choose(0);
  });
  const lists = [
    choice(controls, { label: "measure", options: names, value: y }, (k) => { y = k; draw(); }),
    choice(controls, { label: "against", options: names, value: x }, (k) => { x = k; draw(); }),
  ];
  /** Let a list offer what all models of the table have; the choice, or `other` where they lack it. */
  const offer = (list, chosen, other) => {
    measures.forEach((m, k) => { list.options[k].disabled = !models.every((model) => model.values[m.key]); });
    list.value = list.options[chosen].disabled ? other : chosen;
    return Number(list.value);
  };
  const pick = slider(controls, { label: "model", min: 1, max: models.length, step: 1, value: 1 },
    (k) => { chosen = k - 1; draw(); });
  const choose = (k) => { chosen = k; pick.value = k + 1; pick.nextElementSibling.textContent = k + 1; draw(); };

  /** Seeds, mean and the value without A of a model on a measure. */
  const read = (model, measure) => {
    const seeds = model.values[measure.key], idle = measure.idle ? mean(model.values[measure.idle]) : null;
    return { seeds, mean: mean(seeds), idle };
  };

  /** A logarithmic scale that holds all values of a measure: place(v) between a and b, and its ticks. */
  function scale(measure, a, b) {
    const all = models.map((model) => read(model, measure)).flatMap(({ seeds, idle }) => [...seeds, ...(idle ? [idle] : [])]);
    const low = Math.log(Math.min(...all) / 1.12), high = Math.log(Math.max(...all) * 1.12);
    const place = (v) => a + ((Math.log(v) - low) / (high - low)) * (b - a);
    const ticks = [];
    for (let power = -5; power < 5; power++)
      for (const m of high - low > 3.5 ? [1] : high - low > 1.6 ? [1, 3] : [1, 1.5, 2, 3, 4, 5, 7])
        if (Math.log(m * 10 ** power) > low && Math.log(m * 10 ** power) < high) ticks.push(Number((m * 10 ** power).toPrecision(3)));
    return { place, ticks };
  }

  const put = (parent, px, py, words, style = {}) => {
    const t = parent.appendChild(svg("text", { x: px, y: py, "font-size": 13, ...style }));
    t.textContent = words;
  };
  const stroke = (parent, x1, y1, x2, y2, color, width = 1) =>
    parent.append(svg("line", { x1, y1, x2, y2, stroke: color, "stroke-width": width }));
  const dot = (parent, cx, cy, r, fill, further = {}) => parent.appendChild(svg("circle", { cx, cy, r, fill, ...further }));

  /** One line for each model. */
  function list(measure) {
    const high = 46 + 33 * models.length, { place, ticks } = scale(measure, 10, 312);
    const view = panels.appendChild(svg("svg", { viewBox: `0 0 360 ${high}`, role: "group", "aria-label": `The table's models by ${measure.name}` }));
    put(view, 10, 16, measure.name, { "font-weight": 700, "font-size": 15 });
    for (const v of ticks) {
      stroke(view, place(v), 26, place(v), high - 20, "#e6e3dc");
      put(view, place(v), high - 5, digits(v), { "text-anchor": "middle", "font-size": 12 });
    }
    models.forEach((model, k) => {
      const { seeds, mean: middle, idle } = read(model, measure), at = 56 + 33 * k, color = COLORS[model.color];
      const row = view.appendChild(svg("g", { style: "cursor: pointer" }));
      row.append(svg("rect", { x: 2, y: at - 25, width: 356, height: 33, rx: 4, fill: k === chosen ? "#efe9db" : "transparent" }));
      put(row, 10, at - 10, model.name, { "font-size": 12.5, "font-weight": k === chosen ? 700 : 400 });
      put(row, 354, at + 4, digits(middle), { "text-anchor": "end", "font-size": 12.5 });
      if (idle) {
        stroke(row, place(middle), at, place(idle), at, color, 1.4);
        stroke(row, place(idle), at - 5, place(idle), at + 5, color, 1.4);
      }
      seeds.forEach((v) => dot(row, place(v), at, 2.6, color, { opacity: 0.5 }));
      dot(row, place(middle), at, 5.5, color);
      row.addEventListener("click", () => choose(k));
    });
  }

  /** The table's models on two measures. */
  function pair(across, up) {
    const sx = scale(across, 58, 346), sy = scale(up, 300, 34);
    const view = panels.appendChild(svg("svg", { viewBox: "0 0 360 352", role: "group", "aria-label": `${up.name} against ${across.name}` }));
    put(view, 58, 20, `${up.name}, upwards`, { "font-weight": 700, "font-size": 15 });
    for (const v of sx.ticks) {
      stroke(view, sx.place(v), 34, sx.place(v), 300, "#e6e3dc");
      put(view, sx.place(v), 318, digits(v), { "text-anchor": "middle", "font-size": 12 });
    }
    for (const v of sy.ticks) {
      stroke(view, 58, sy.place(v), 346, sy.place(v), "#e6e3dc");
      put(view, 52, sy.place(v) + 4, digits(v), { "text-anchor": "end", "font-size": 12 });
    }
    put(view, 202, 342, across.name, { "text-anchor": "middle", "font-size": 14 });
    models.map((_, k) => k).sort((a, b) => (a === chosen) - (b === chosen)).forEach((k) => {
      const one = read(models[k], across), two = read(models[k], up), color = COLORS[models[k].color];
      one.seeds.forEach((v, s) => dot(view, sx.place(v), sy.place(two.seeds[s]), 2.4, color, { opacity: 0.5 }));
      dot(view, sx.place(one.mean), sy.place(two.mean), k === chosen ? 8 : 5, color,
        k === chosen ? { stroke: "#22303c", "stroke-width": 2.5 } : {});
    });
  }

  function draw() {
    panels.replaceChildren();
    list(measures[y]);
    pair(measures[x], measures[y]);
    const model = models[chosen], { mean: value, idle, seeds } = read(model, measures[y]);
    note.textContent = `${model.name}: ${measures[y].name} ${digits(value)}`
      + (seeds.length > 1 ? ` (mean of ${seeds.length} seeds, ${digits(Math.min(...seeds))} to ${digits(Math.max(...seeds))})` : " (one seed)")
      + (idle ? `, with A = 0 ${digits(idle)}` : "") + `; ${measures[x].name} ${digits(read(model, measures[x]).mean)}.`;
  }
  draw();
}
