// The tables of a feature's page: top genes, enriched gene sets, cells, regulators, interactions.

import { element, emptyState } from "./dom.js";
import * as format from "./format.js";
import { dataTable } from "./table.js";

const { count, number, percent, probability } = format;

const numeric = (key, title, value, cell, descending = true) => ({ key, title, numeric: true, descending, value, cell });
const qColumn = numeric(
  "q",
  "q",
  (row) => row.q_value,
  (row) => probability(row.q_value),
  false,
);

/** Top genes, each with the share of its positions at which the feature fires. */
export function genesSection(row, genes) {
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
    numeric(
      "score",
      "Score",
      (g) => g.score,
      (g) => number(g.score),
    ),
    numeric("share", "Fires at\nits positions", share, (g) => [
      `${percent(share(g))} `,
      element("span", { class: "item muted" }, `(${count(g.n_firings)} of ${count(g.n_positions)})`),
    ]),
  ];
  const note = `For comparison: over all genes, the feature fires at ${percent(row.firing_rate)} of positions.`;
  const table = dataTable({ caption: "Top genes", columns, rows: genes, perPage: 10, narrow: true });
  return [title, element("p", { class: "muted" }, note), table.box];
}

/** What a set of genes is called, which genes are shared, and where it comes from. */
function setCell(name, genes, origin, ...notes) {
  return element(
    "span",
    { class: "end" },
    name,
    " ",
    element("span", { class: "genes small" }, ...format.geneLinks(format.geneList(genes))),
    " ",
    element("span", { class: "small muted" }, origin),
    ...notes.map((note) => note && element("span", { class: "small muted" }, ` (${note})`)),
  );
}

/** Enriched gene sets, each overlap beside the one by chance. */
export function termsSection(terms) {
  const title = element("h2", {}, "Enriched gene sets");
  if (!terms.length) return [title, emptyState("No gene set is enriched among the top genes, so there is no label.")];
  const chance = (term) => (term.n_list * term.n_term) / term.n_background;
  const columns = [
    {
      key: "term",
      title: "Gene set",
      value: (t) => t.term,
      cell: (t) =>
        setCell(
          element("span", { class: "label" }, format.programLink(t.term)),
          t.genes,
          t.collection,
          t.redundant_with && `redundant with ${t.redundant_with}`,
        ),
    },
    numeric(
      "overlap",
      "Shared genes\n(by chance)",
      (t) => t.n_overlap,
      (t) => `${count(t.n_overlap)} of ${count(t.n_list)} (${number(chance(t), 2)})`,
    ),
    numeric(
      "odds",
      "Odds ratio",
      (t) => t.odds_ratio,
      (t) => number(t.odds_ratio),
    ),
    qColumn,
  ];
  return [title, dataTable({ caption: "Enriched gene sets", columns, rows: terms, sort: "q", perPage: 10 }).box];
}

/** In which cells the feature fires: labels of obs columns, with the AUROC of the feature's score. */
export function cellsSection(labels) {
  const title = element("h2", {}, "Cells");
  if (!labels.length) {
    const advice = "Name a column in `annotate.associate`, run `annotate` again, and build the atlas again.";
    return [title, emptyState(`No labels of cells were compared for this feature. ${advice}`)];
  }
  const columns = [
    {
      key: "label",
      title: "Label",
      value: (row) => row.label,
      cell: (row) => [
        element("span", { class: "label" }, row.label),
        " ",
        element("span", { class: "small muted" }, row.column),
      ],
    },
    numeric(
      "auroc",
      "AUROC\n(0.5 by chance)",
      (row) => Math.abs(row.auroc - 0.5),
      (row) => [row.auroc < 0.5 ? "▾ " : "▴ ", number(row.auroc)],
    ),
    numeric(
      "inside",
      "Mean inside\n(outside)",
      (row) => row.mean_inside,
      (row) => `${number(row.mean_inside, 2)} (${number(row.mean_outside, 2)})`,
    ),
    numeric(
      "cells",
      "Cells",
      (row) => row.n_cells,
      (row) => count(row.n_cells),
    ),
    qColumn,
  ];
  const note = "Labels whose cells score highest (▴) or lowest (▾); the score is the mean activation over a cell.";
  const options = { columns, rows: labels, sort: "auroc", descending: true, perPage: 6 };
  const table = dataTable({ caption: "Labels of cells", ...options });
  return [title, element("p", { class: "muted" }, note), table.box];
}

function regulatorsTable(regulators) {
  const columns = [
    {
      key: "regulator",
      title: "Regulator",
      value: (r) => r.regulator,
      cell: (r) =>
        setCell(
          element("span", { class: "label", title: r.target_set }, r.target_set),
          r.genes,
          r.network,
          r.regulator_listed && "itself a top gene",
        ),
    },
    numeric(
      "overlap",
      "Targets among\ntop genes (by chance)",
      (r) => r.n_overlap,
      (r) => `${count(r.n_overlap)} of ${count(r.n_list)} (${number((r.n_list * r.n_targets) / r.n_background, 2)})`,
    ),
    qColumn,
  ];
  return dataTable({ caption: "Regulators", columns, rows: regulators, sort: "q", perPage: 10 }).box;
}

function interactionText(row) {
  const chance = `${number(row.null_mean, 2)} among genes of similar degree`;
  const evidence = `q ${probability(row.q_value)}`;
  return `${count(row.n_interactions)} interactions among ${count(row.n_in_network)} top genes (${chance}; ${evidence})`;
}

/** Regulators and interactions among the top genes. */
export function networksSection(regulators, interactions) {
  const title = element("h2", {}, "Networks");
  const lines = interactions.map((row) =>
    element("p", {}, `${interactionText(row)} `, element("span", { class: "small muted" }, row.network)),
  );
  return [title, ...lines, ...(regulators.length ? [regulatorsTable(regulators)] : [])];
}
