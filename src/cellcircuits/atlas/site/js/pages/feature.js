// One feature: what it fires on, what it affects, what affects it.

import { loadEdges, loadFeature, loadFeatureRows } from "../data.js";
import { edgeMeanings, edgeTable } from "../edgetable.js";
import { append, element, emptyState, heading } from "../dom.js";
import { AtlasError } from "../errors.js";
import * as format from "../format.js";
import { meaningList } from "../meanings.js";
import { dataTable } from "../table.js";

const { count, number, percent, probability } = format;

function parseFeature(parts) {
  const [layer, feature] = parts.map((part) => (/^\d{1,9}$/.test(part) ? Number(part) : NaN));
  if (!Number.isInteger(layer) || !Number.isInteger(feature)) {
    throw new AtlasError(
      "The address does not name a feature.",
      "It should look like #/feature/3/127: layer 3, feature 127.",
      ["#/features", "Choose a feature"],
    );
  }
  return { layer, feature };
}

/** The row of the feature in the address. */
export async function featureOfRoute(parts) {
  const { layer, feature } = parseFeature(parts);
  const row = await loadFeature(layer, feature);
  if (!row) {
    const name = format.featureName(layer, feature);
    const advice = "Layers and features are counted from 0. Check the numbers, or choose from the list.";
    throw new AtlasError(`This atlas has no feature ${name}.`, advice, ["#/features", "Choose a feature"]);
  }
  return row;
}

function facts(row) {
  const label = row.label ? `q ${probability(row.label_q)}, odds ratio ${number(row.label_odds_ratio)}` : "–";
  const pairs = [
    ["Fires at", `${percent(row.firing_rate)} of gene positions`],
    ["Active in", `${count(row.n_cells)} cells`],
    ["Fires on", `${count(row.n_unique_genes)} genes`],
    ["Mean activation", number(row.mean_activation)],
    ["Enriched gene sets", count(row.n_terms)],
    ["Evidence for the label", label],
    ["Edges out / in", `${count(row.n_out)} / ${count(row.n_in)}`],
    ["Ablated in this run", { 0: "no", 1: "yes" }[row.ablated] ?? "not recorded"],
  ];
  const entries = pairs.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  return element("dl", { class: "facts" }, ...entries);
}

function genesSection(row, genes) {
  const title = element("h2", {}, "Top genes");
  if (!genes.length) return [title, emptyState("The feature fires too rarely to list genes.")];
  const share = (gene) => gene.n_firings / gene.n_positions;
  const columns = [
    { key: "rank", title: "Rank", numeric: true, value: (g) => g.rank, cell: (g) => String(g.rank) },
    {
      key: "symbol",
      title: "Gene",
      value: (g) => g.symbol,
      cell: (g) =>
        element("a", { class: "gene", href: format.geneAddress(g.symbol || g.gene_id) }, g.symbol || g.gene_id),
    },
    {
      key: "score",
      title: "Score",
      numeric: true,
      descending: true,
      value: (g) => g.score,
      cell: (g) => number(g.score),
    },
    {
      key: "share",
      title: "Fires at\nits positions",
      numeric: true,
      descending: true,
      value: share,
      cell: (g) => [
        `${percent(share(g))} `,
        element("span", { class: "item muted" }, `(${count(g.n_firings)} of ${count(g.n_positions)})`),
      ],
    },
  ];
  const note = `For comparison: over all genes, the feature fires at ${percent(row.firing_rate)} of positions.`;
  const table = dataTable({ caption: "Top genes", columns, rows: genes, perPage: 20, narrow: true });
  return [title, element("p", { class: "muted" }, note), table.box];
}

function termsSection(terms) {
  const title = element("h2", {}, "Enriched gene sets");
  if (!terms.length) return [title, emptyState("No gene set is enriched among the top genes, so there is no label.")];
  const chance = (term) => (term.n_list * term.n_term) / term.n_background;
  const columns = [
    {
      key: "term",
      title: "Gene set",
      value: (t) => t.term,
      cell: (t) =>
        element(
          "span",
          { class: "end" },
          element("span", { class: "label", title: t.term }, t.term),
          " ",
          element("span", { class: "genes small" }, ...format.geneLinks(format.geneList(t.genes))),
          " ",
          element("span", { class: "small muted" }, t.collection),
          t.redundant_with && element("span", { class: "small muted" }, ` (redundant with ${t.redundant_with})`),
        ),
    },
    {
      key: "overlap",
      title: "Shared genes\n(by chance)",
      numeric: true,
      descending: true,
      value: (t) => t.n_overlap,
      cell: (t) => `${count(t.n_overlap)} of ${count(t.n_list)} (${number(chance(t), 2)})`,
    },
    {
      key: "odds",
      title: "Odds ratio",
      numeric: true,
      descending: true,
      value: (t) => t.odds_ratio,
      cell: (t) => number(t.odds_ratio),
    },
    { key: "q", title: "q", numeric: true, value: (t) => t.q_value, cell: (t) => probability(t.q_value) },
  ];
  return [title, dataTable({ caption: "Enriched gene sets", columns, rows: terms, sort: "q", perPage: 10 }).box];
}

function regulatorsTable(regulators) {
  const columns = [
    {
      key: "regulator",
      title: "Regulator",
      value: (r) => r.regulator,
      cell: (r) =>
        element(
          "span",
          { class: "end" },
          element("span", { class: "label", title: r.target_set }, r.target_set),
          " ",
          element("span", { class: "genes small" }, ...format.geneLinks(format.geneList(r.genes))),
          " ",
          element("span", { class: "small muted" }, r.network),
          r.regulator_listed && element("span", { class: "small muted" }, " (itself a top gene)"),
        ),
    },
    {
      key: "overlap",
      title: "Targets among\ntop genes (by chance)",
      numeric: true,
      descending: true,
      value: (r) => r.n_overlap,
      cell: (r) =>
        `${count(r.n_overlap)} of ${count(r.n_list)} (${number((r.n_list * r.n_targets) / r.n_background, 2)})`,
    },
    { key: "q", title: "q", numeric: true, value: (r) => r.q_value, cell: (r) => probability(r.q_value) },
  ];
  return dataTable({ caption: "Regulators", columns, rows: regulators, sort: "q", perPage: 10 }).box;
}

function interactionText(row) {
  const chance = `${number(row.null_mean, 2)} among genes of similar degree`;
  const evidence = `q ${probability(row.q_value)}`;
  return `${count(row.n_interactions)} interactions among ${count(row.n_in_network)} top genes (${chance}; ${evidence})`;
}

function networksSection(regulators, interactions) {
  const title = element("h2", {}, "Networks");
  const lines = interactions.map((row) =>
    element("p", {}, `${interactionText(row)} `, element("span", { class: "small muted" }, row.network)),
  );
  return [title, ...lines, ...(regulators.length ? [regulatorsTable(regulators)] : [])];
}

function upstreamSection(edges) {
  const title = element("h2", {}, "Upstream: what affects it");
  if (!edges.length) {
    return [title, emptyState("No ablated feature of an earlier layer has an edge to it. Only ablated features can.")];
  }
  return [title, edgeTable("Edges that reach this feature", edges, "Source")];
}

function downstreamSection(row, edges) {
  const title = element("h2", {}, "Downstream: what it affects");
  if (edges.length) return [title, edgeTable("Edges that leave this feature", edges, "Target")];
  const reason = {
    0: "It was not ablated in this run, so its effects are not known. Add it to the sources of the `trace` stage.",
    1: "It was ablated, and no feature of a later layer passed the rule for an edge.",
  }[row.ablated];
  return [title, emptyState(reason ?? "It has no outgoing edges: it was not ablated, or nothing passed the rule.")];
}

/** The page. */
export async function render(view, { parts }) {
  const row = await featureOfRoute(parts);
  const { layer, feature } = row;
  const [genes, terms, regulators, interactions, outgoing, incoming] = await Promise.all([
    loadFeatureRows("feature_genes", layer, feature),
    loadFeatureRows("terms", layer, feature),
    loadFeatureRows("regulators", layer, feature),
    loadFeatureRows("interactions", layer, feature),
    loadEdges("out", layer, feature),
    loadEdges("in", layer, feature),
  ]);
  const name = format.featureName(layer, feature);
  const anyEdge = outgoing.length + incoming.length > 0;
  const section = (nodes) => element("section", {}, ...nodes);
  append(
    view,
    element("p", { class: "crumbs" }, element("a", { href: `#/features?layer=${layer}` }, `Layer ${layer}`)),
    heading(`${name} `, format.headingLabel(row.label)),
    facts(row),
    anyEdge &&
      element(
        "p",
        {},
        element("a", { class: "action", href: format.circuitAddress(layer, feature) }, "Draw its circuit"),
      ),
    element("div", { class: "two" }, section(genesSection(row, genes)), section(termsSection(terms))),
    regulators.length + interactions.length > 0 && section(networksSection(regulators, interactions)),
    section(upstreamSection(incoming)),
    section(downstreamSection(row, outgoing)),
    anyEdge ? await edgeMeanings() : await meaningList("features", [["Fires at", "firing_rate"]]),
  );
  return row.label ? `${name} ${row.label}` : name;
}
