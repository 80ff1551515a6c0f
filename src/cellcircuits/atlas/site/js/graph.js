// Draws features in columns by layer, with the edges between them, as SVG.

import { svg } from "./dom.js";
import { geneList, number, signOf } from "./format.js";
import { layout, NODE } from "./layout.js";
import { strength } from "./neighbourhood.js";

const TEXT = { inset: 9, size: "12px" };

/** Whether most of an edge's effect is the removed vector persisting, rather than computed by the blocks between. */
export function isPassThrough(edge) {
  return edge.computed_share !== null && edge.computed_share !== undefined && edge.computed_share < 0.5;
}

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

/** The ends of lines: a filled triangle for support, an open circle for opposition, so that colour is not needed. */
function markers() {
  const frame = { viewBox: "0 0 10 10", refX: 9, refY: 5, markerUnits: "userSpaceOnUse", orient: "auto" };
  const triangle = svg("path", { d: "M0,0 L10,5 L0,10 Z", class: "supports-end" });
  const circle = svg("circle", { cx: 5, cy: 5, r: 3.6, class: "opposes-end" });
  return svg(
    "defs",
    {},
    svg("marker", { id: "end-supports", ...frame, markerWidth: 10, markerHeight: 10 }, triangle),
    svg("marker", { id: "end-opposes", ...frame, markerWidth: 10, markerHeight: 10 }, circle),
  );
}

function drawEdge(edge, line, strongest, listeners) {
  const { kind, word } = signOf(edge.mean_delta);
  const share = strongest > 0 && Number.isFinite(edge.snr) ? strength(edge) / strongest : 1;
  const end = kind === "none" ? null : `url(#end-${kind})`;
  return svg(
    "g",
    { class: `edge ${kind}${isPassThrough(edge) ? " passing" : ""}`, "data-key": edge.key, on: listeners },
    svg("title", {}, `${edge.source} ${word} ${edge.target}, snr ${number(edge.snr)}`),
    svg("path", { class: "touch", d: line }),
    svg("path", { class: "line", d: line, "stroke-width": (1 + 3 * share).toFixed(2), "marker-end": end }),
  );
}

function drawNode(node, { x, y }, shorten, pinned, listeners) {
  const text = node.label || geneList(node.genes ?? "", 3).join(", ") || "no label";
  const isStart = node.step === 0;
  const attributes = {
    class: isStart ? "node centre" : "node",
    role: "button",
    tabindex: 0,
    "aria-pressed": String(pinned),
    "data-name": node.name,
    "aria-label": `${node.name}, ${text}${isStart ? ", where this circuit starts" : ""}`,
    on: listeners,
  };
  return svg(
    "g",
    attributes,
    svg("title", {}, `${node.name}: ${text}`),
    svg("rect", { x, y, width: NODE.width, height: NODE.height, rx: 6 }),
    svg("text", { class: "name", x: x + TEXT.inset, y: y + 17 }, node.name),
    svg("text", { class: node.label ? "text" : "text unlabelled", x: x + TEXT.inset, y: y + 33 }, shorten(text)),
    svg("text", { class: "pin", x: x + NODE.width - TEXT.inset, y: y + 17, "text-anchor": "end" }, pinned ? "◆" : ""),
  );
}

/** Show some features and edges (names and keys) as the chosen ones and the rest pale; none shows all alike. */
export function highlight(drawing, chosen, edges) {
  drawing.classList.toggle("choosing", chosen.size > 0);
  const near = new Set(chosen);
  for (const group of drawing.querySelectorAll(".edge")) {
    const edge = edges.get(group.dataset.key);
    const on = [edge.key, edge.source, edge.target].some((name) => chosen.has(name));
    group.classList.toggle("on", on);
    if (on) near.add(edge.source).add(edge.target);
  }
  for (const node of drawing.querySelectorAll(".node")) node.classList.toggle("on", near.has(node.dataset.name));
}

/** Show which features are pinned. */
export function markPinned(drawing, pinned) {
  for (const node of drawing.querySelectorAll(".node")) {
    const on = pinned.has(node.dataset.name);
    node.setAttribute("aria-pressed", String(on));
    node.querySelector(".pin").textContent = on ? "◆" : "";
  }
}

/**
 * The drawing of a neighbourhood.
 *
 * found: nodes by name and edges by key; pinned: names; room: the width it may use before it scrolls; onChoose: called
 * with the name or key of what the reader points at or moves the focus to, or with null; onPin: called with a name.
 */
export function drawGraph(found, pinned, room, onChoose, onPin) {
  const nodes = [...found.nodes.values()].sort((a, b) => a.layer - b.layer || a.feature - b.feature);
  const edges = [...found.edges.values()].sort((a, b) => strength(a) - strength(b));
  const { corner, line, heads, width, height } = layout(nodes, edges, room);
  const strongest = Math.max(0, ...edges.map(strength).filter(Number.isFinite));
  const shorten = shortener();
  const point = (what) => ({ mouseenter: () => onChoose(what), mouseleave: () => onChoose(null) });
  const press = (event, name) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault(); // the space bar would scroll
    onPin(name);
  };
  const reach = (name) => ({
    ...point(name),
    focus: () => onChoose(name),
    blur: () => onChoose(null),
    click: () => onPin(name),
    keydown: (event) => press(event, name),
  });
  // in reading order, so that the Tab key moves down each column
  const inOrder = [...nodes].sort((a, b) => a.layer - b.layer || corner.get(a.name).y - corner.get(b.name).y);
  const size = { viewBox: `0 0 ${width} ${height}`, width, height };
  return svg(
    "svg",
    { class: "graph", ...size, role: "group", "aria-label": "Circuit, by layer" },
    markers(),
    ...heads.map(({ layer, x }) =>
      svg("text", { class: "layer", x, y: 20, "text-anchor": "middle" }, `Layer ${layer}`),
    ),
    svg("g", {}, ...edges.map((edge) => drawEdge(edge, line.get(edge.key), strongest, point(edge.key)))),
    svg(
      "g",
      {},
      ...inOrder.map((node) =>
        drawNode(node, corner.get(node.name), shorten, pinned.has(node.name), reach(node.name)),
      ),
    ),
  );
}
