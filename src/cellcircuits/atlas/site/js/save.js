// Saves what is drawn: pictures (SVG, PNG) and graphs (GraphML, JSON), made in the browser from what the page holds.

import { svg } from "./dom.js";

const DRAWN = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-family", "font-size", "font-weight"];
const PNG_SCALE = 2;

/** Hand a file to the reader. */
export function saveFile(name, type, content) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A drawing as SVG text that needs no style sheet: what the style makes of it stands in its attributes. */
export function standaloneSvg(drawing) {
  const copy = drawing.cloneNode(true);
  const [originals, copies] = [drawing, copy].map((root) => [root, ...root.querySelectorAll("*")]);
  originals.forEach((node, i) => {
    const style = getComputedStyle(node);
    for (const name of DRAWN) copies[i].setAttribute(name, style.getPropertyValue(name));
    for (const name of ["class", "tabindex", "role", "aria-pressed", "aria-label"]) copies[i].removeAttribute(name);
  });
  const ground = getComputedStyle(drawing.closest(".graph-box") ?? document.body).backgroundColor;
  copy.querySelector("defs")?.after(svg("rect", { width: "100%", height: "100%", fill: ground }));
  return new XMLSerializer().serializeToString(copy);
}

/** Save a drawing as SVG. */
export function saveSvg(drawing, name) {
  saveFile(`${name}.svg`, "image/svg+xml", standaloneSvg(drawing));
}

/** Save a drawing as PNG of twice its size on the page. */
export async function savePng(drawing, name) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(standaloneSvg(drawing))}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = drawing.width.baseVal.value * PNG_SCALE;
  canvas.height = drawing.height.baseVal.value * PNG_SCALE;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  saveFile(`${name}.png`, "image/png", blob);
}

const plainEdge = ({ key, source, target, other, other_label, other_genes, ...numbers }) => numbers;
const plainNode = ({ name, layer, feature, label, genes, step }) => ({ id: name, layer, feature, label, genes, step });

/** A circuit as plain values: {about, nodes, edges}; edges name their ends by id. */
export function circuitJson(found, about) {
  const nodes = [...found.nodes.values()].map(plainNode);
  const edges = [...found.edges.values()].map((edge) => {
    return { source: edge.source, target: edge.target, ...plainEdge(edge) };
  });
  return { about, nodes, edges };
}

/** A circuit as GraphML, for Gephi, Cytoscape, yEd and networkx. */
export function circuitGraphml(found, about) {
  const space = "http://graphml.graphdrawing.org/xmlns";
  const xml = document.implementation.createDocument(space, "graphml");
  const make = (tag, attributes, text) => {
    const node = xml.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const { nodes, edges } = circuitJson(found, about);
  const graph = make("graph", { edgedefault: "directed", id: "circuit" });
  const keys = new Map();
  const data = (owner, domain, name, value) => {
    if (value === null || value === undefined || (typeof value === "number" && !Number.isFinite(value))) return;
    const type = { number: "double", boolean: "boolean" }[typeof value] ?? "string";
    keys.set(`${domain}-${name}`, make("key", { id: `${domain}-${name}`, for: domain, "attr.name": name, "attr.type": type }));
    owner.append(make("data", { key: `${domain}-${name}` }, String(value)));
  };
  for (const { id, ...values } of nodes) {
    const node = make("node", { id });
    for (const [name, value] of Object.entries(values)) data(node, "node", name, value);
    graph.append(node);
  }
  for (const { source, target, ...values } of edges) {
    const edge = make("edge", { source, target });
    for (const [name, value] of Object.entries(values)) data(edge, "edge", name, value);
    graph.append(edge);
  }
  xml.documentElement.append(...keys.values(), graph);
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(xml)}`;
}
