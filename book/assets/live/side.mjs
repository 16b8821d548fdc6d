// Two methods side by side: a ring of noises to drag, and where each method sends them.
import { axes, choice, COLORS, layout, slider } from "./stage.mjs";

/** Signed 16-bit numbers from base64, as pairs in units of `unit`. */
function pairs(text, unit) {
  const flat = new Int16Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  return Array.from({ length: flat.length / 2 }, (_, k) => [flat[2 * k] * unit, flat[2 * k + 1] * unit]);
}

export function mount(root, data) {
  const { controls, panels, note } = layout(root);
  const noise = pairs(data.noise, data.unit), ends = data.ends.map((text) => pairs(text, data.unit));
  const hues = [...new Set(data.hues)], of = (list, hue) => list.filter((_, i) => data.hues[i] === hue);
  const picked = [...data.picked];
  let centre = data.centre, radius = data.radius;
  const left = axes(panels, { x: [-2.8, 2.8], y: [-2.8, 2.8], equal: true, title: "Drag the ring", alt: "Plane of unit noise with a ring to drag." });
  for (const hue of hues) left.dots(of(noise, hue), { color: hue, r: 2.4, opacity: 0.55 });
  left.svg.style.flex = "1 1 12rem"; // three in a row where there is room
  const caught = left.dots([], { color: "#22303c", r: 3.2 }), ring = left.line([], { color: COLORS[1], width: 2.5 });
  const boards = picked.map((_, side) => {
    const plot = axes(panels, { x: [-1.15, 1.15], y: [-1.15, 1.15], equal: true, alt: `Where the ${side ? "second" : "first"} method sends the noises.` });
    const clouds = hues.map((hue) => plot.dots([], { color: hue, r: 2.4, opacity: 0.35 }));
    const title = plot.text(-1.15, 1.2, "", { "font-weight": 700, "font-size": 15 });
    plot.svg.style.flex = "1 1 12rem";
    return { clouds, title, chosen: plot.dots([], { color: "#22303c", r: 3.4 }) };
  });

  const draw = () => {
    const inside = noise.map(([x, y]) => Math.hypot(x - centre[0], y - centre[1]) < radius);
    const count = inside.filter(Boolean).length, take = (list) => list.filter((_, i) => inside[i]);
    caught.set(take(noise));
    ring.set(Array.from({ length: 61 }, (_, k) => [centre[0] + radius * Math.cos(k * Math.PI / 30), centre[1] + radius * Math.sin(k * Math.PI / 30)]));
    boards.forEach(({ clouds, title, chosen }, side) => {
      const where = ends[picked[side]];
      hues.forEach((hue, i) => clouds[i].set(of(where, hue)));
      chosen.set(take(where));
      title.textContent = data.names[picked[side]];
    });
    let sum = 0;
    ends[picked[0]].forEach(([x, y], i) => { const [u, v] = ends[picked[1]][i]; if (inside[i]) sum += Math.hypot(x - u, y - v); });
    note.textContent = count ? `${count} noises in the ring. The two methods send one and the same noise ${(sum / count).toFixed(2)} apart on average; a square of the board is ${data.side} wide.`
      : "No noise in the ring.";
  };
  ["first", "second"].forEach((label, side) =>
    choice(controls, { label, options: data.names, value: picked[side] }, (v) => { picked[side] = v; draw(); }));
  slider(controls, { label: "ring", min: 0.1, max: 1, step: 0.05, value: radius, text: (v) => v.toFixed(2) }, (v) => { radius = v; draw(); });
  left.handle(centre, { label: "centre of the ring", move: (x, y) => { centre = [x, y]; draw(); } });
  draw();
}
