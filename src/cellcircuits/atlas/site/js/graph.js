// Draws features in columns by layer, with the edges between them, as SVG.

import { svg } from "./dom.js";
import { circuitAddress, geneList, number, signOf } from "./format.js";
import { layout, NODE } from "./layout.js";

const TEXT = { inset: 9, size: "12px" };

const strength = (edge) => (edge.snr === null ? 0 : Math.abs(edge.snr));

/** A function that cuts a text where it would leave a box. */
function shortener() {
  const ruler = document.createElement("canvas").getContext("2d");
  ruler.font = `${TEXT.size} ${getComputedStyle(document.body).fontFamily}`;
  const room = NODE.width - 2 * TEXT.inset;
  return (text) => {
    const letters = [...text].slice(0, 80);
    if (letters.length === [...text].length && ruler.measureText(text).width <= room) return text;
    while (letters.length && ruler.measureText(`${letters.join("")}…`).width > room) letters.pop();
    return `${letters.join("").trimEnd()}…`;
  };
}

function drawEdge(edge, line, strongest, listeners) {
  const { kind, word } = signOf(edge.mean_delta);
  const share = strongest > 0 && Number.isFinite(edge.snr) ? strength(edge) / strongest : 1;
  return svg(
    "g",
    { class: `edge ${kind}`, "data-key": edge.key, on: listeners },
    svg("title", {}, `${edge.source} ${word} ${edge.target}, snr ${number(edge.snr)}`),
    svg("path", { class: "touch", d: line }),
    svg("path", { class: "line", d: line, "stroke-width": (1 + 3 * share).toFixed(2) }),
  );
}

function drawNode(node, { x, y }, isCentre, shorten, listeners) {
  const text = node.label || geneList(node.genes ?? "", 3).join(", ") || "no label";
  const attributes = {
    class: isCentre ? "node centre" : "node",
    href: circuitAddress(node.layer, node.feature),
    "data-name": node.name,
    "aria-label": `${node.name}, ${text}${isCentre ? ", the feature in the middle of this circuit" : ""}`,
    on: listeners,
  };
  return svg(
    "a",
    attributes,
    svg("title", {}, `${node.name}: ${text}`),
    svg("rect", { x, y, width: NODE.width, height: NODE.height, rx: 6 }),
    svg("text", { class: "name", x: x + TEXT.inset, y: y + 17 }, node.name),
    svg("text", { class: node.label ? "text" : "text unlabelled", x: x + TEXT.inset, y: y + 33 }, shorten(text)),
  );
}

/** Show one feature or edge as the chosen one and the rest pale; null shows all alike. */
export function highlight(drawing, chosen, edges) {
  drawing.classList.toggle("choosing", chosen !== null);
  const near = new Set([chosen]);
  for (const group of drawing.querySelectorAll(".edge")) {
    const edge = edges.get(group.dataset.key);
    const on = chosen !== null && [edge.key, edge.source, edge.target].includes(chosen);
    group.classList.toggle("on", on);
    if (on) near.add(edge.source).add(edge.target);
  }
  for (const node of drawing.querySelectorAll(".node")) node.classList.toggle("on", near.has(node.dataset.name));
}

/**
 * The drawing of a neighbourhood.
 *
 * found: nodes by name and edges by key; centre: name of the feature in the middle; room: the width it may use before it
 * scrolls; onChoose: called with the name or key of what the reader points at or moves the focus to, or with null.
 */
export function drawGraph(found, centre, room, onChoose) {
  const nodes = [...found.nodes.values()].sort((a, b) => a.layer - b.layer || a.feature - b.feature);
  const edges = [...found.edges.values()].sort((a, b) => strength(a) - strength(b));
  const { corner, line, heads, width, height } = layout(nodes, edges, room);
  const strongest = Math.max(0, ...edges.map(strength).filter(Number.isFinite));
  const shorten = shortener();
  const point = (what) => ({ mouseenter: () => onChoose(what), mouseleave: () => onChoose(null) });
  const reach = (what) => ({ ...point(what), focus: () => onChoose(what), blur: () => onChoose(null) });
  // in reading order, so that the Tab key moves down each column
  const inOrder = [...nodes].sort((a, b) => a.layer - b.layer || corner.get(a.name).y - corner.get(b.name).y);
  return svg(
    "svg",
    {
      class: "graph",
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "group",
      "aria-label": "Circuit, by layer",
    },
    ...heads.map(({ layer, x }) =>
      svg("text", { class: "layer", x, y: 20, "text-anchor": "middle" }, `Layer ${layer}`),
    ),
    svg("g", {}, ...edges.map((edge) => drawEdge(edge, line.get(edge.key), strongest, point(edge.key)))),
    svg(
      "g",
      {},
      ...inOrder.map((node) => drawNode(node, corner.get(node.name), node.name === centre, shorten, reach(node.name))),
    ),
  );
}
