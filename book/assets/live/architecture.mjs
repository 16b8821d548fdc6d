// The network to walk through: choose a rung of the ladder and its encoder block, its generator or its decoder block.
// Beside it four channels of the rung's state, on the way from noise to picture, and what the state is worth: the
// picture with this one state taken from another noise. All numbers and pictures come from the notebook.
import { COLORS, choice, layout, slider, svg } from "./stage.mjs";

const TEXT = "#22303c", QUIET = "#4c5862", CARD = "#fdfcf9";
const [BLUE, ORANGE, GREEN, GOLD, PURPLE] = COLORS;
const LEVELS = [BLUE, GREEN, PURPLE, QUIET];
const SIDES = ["encoder block", "generator", "decoder block"];
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const thousands = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");

/** Numbers 0 to 255 as an address of a picture: three a pixel as they are, one a pixel from orange over white to violet. */
function picture(values, width) {
  const gray = values.length === width * width, canvas = document.createElement("canvas");
  canvas.width = canvas.height = width;
  const pixels = new ImageData(width, width);
  for (let i = 0; i < width * width; i++) {
    const v = gray ? values[i] / 127.5 - 1 : 0, low = [179, 88, 6], high = [84, 39, 136], white = [247, 247, 247];
    const rgb = gray ? white.map((w, c) => w + Math.abs(v) * ((v < 0 ? low : high)[c] - w)) : values.subarray(3 * i, 3 * i + 3);
    pixels.data.set([...rgb, 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas.toDataURL();
}

export function mount(root, data) {
  const { controls, panels, note } = layout(root);
  const last = data.rungs.length - 1, sides = [...new Set(data.rungs.map(({ shape }) => shape[1]))];
  const levels = data.rungs.map(({ shape }) => sides.indexOf(shape[1]));
  const maps = data.maps.map(bytes), path = bytes(data.path), swaps = bytes(data.swaps);
  let { rung, side } = data, time = 0;

  const at = slider(controls, { label: "rung", min: 1, max: last + 1, step: 1, value: rung + 1 }, (k) => go(k - 1, side));
  const part = choice(controls, { label: "part", options: SIDES, value: side }, (k) => go(rung, k));
  slider(controls, { label: "noise level \u03c3", min: 0, max: data.sigmas.length - 1, step: 1, value: 0,
    text: (k) => data.sigmas[k] }, (k) => { time = k; draw(); });

  const panel = (height, alt, role) => panels.appendChild(
    svg("svg", { viewBox: `0 0 360 ${height}`, role, "aria-label": alt }));
  const put = (parent, x, y, words, style = {}) => {
    const t = parent.appendChild(svg("text", { x, y, "font-size": 14, fill: TEXT, ...style }));
    t.textContent = words;
    return t;
  };

  // Left: the ladder. One stop of the Tab key; the arrow keys walk over it.
  const ys = levels.map((level, k) => 32 + 43 * k + 20 * level);
  const map = panel(ys[last] + 34, "The network: a rung for every state. Arrow keys choose a block.", "radiogroup");
  put(map, 52, 12, "encoder", { "text-anchor": "middle", fill: QUIET });
  put(map, 180, 12, "generator", { "text-anchor": "middle", fill: QUIET });
  put(map, 308, 12, "decoder", { "text-anchor": "middle", fill: QUIET });
  const boxes = data.rungs.map(({ names }, k) => names.map((name, j) => {
    const color = j === 1 ? ORANGE : LEVELS[levels[k]], indent = 8 * levels[k];
    const x = [2 + indent, 127, 258 - indent][j], width = [100, 106, 100][j];
    if (j < 2) map.append(svg("line", { x1: j ? x + width : name ? x + width : x + width / 2, x2: j ? 258 - indent : 127,
      y1: ys[k] + 15, y2: ys[k] + 15, stroke: color, "stroke-width": 2 }));
    if (j === 0 && k < last) map.append(svg("line", { x1: x + width / 2, x2: x + width / 2, y1: ys[k] + 30,
      y2: ys[k + 1] + (data.rungs[k + 1].names[0] ? 0 : 15), stroke: color, "stroke-width": 2 }));
    if (j === 2 && k > 0) map.append(svg("line", { x1: x + width / 2, x2: x + width / 2, y1: ys[k - 1] + 30, y2: ys[k],
      stroke: color, "stroke-width": 2 }));
    if (!name) return null;
    const box = map.appendChild(svg("g", { role: "radio", style: "cursor: pointer",
      "aria-label": `rung ${k + 1}, ${SIDES[j]}: ${name}` }));
    box.append(svg("rect", { x, y: ys[k], width, height: 30, rx: 6, fill: color }));
    put(box, x + width / 2, ys[k] + 20, name, { "text-anchor": "middle", "font-size": 13, style: "fill: #fff" });
    box.addEventListener("click", () => go(k, j));
    box.addEventListener("keydown", (event) => {
      const way = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (!way) return;
      event.preventDefault();
      go(Math.min(last, Math.max(0, rung + way[0])), Math.min(2, Math.max(0, side + way[1])), true);
    });
    return box;
  }));

  // Right: what is chosen.
  const view = panel(388, "The chosen part: its size, its share of the parameters, its state, and what the state is worth", "group");
  const title = put(view, 4, 18, "", { "font-weight": 700, "font-size": 16 });
  const facts = [0, 1].map((k) => put(view, 4, 40 + 20 * k, "", { fill: QUIET }));
  const bar = view.appendChild(svg("g"));
  const shot = (x, y, size) => view.appendChild(svg("image", { x, y, width: size, height: size,
    preserveAspectRatio: "none", style: "image-rendering: pixelated" }));
  const level = put(view, 4, 142, ""), noisy = shot(4, 150, 66);
  const channels = [0, 1, 2, 3].map((k) => shot(82 + 69 * k, 150, 66));
  put(view, 4, 250, "own picture");
  put(view, 124, 250, "state exchanged");
  put(view, 250, 250, "other noise");
  const trio = [4, 126, 248].map((x) => shot(x, 258, 106));
  const worth = put(view, 4, 382, "", { fill: QUIET });

  /** Choose a part; the bottleneck has no encoder block of its own. */
  function go(k, j, focus = false) {
    [rung, side] = [k, boxes[k][j] ? j : 1];
    [at.value, part.value] = [rung + 1, side];
    at.nextElementSibling.textContent = rung + 1;
    draw();
    if (focus) boxes[rung][side].focus();
  }

  function draw() {
    const { shape, names, parameters, attends, moved } = data.rungs[rung];
    const [d, h, w] = shape, size = d * h * w, total = parameters.reduce((a, b) => a + b);
    boxes.forEach((row, k) => row.forEach((box, j) => {
      const chosen = k === rung && j === side;
      box?.setAttribute("aria-checked", chosen);
      box?.setAttribute("tabindex", chosen ? 0 : -1);
      const rect = box?.firstChild;
      rect?.setAttribute("stroke", chosen ? TEXT : CARD);
      rect?.setAttribute("stroke-width", chosen ? 4 : 0);
    }));
    title.textContent = `Rung ${rung + 1}: ${side === 1 ? "A, " : ""}${names[side]}`
      + (side !== 1 && attends[side / 2] ? ", with attention" : "");
    facts[0].textContent = `${thousands(parameters[side])} parameters`
      + (side === 1 ? ", one for each number" : "");
    facts[1].textContent = [`writes a state of ${d} channels, ${h} \u00d7 ${w}`,
      `moves ${thousands(size / 2)} pairs (p, q), each by its own \u03b1, \u03b2`,
      `reads the evolved state, ${thousands(size)} numbers`][side];
    let x = 4;
    bar.replaceChildren();
    parameters.forEach((count, j) => {
      const width = (count / total) * 352;
      bar.append(svg("rect", { x, y: 72, width, height: 16, fill: [GOLD, ORANGE, QUIET][j], opacity: j === side ? 1 : 0.45 }));
      x += width;
    });
    put(bar, 4, 105, parameters.map((c, j) => `${["encoder", "A", "decoder"][j]} ${((100 * c) / total).toFixed(1)} %`).join(",  "));
    level.textContent = `x at \u03c3 = ${data.sigmas[time]}, and four channels (rms ${data.rms[rung][time].toFixed(2)})`;
    noisy.setAttribute("href", picture(path.subarray(3072 * time, 3072 * (time + 1)), 32));
    channels.forEach((image, c) => image.setAttribute("href",
      picture(maps[rung].subarray((4 * time + c) * h * w, (4 * time + c + 1) * h * w), h)));
    [0, rung + 2, 1].forEach((k, j) => trio[j].setAttribute("href", picture(swaps.subarray(3072 * k, 3072 * (k + 1)), 32)));
    worth.textContent = `moves the picture ${(100 * moved).toFixed(1)} % of the way to the other`;
    note.textContent = `Rung ${rung + 1} of ${last + 1}, ${SIDES[side]}: ${names[side]}, `
      + `${facts[0].textContent}. It ${facts[1].textContent}.`;
  }
  draw();
}
