// The table of a feature's edges, on the pages of features, circuits and genes.

import { element } from "./dom.js";
import { featureLink, labelOrGenes, number, percent, probability, signBadge } from "./format.js";
import { meaningList } from "./meanings.js";
import { dataTable } from "./table.js";

const MEANINGS = [
  ["Effect", "mean_delta"],
  ["Relative", "relative_effect"],
  ["snr", "snr"],
  ["Agreement", "sign_agreement"],
  ["Responding", "responding_fraction"],
  ["Cells", "n_cells"],
  ["q", "q_value"],
];

const numeric = (key, title, format) => ({
  key,
  title,
  numeric: true,
  descending: key !== "q_value",
  value: (edge) => edge[key],
  cell: (edge) => format(edge[key]),
});

/** Columns of an edge's numbers; `short` leaves out what only the page of a feature shows. */
export function numberColumns(short = false) {
  const size = (edge) => (edge.snr === null ? null : Math.abs(edge.snr));
  const all = [
    { key: "sign", title: "Sign", value: (edge) => edge.mean_delta, cell: (edge) => signBadge(edge.mean_delta) },
    numeric("mean_delta", "Effect", number),
    numeric("relative_effect", "Relative", percent),
    { ...numeric("snr", "snr", number), value: size },
    numeric("sign_agreement", "Agreement", percent),
    numeric("responding_fraction", "Responding", percent),
    numeric("n_cells", "Cells", String),
    numeric("q_value", "q", probability),
  ];
  return short ? all.filter(({ key }) => ["sign", "mean_delta", "snr", "q_value"].includes(key)) : all;
}

/** A column that names the feature at one end of an edge; `end(edge)` is {layer, feature, label, genes}. */
export function endColumn(key, title, end) {
  return {
    key,
    title,
    value: (edge) => `${end(edge).layer}/${end(edge).feature}`,
    cell: (edge) => {
      const { layer, feature, label, genes } = end(edge);
      const name = label === undefined ? null : labelOrGenes(label, genes);
      return element("span", { class: "end" }, featureLink(layer, feature), " ", name);
    },
  };
}

/** Edges that leave or reach one feature, strongest first. */
export function edgeTable(caption, edges, otherTitle) {
  const columns = [endColumn("other", otherTitle, (edge) => edge.other), ...numberColumns()];
  return dataTable({ caption, columns, rows: edges, sort: "snr", descending: true, perPage: 20 }).box;
}

/** What the numbers of an edge mean. */
export function edgeMeanings() {
  return meaningList("edges", MEANINGS);
}
