// Injection by hand: which model, which pair of pictures, which band of the reference, how much of it, and the noise level
// at which the states are decoded. Every picture was decoded in the notebook and lies in one sheet of tiles; here only the
// tile is chosen. Tiles run over models, pairs, bands, ratios, levels; after them, over models, pairs and levels, the reference.
import { choice, html, layout, slider, svg } from "./stage.mjs";

export function mount(root, { sheet, columns, tile, models, pairs, bands, ratios, levels, low, start }) {
  const { controls, panels, note } = layout(root);
  let { model, pair, band, ratio, level } = start;
  const edited = models.length * pairs.length * bands.length * ratios.length * levels.length;
  const rows = Math.ceil((edited + models.length * pairs.length * levels.length) / columns);

  choice(controls, { label: "model", options: models, value: model }, (k) => { model = k; draw(); });
  choice(controls, { label: "pair", options: pairs, value: pair }, (k) => { pair = k; draw(); });
  choice(controls, { label: "band", options: bands, value: band }, (k) => { band = k; draw(); });
  slider(controls, { label: "mixing ratio", min: 0, max: ratios.length - 1, step: 1, value: ratio, text: (k) => `${ratios[k]} %` },
    (k) => { ratio = k; draw(); });
  slider(controls, { label: "noise level", min: 0, max: levels.length - 1, step: 1, value: level, text: (k) => levels[k] },
    (k) => { level = k; draw(); });

  /** One picture with a caption; show(k) moves its window to tile k of the sheet. */
  function picture(words) {
    const view = svg("svg", { viewBox: "0 0 1 1", role: "img", "aria-label": words, style: "width: 100%; display: block" });
    view.append(svg("image", { href: sheet, width: columns * tile, height: rows * tile, style: "image-rendering: pixelated" }));
    const caption = html("figcaption", { style: "text-align: center; margin-top: .2rem" }, words);
    panels.append(html("figure", { style: "flex: 1 1 6rem; max-width: 13rem; margin: 0" }, view, caption));
    return (k) => view.setAttribute("viewBox", `${(k % columns) * tile} ${Math.floor(k / columns) * tile} ${tile} ${tile}`);
  }

  panels.style.flexWrap = "nowrap";
  const [before, after, wish] = ["generated", "edited", "reference"].map(picture);
  function draw() {
    const place = ((model * pairs.length + pair) * bands.length + band) * ratios.length * levels.length;
    before(place + level);
    after(place + ratio * levels.length + level);
    wish(edited + (model * pairs.length + pair) * levels.length + level);
    const part = low[model][pair][band][ratio][level];
    note.textContent = ratios[ratio] === 0 ? "Nothing is mixed in: the edited picture is the generated one, to the bit."
      : `${ratios[ratio]} % of the reference's ${bands[band]}. Of the change in what is shown, ${part} % is at low frequencies.`;
  }
  draw();
}
