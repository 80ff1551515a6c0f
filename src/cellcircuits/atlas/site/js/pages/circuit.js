// The circuit around one feature: a drawing by layer, and the same edges as a table.

import { loadRows } from "../data.js";
import { append, element, emptyState, field, heading, select } from "../dom.js";
import { edgeMeanings, endColumn, numberColumns } from "../edgetable.js";
import * as format from "../format.js";
import { drawGraph, highlight } from "../graph.js";
import { neighbourhood } from "../neighbourhood.js";
import { dataTable } from "../table.js";
import { featureOfRoute } from "./feature.js";

const { count, counted, number, percent, probability } = format;

const CHOICES = {
  depth: [
    [1, "1 step"],
    [2, "2 steps"],
  ],
  limit: [4, 8, 12, 20, 40].map((n) => [n, `${n} strongest`]),
  sign: [
    ["all", "Both signs"],
    ["supports", "▼ supports only"],
    ["opposes", "▲ opposes only"],
  ],
};

function readOptions(query) {
  const chosen = (name, fallback) => {
    const value = CHOICES[name].map(([v]) => v).find((v) => String(v) === query.get(name));
    return value ?? fallback;
  };
  const depth = chosen("depth", 1);
  // two steps multiply, so fewer edges of each feature keep the drawing readable
  const limit = chosen("limit", depth === 2 ? 4 : 12);
  const snr = Number(query.get("snr") ?? 0);
  return { depth, limit, sign: chosen("sign", "all"), snr: snr >= 0 ? snr : 0 };
}

function controls(feature, options) {
  const go = (changed) => {
    const query = new URLSearchParams(Object.entries({ ...options, ...changed }).map(([k, v]) => [k, String(v)]));
    if ("depth" in changed) query.delete("limit");
    location.hash = `${format.circuitAddress(feature.layer, feature.feature)}?${query}`;
  };
  const choice = (name, title) =>
    field(
      title,
      select(CHOICES[name], options[name], (value) => go({ [name]: value })),
    );
  const snr = element("input", {
    type: "number",
    min: 0,
    step: 0.1,
    value: options.snr,
    on: { change: (event) => go({ snr: Math.max(0, Number(event.target.value) || 0) }) },
  });
  return element(
    "div",
    { class: "controls" },
    choice("depth", "Follow edges for"),
    choice("limit", "Edges per feature and direction"),
    field("Smallest |snr|", snr),
    choice("sign", "Sign"),
  );
}

const mute = (text) => element("span", { class: "muted" }, text);

function edgeDetails(edge) {
  return [
    element("p", {}, element("strong", {}, `${edge.source} → ${edge.target} `), format.signBadge(edge.mean_delta)),
    element(
      "p",
      {},
      `Effect ${number(edge.mean_delta)} (${percent(edge.relative_effect)} of the clean activation), snr ` +
        `${number(edge.snr)}, ${percent(edge.sign_agreement)} of responding cells agree in sign, q ` +
        `${probability(edge.q_value)}, ${count(edge.n_cells)} cells.`,
    ),
  ];
}

function nodeDetails(node, edges) {
  const [into, out] = ["target", "source"].map((end) => edges.filter((edge) => edge[end] === node.name).length);
  const genes = format.geneList(node.genes ?? "", 6).join(", ");
  return [
    element("p", {}, element("strong", {}, `${node.name} `), node.label || mute("no label")),
    element("p", {}, genes ? `Top genes: ${genes}. ` : "", `Edges drawn here: ${count(into)} in, ${count(out)} out.`),
  ];
}

const HINT =
  "Point at a feature or an edge, or move to a feature with the Tab key. A click draws the circuit of that feature.";

function graphPart(found, centre, room) {
  const details = element("div", { class: "details" }, mute(HINT));
  let drawing = null;
  const choose = (what) => {
    highlight(drawing, what, found.edges);
    const [node, edge] = [found.nodes.get(what), found.edges.get(what)];
    const content = node ? nodeDetails(node, [...found.edges.values()]) : edge ? edgeDetails(edge) : [mute(HINT)];
    details.replaceChildren(...content);
  };
  drawing = drawGraph(found, centre, room, choose);
  const frame = element("div", { class: "graph-frame" }, drawing);
  const box = drawing.querySelector(".centre rect");
  const middle = Number(box.getAttribute("x")) + Number(box.getAttribute("width")) / 2;
  // the frame has no width, hence nothing to scroll, before it is part of the page
  const watcher = new ResizeObserver(() => {
    if (!frame.clientWidth) return;
    frame.scrollLeft = middle - frame.clientWidth / 2;
    watcher.disconnect();
  });
  watcher.observe(frame);
  return { box: element("div", { class: "graph-box" }, frame, details), choose };
}

function edgeList(found, choose) {
  const end = (name) => (edge) => found.nodes.get(edge[name]);
  const columns = [
    endColumn("source", "Source", end("source")),
    endColumn("target", "Target", end("target")),
    ...numberColumns(true),
  ];
  const onRow = (edge) => ({
    mouseenter: () => choose(edge.key),
    mouseleave: () => choose(null),
    focusin: () => choose(edge.key),
    focusout: () => choose(null),
  });
  const rows = [...found.edges.values()];
  const caption = "The edges of the drawing";
  return dataTable({ caption, columns, rows, sort: "snr", descending: true, perPage: 15, onRow }).box;
}

function startList(title, hubs) {
  const items = hubs.slice(0, 12).map((hub) => {
    const address = format.circuitAddress(hub.layer, hub.feature);
    const link = element("a", { class: "feature", href: address }, format.featureName(hub.layer, hub.feature));
    return element("li", {}, link, " ", hub.label || mute("no label"), mute(`, ${counted(hub.degree, "edge")}`));
  });
  return element("section", {}, element("h2", {}, title), element("ul", { class: "starts" }, ...items));
}

async function startPage(view) {
  append(view, heading("Circuits"));
  const hubs = await loadRows("hubs.json.gz");
  const start = "A circuit is drawn around one feature. Open a feature and choose “Draw its circuit”";
  if (!hubs.length) {
    append(view, emptyState(`${start}, or search above.`));
    return "Circuits";
  }
  const lists = [
    startList(
      "Sources with the most targets",
      hubs.filter(({ direction }) => direction === "out"),
    ),
    startList(
      "Targets with the most sources",
      hubs.filter(({ direction }) => direction === "in"),
    ),
  ];
  append(
    view,
    element("p", {}, `${start}, search above, or start from one with many edges.`),
    element("div", { class: "two" }, ...lists),
  );
  return "Circuits";
}

function drawnText(found, name) {
  const left = found.left ? ` Weaker edges that pass the filters but were not followed: ${count(found.left)}.` : "";
  const [features, edges] = [counted(found.nodes.size, "feature"), counted(found.edges.size, "edge")];
  return `${features} and ${edges}, followed outward from ${name}.${left}`;
}

/** The page. */
export async function render(view, { parts, query }) {
  if (!parts.length || !parts[0]) return startPage(view);
  const feature = await featureOfRoute(parts);
  const options = readOptions(query);
  const name = format.featureName(feature.layer, feature.feature);
  const found = await neighbourhood(feature, options);
  append(
    view,
    heading(`Circuit around ${name} `, format.headingLabel(feature.label)),
    element(
      "p",
      {},
      element("a", { class: "action", href: format.featureAddress(feature.layer, feature.feature) }, "Open its page"),
    ),
    controls(feature, options),
  );
  if (!found.edges.size) {
    const any = feature.n_out + feature.n_in > 0;
    const advice = any
      ? "Lower the smallest |snr|, or show both signs."
      : "This feature has no edges at all; choose another one.";
    append(view, emptyState(`No edge passes these filters. ${advice}`));
    return `Circuit ${name}`;
  }
  const graph = graphPart(found, name, document.getElementById("main").clientWidth - 48);
  const legend = element(
    "p",
    { class: "legend" },
    element("span", { class: "sign supports" }, "▼ supports"),
    " solid line ",
    element("span", { class: "sign opposes" }, "▲ opposes"),
    " dashed line; the thicker, the larger |snr|",
  );
  append(
    view,
    element("p", { role: "status" }, drawnText(found, name)),
    legend,
    graph.box,
    edgeList(found, graph.choose),
  );
  append(view, await edgeMeanings());
  return `Circuit ${name}`;
}
