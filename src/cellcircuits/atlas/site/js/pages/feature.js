// One feature: what it fires on, what it affects, what affects it.

import { loadContents, loadEdges, loadFeature, loadFeatureRows, loadRows } from "../data.js";
import { append, element, emptyState, field, heading, select } from "../dom.js";
import { edgeMeanings, edgeTable } from "../edgetable.js";
import { AtlasError } from "../errors.js";
import { cellsSection, genesSection, networksSection, termsSection } from "../featuretables.js";
import * as format from "../format.js";
import { activationHistogram } from "../histogram.js";
import { loadMeanings, meaningList } from "../meanings.js";
import { address } from "../runs.js";

const { count, number, percent, probability } = format;

function parseFeature(parts) {
  const [layer, feature] = parts.map((part) => (/^\d{1,9}$/.test(part) ? Number(part) : NaN));
  if (!Number.isInteger(layer) || !Number.isInteger(feature)) {
    throw new AtlasError(
      "The address does not name a feature.",
      "It should look like #/feature/3/127: layer 3, feature 127.",
      [address("features"), "Choose a feature"],
    );
  }
  return { layer, feature };
}

/** The row of the feature in the address. */
export function featureOfRoute(parts) {
  const { layer, feature } = parseFeature(parts);
  return knownFeature(layer, feature);
}

async function knownFeature(layer, feature) {
  const row = await loadFeature(layer, feature);
  if (!row) {
    const name = format.featureName(layer, feature);
    const advice = "Layers and features are counted from 0. Check the numbers, or choose from the list.";
    throw new AtlasError(`This atlas has no feature ${name}.`, advice, [address("features"), "Choose a feature"]);
  }
  return row;
}

function facts(row, module) {
  const label = row.label ? `q ${probability(row.label_q)}, odds ratio ${number(row.label_odds_ratio)}` : "–";
  const mapped = address(`map/${row.layer}?feature=${row.feature}`);
  const pairs = [
    ["Fires at", `${percent(row.firing_rate)} of gene positions`],
    ["Active in", `${count(row.n_cells)} cells`],
    ["Fires on", `${count(row.n_unique_genes)} genes`],
    ["Mean activation", number(row.mean_activation)],
    ["Enriched gene sets", count(row.n_terms)],
    ["Evidence for the label", label],
    ["Edges out / in", `${count(row.n_out)} / ${count(row.n_in)}`],
    ["Of them beyond random", `${count(row.n_specific_out)} / ${count(row.n_specific_in)}`],
    ["Ablated in this run", { 0: "no", 1: "yes" }[row.ablated] ?? "not recorded"],
    ["Map", element("a", { href: mapped }, `Layer ${row.layer}`)],
    row.module >= 0 && ["Fires together with", module],
  ].filter(Boolean);
  const entries = pairs.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  return element("dl", { class: "facts" }, ...entries);
}

async function moduleText(row) {
  if (row.module < 0) return "";
  const modules = await loadRows("modules.json.gz", ({ layer, module }, i) => {
    return layer[i] === row.layer && module[i] === row.module;
  });
  const found = modules[0];
  const target = address(`map/${row.layer}?color=module&highlight=${row.module}`);
  const name = found?.label ? `module ${row.module}, ${found.label}` : `module ${row.module}`;
  const link = element("a", { href: target }, name);
  return found ? [link, ` (${format.counted(found.n_features, "feature")})`] : link;
}

function histogramSection(row, bins) {
  const title = element("h2", {}, "Activations");
  if (bins.length) return [title, activationHistogram(bins, row.mean_activation)];
  const advice = "Run `annotate` again with this version, then the stages after it, and build the atlas again.";
  return [title, emptyState(row.n_firings ? `The run did not count them. ${advice}` : "The feature never fires.")];
}

const FILTERS = {
  all: ["All edges", () => true],
  supports: ["▼ supports", (edge) => edge.mean_delta < 0],
  opposes: ["▲ opposes", (edge) => edge.mean_delta > 0],
  specific: ["● beyond random directions", (edge) => edge.specific],
  computed: ["at least half computed", (edge) => edge.computed_share >= 0.5],
};

/** A table of edges with a filter that is part of the address. */
function filteredEdges(row, query, name, caption, edges, otherTitle) {
  const chosen = FILTERS[query.get(name)] ? query.get(name) : "all";
  const table = edgeTable(caption, edges.filter(FILTERS[chosen][1]), otherTitle);
  const nothing = emptyState("No edge passes this filter. Show all edges.");
  nothing.hidden = edges.some(FILTERS[chosen][1]);
  const change = (value) => {
    const found = edges.filter(FILTERS[value][1]);
    nothing.hidden = found.length > 0;
    table.replace(found);
    query.set(name, value);
    history.replaceState(null, "", address(`feature/${row.layer}/${row.feature}?${query}`));
  };
  const choices = Object.entries(FILTERS).map(([key, [text, passes]]) => {
    return [key, `${text} (${count(edges.filter(passes).length)})`];
  });
  return [element("div", { class: "controls" }, field("Show", select(choices, chosen, change))), nothing, table.box];
}

function upstreamSection(row, query, edges) {
  const title = element("h2", {}, "Upstream: what affects it");
  if (!edges.length) {
    return [title, emptyState("No ablated feature of an earlier layer has an edge to it. Only ablated features can.")];
  }
  return [title, ...filteredEdges(row, query, "in", "Edges that reach this feature", edges, "Source")];
}

function downstreamSection(row, query, edges) {
  const title = element("h2", {}, "Downstream: what it affects");
  if (edges.length) {
    return [title, ...filteredEdges(row, query, "out", "Edges that leave this feature", edges, "Target")];
  }
  const reason = {
    0: "It was not ablated in this run, so its effects are not known. Add it to the sources of the `trace` stage.",
    1: "It was ablated, and no feature of a later layer passed the rule for an edge.",
  }[row.ablated];
  return [title, emptyState(reason ?? "It has no outgoing edges: it was not ablated, or nothing passed the rule.")];
}

/** Links to the features beside this one, and to its circuit. */
function actions(row, anyEdge, layers) {
  const last = (layers.find(({ layer }) => layer === row.layer)?.n_features ?? 0) - 1;
  const link = (feature, text) =>
    feature >= 0 &&
    feature <= last &&
    element("a", { class: "action", href: format.featureAddress(row.layer, feature) }, text);
  return element(
    "p",
    { class: "actions" },
    anyEdge && element("a", { class: "action", href: format.circuitAddress(row.layer, row.feature) }, "Draw its circuit"),
    link(row.feature - 1, "← Previous feature"),
    link(row.feature + 1, "Next feature →"),
  );
}

/** The page. */
export async function render(view, { parts, query }) {
  const { layer, feature } = parseFeature(parts);
  const names = ["feature_genes", "terms", "cell_labels", "activation_bins", "regulators", "interactions"];
  const meanings = loadMeanings().catch(() => null); // asked for early; who needs it says what went wrong
  const [row, contents, outgoing, incoming, ...tables] = await Promise.all([
    knownFeature(layer, feature),
    loadContents(),
    loadEdges("out", layer, feature),
    loadEdges("in", layer, feature),
    ...names.map((name) => loadFeatureRows(name, layer, feature)),
  ]);
  const [genes, terms, labels, bins, regulators, interactions] = tables;
  const [module] = await Promise.all([moduleText(row), meanings]);
  const name = format.featureName(layer, feature);
  const anyEdge = outgoing.length + incoming.length > 0;
  const section = (nodes) => element("section", {}, ...nodes);
  append(
    view,
    element(
      "p",
      { class: "crumbs" },
      element("a", { href: address(`features?layer=${layer}`) }, `Features of layer ${layer}`),
    ),
    heading(`${name} `, format.headingLabel(row.label)),
    actions(row, anyEdge, contents.layers),
    facts(row, module),
    element("div", { class: "two" }, section(genesSection(row, genes)), section(termsSection(terms))),
    element("div", { class: "two" }, section(cellsSection(labels)), section(histogramSection(row, bins))),
    regulators.length + interactions.length > 0 && section(networksSection(regulators, interactions)),
    section(upstreamSection(row, query, incoming)),
    section(downstreamSection(row, query, outgoing)),
    anyEdge ? await edgeMeanings() : await meaningList("features", [["Fires at", "firing_rate"]]),
  );
  return row.label ? `${name} ${row.label}` : name;
}
