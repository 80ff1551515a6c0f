// The circuit around a feature, a gene or a program: a drawing by layer, and the same edges as a table.

import { optionControls, readOptions, readPinned, writeOptions } from "../circuitoptions.js";
import { loadHubs, startOfRoute } from "../circuitstart.js";
import { loadContents } from "../data.js";
import { append, element, emptyState, heading } from "../dom.js";
import { controlBadge, edgeMeanings, endColumn, numberColumns } from "../edgetable.js";
import * as format from "../format.js";
import { drawGraph, highlight, markPinned } from "../graph.js";
import { neighbourhood } from "../neighbourhood.js";
import { address, currentRun } from "../runs.js";
import { circuitGraphml, circuitJson, saveFile, savePng, saveSvg } from "../save.js";
import { dataTable } from "../table.js";

const { count, counted, number, percent, probability } = format;
const mute = (text) => element("span", { class: "muted" }, text);

function edgeDetails(edge) {
  const share = edge.computed_share === null ? "" : `, ${percent(edge.computed_share)} of it computed`;
  const sentence =
    `Effect ${number(edge.mean_delta)} (${percent(edge.relative_effect)} of the clean activation${share}), snr ` +
    `${number(edge.snr)} (${number(edge.snr_low)} to ${number(edge.snr_high)}), ${percent(edge.sign_agreement)} of ` +
    `responding cells agree in sign, q ${probability(edge.q_value)}, ${count(edge.n_cells)} cells; random directions: `;
  return [
    element("p", {}, element("strong", {}, `${edge.source} → ${edge.target} `), format.signBadge(edge.mean_delta)),
    element("p", {}, sentence, controlBadge(edge), edge.specific_z === null ? "" : `, z ${number(edge.specific_z)}`),
  ];
}

function nodeDetails(node, edges) {
  const [into, out] = ["target", "source"].map((end) => edges.filter((edge) => edge[end] === node.name).length);
  const genes = format.geneList(node.genes ?? "", 6).join(", ");
  const link = (href, text) => element("a", { class: "action", href }, text);
  return [
    element("p", {}, element("strong", {}, `${node.name} `), node.label || mute("no label")),
    element("p", {}, genes ? `Top genes: ${genes}. ` : "", `Edges drawn here: ${count(into)} in, ${count(out)} out.`),
    element(
      "p",
      { class: "actions" },
      link(format.featureAddress(node.layer, node.feature), "Open its page"),
      link(format.circuitAddress(node.layer, node.feature), "Draw its circuit"),
    ),
  ];
}

const HINT =
  "Point at a feature or an edge, or move to a feature with the Tab key, to read about it. A click or Enter pins a " +
  "feature: its edges stay marked, and the address keeps it.";

/** The drawing with its details; `onPinned` is called when the pinned features change. */
function graphPart(found, pinned, room, onPinned) {
  const details = element("div", { class: "details", "aria-live": "polite" });
  let drawing = null;
  let last = [...pinned].at(-1) ?? null;
  const choose = (what) => {
    highlight(drawing, new Set(what ? [what] : pinned), found.edges);
    const shown = what ?? last;
    const [node, edge] = [found.nodes.get(shown), found.edges.get(shown)];
    const content = node ? nodeDetails(node, [...found.edges.values()]) : edge ? edgeDetails(edge) : [mute(HINT)];
    details.replaceChildren(...content);
  };
  const pin = (name) => {
    if (!pinned.delete(name)) pinned.add(name);
    last = pinned.has(name) ? name : ([...pinned].at(-1) ?? null);
    markPinned(drawing, pinned);
    choose(null);
    onPinned();
  };
  drawing = drawGraph(found, pinned, room, choose, pin);
  choose(null);
  const frame = element("div", { class: "graph-frame", tabindex: 0, role: "region", "aria-label": "Drawing" }, drawing);
  scrollTo(frame, drawing.querySelector(".centre rect"));
  return { box: element("div", { class: "graph-box" }, frame, details), choose, drawing };
}

/** Scroll to a box once the frame is part of the page: before, it has no width and nothing to scroll. */
function scrollTo(frame, box) {
  const middle = Number(box.getAttribute("x")) + Number(box.getAttribute("width")) / 2;
  const watcher = new ResizeObserver(() => {
    if (!frame.clientWidth) return;
    frame.scrollLeft = middle - frame.clientWidth / 2;
    watcher.disconnect();
  });
  watcher.observe(frame);
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

function saveButtons(found, drawing, start) {
  const name = start.path.replace(/[^\p{L}\p{N}]+/gu, "_").slice(0, 80);
  const about = () => ({ run: currentRun().name, address: location.href, start: start.title, label: start.label });
  const actions = {
    PNG: () => savePng(drawing, name),
    SVG: () => saveSvg(drawing, name),
    GraphML: () => saveFile(`${name}.graphml`, "application/xml", circuitGraphml(found, about())),
    JSON: () => saveFile(`${name}.json`, "application/json", JSON.stringify(circuitJson(found, about()), null, 1)),
  };
  const buttons = Object.entries(actions).map(([text, click]) =>
    element("button", { type: "button", on: { click }, "aria-label": `Save this circuit as ${text}` }, text),
  );
  return element("p", { class: "actions" }, mute("Save as"), ...buttons);
}

function startList(title, hubs) {
  const items = hubs.slice(0, 12).map((hub) => {
    const href = format.circuitAddress(hub.layer, hub.feature);
    const link = element("a", { class: "feature", href }, format.featureName(hub.layer, hub.feature));
    return element("li", {}, link, " ", hub.label || mute("no label"), mute(`, ${counted(hub.degree, "edge")}`));
  });
  return element("section", {}, element("h2", {}, title), element("ul", { class: "starts" }, ...items));
}

async function startPage(view) {
  append(view, heading("Circuits"));
  const hubs = await loadHubs();
  const start = "A circuit is drawn around a feature, a gene or a program: open one and choose “Draw its circuit”";
  if (!hubs.length) {
    append(view, emptyState(`${start}, or search above.`));
    return "Circuits";
  }
  const of = (wanted) => hubs.filter(({ direction }) => direction === wanted);
  const lists = [startList("Sources with the most targets", of("out")), startList("Targets with the most sources", of("in"))];
  append(
    view,
    element("p", {}, `${start}, search above, or start from one with many edges.`),
    element("div", { class: "two" }, ...lists),
  );
  return "Circuits";
}

function drawnText(found, start) {
  const left = found.left ? ` Weaker edges that pass the filters but were not followed: ${count(found.left)}.` : "";
  const part =
    start.total > start.nodes.length ? ` It starts from ${count(start.nodes.length)} of ${count(start.total)} features.` : "";
  return `${counted(found.nodes.size, "feature")} and ${counted(found.edges.size, "edge")}.${part}${left}`;
}

function legend() {
  return element(
    "p",
    { class: "legend" },
    element("span", { class: "sign supports" }, "▼ supports"),
    " solid line, filled end ",
    element("span", { class: "sign opposes" }, "▲ opposes"),
    " dashed line, open end; the thicker, the larger |snr|; pale: more than half of the effect is the removed vector " +
      "passing through",
  );
}

/** The page. */
export async function render(view, { parts, query }) {
  if (!parts.length || !parts[0]) return startPage(view);
  const [start, contents] = await Promise.all([startOfRoute(parts), loadContents()]);
  const many = start.nodes.length > 1;
  const [options, pinned] = [readOptions(query, many), readPinned(query)];
  const target = (changed) => {
    const next = { ...options, ...changed };
    if ("depth" in changed) next.limit = readOptions(new URLSearchParams({ depth: String(next.depth) }), many).limit;
    const written = writeOptions(next, pinned, many);
    return address(written.size ? `${start.path}?${written}` : start.path);
  };
  const found = await neighbourhood(start.nodes, options);
  const change = (changed) => {
    location.hash = target(changed);
  };
  append(
    view,
    heading(`${start.title} `, start.label || parts[0] !== "gene" ? format.headingLabel(start.label) : ""),
    element("p", {}, element("a", { class: "action", href: start.page[0] }, start.page[1])),
    optionControls(options, contents.known, change),
  );
  if (!found.edges.size) {
    const lower = "Lower the cut-offs, follow both directions, or show both signs.";
    const none = "There are no edges here at all; choose another feature, gene or program.";
    append(view, emptyState(`No edge passes these filters. ${start.hasEdges ? lower : none}`));
    return start.title;
  }
  const room = document.getElementById("main").clientWidth - 48;
  const graph = graphPart(found, pinned, room, () => history.replaceState(null, "", target({})));
  append(
    view,
    element("p", { role: "status" }, drawnText(found, start)),
    legend(),
    graph.box,
    saveButtons(found, graph.drawing, start),
    edgeList(found, graph.choose),
    await edgeMeanings(),
  );
  return `${start.title} ${start.label}`.trim();
}
