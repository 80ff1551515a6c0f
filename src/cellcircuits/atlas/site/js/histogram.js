// A histogram of activations as SVG, with bins of equal width on a logarithmic axis, and the same numbers as text.

import { element, svg } from "./dom.js";
import { count, number, percent } from "./format.js";

const SIZE = { width: 460, height: 170, left: 44, bottom: 34, top: 10, right: 8 };
const TICKS = 5;

/** Bins from the first to the last that holds anything, with the empty ones between them. */
function filled(bins) {
  const ratio = bins[0].high / bins[0].low;
  const found = [];
  for (const bin of bins) {
    let last = found.at(-1);
    while (last && bin.low > last.high * 1.01) {
      last = { low: last.high, high: last.high * ratio, n_positions: 0 };
      found.push(last);
    }
    found.push(bin);
  }
  return found;
}

/** The drawing; `bins` are {low, high, n_positions} in order, `mean` is marked. */
export function activationHistogram(bins, mean) {
  const shown = filled(bins);
  const most = Math.max(...shown.map((bin) => bin.n_positions));
  const total = shown.reduce((sum, bin) => sum + bin.n_positions, 0);
  const inner = { width: SIZE.width - SIZE.left - SIZE.right, height: SIZE.height - SIZE.top - SIZE.bottom };
  const step = inner.width / shown.length;
  const base = SIZE.top + inner.height;
  const x = (value) => SIZE.left + (Math.log(value / shown[0].low) / Math.log(shown[0].high / shown[0].low)) * step;
  const bars = shown.map((bin, i) => {
    const height = (bin.n_positions / most) * inner.height;
    const text = `${number(bin.low)} to ${number(bin.high)}: ${count(bin.n_positions)} positions`;
    const box = { x: SIZE.left + i * step + 0.5, y: base - height, width: Math.max(1, step - 1), height };
    return svg("rect", { class: "bar", ...box }, svg("title", {}, text));
  });
  const every = Math.max(1, Math.ceil(shown.length / TICKS));
  const ticks = shown
    .filter((_, i) => i % every === 0)
    .map((bin) => svg("text", { x: x(bin.low), y: base + 15, "text-anchor": "middle" }, number(bin.low, 2)));
  const text = { "text-anchor": "end", x: SIZE.left - 6 };
  const label = `Histogram of ${count(total)} activations from ${number(shown[0].low)} to ${number(shown.at(-1).high)}`;
  const drawing = svg(
    "svg",
    { class: "histogram", viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "img", "aria-label": label },
    svg("line", { class: "axis", x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: base, y2: base }),
    ...bars,
    mean > 0 && svg("line", { class: "mark", x1: x(mean), x2: x(mean), y1: SIZE.top, y2: base }),
    svg("text", { ...text, y: SIZE.top + 9 }, count(most)),
    svg("text", { ...text, y: base }, "0"),
    ...ticks,
    svg("text", { x: SIZE.left + inner.width / 2, y: SIZE.height - 3, "text-anchor": "middle" }, "activation (log scale)"),
  );
  const strongest = shown.at(-1);
  const note =
    `Gene positions by activation where the feature is active; the dashed line is the mean, ${number(mean)}. ` +
    `${percent(strongest.n_positions / total)} lie in the highest bin, ${number(strongest.low)} to ${number(strongest.high)}.`;
  return element("div", { class: "panel" }, drawing, element("p", { class: "small muted" }, note));
}
