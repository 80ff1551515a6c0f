// The table of a feature's edges, on the pages of features, circuits and genes.

import { element } from "./dom.js";
import { count, featureLink, labelOrGenes, number, percent, probability, signBadge } from "./format.js";
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
  ["Beyond random", "specific"],
  ["z beside it", "specific_z"],
  ["Computed", "computed_share"],
  ["Groups differ, q", "heterogeneity_q"],
  ["Stability", "stability"],
];

const numeric = (key, title, format) => ({
  key,
  title,
  numeric: true,
  descending: key !== "q_value",
  value: (edge) => edge[key] ?? null,
  cell: (edge) => format(edge[key] ?? null),
});

const magnitude = (edge, key) => (edge[key] === null || edge[key] === undefined ? null : Math.abs(edge[key]));

/** The verdict beside random directions of the same norm, as symbol and word. */
export function controlBadge(edge) {
  if (edge.specific_q === null || edge.specific_q === undefined) {
    return element("span", { class: "muted" }, "no controls");
  }
  return element("span", { class: "item" }, edge.specific ? "● beyond" : "○ within");
}

function interval(edge) {
  if (edge.snr_low === undefined || edge.snr_low === null) return number(edge.snr);
  const range = `${number(edge.snr_low, 2)} to ${number(edge.snr_high, 2)}`;
  return [number(edge.snr), " ", element("span", { class: "small muted under" }, range)];
}

const SIGN = { key: "sign", title: "Sign", value: (e) => e.mean_delta, cell: (e) => signBadge(e.mean_delta) };
const SNR = { ...numeric("snr", "snr\n(95 % interval)", number), value: (e) => magnitude(e, "snr"), cell: interval };
const CONTROL = {
  key: "specific",
  title: "Beyond\nrandom (z)",
  descending: true,
  value: (edge) => edge.specific_z ?? (edge.specific ? 1 : 0),
  cell: (edge) => [
    controlBadge(edge),
    " ",
    (edge.specific_z ?? null) !== null && element("span", { class: "small muted under" }, `z ${number(edge.specific_z, 2)}`),
  ],
};

/** Columns of an edge's numbers; `short` leaves out what only the page of a feature shows. */
export function numberColumns(short = false) {
  if (short) {
    return [SIGN, numeric("mean_delta", "Effect", number), SNR, numeric("q_value", "q", probability), CONTROL];
  }
  return [
    SIGN,
    numeric("mean_delta", "Effect", number),
    numeric("relative_effect", "Relative", percent),
    SNR,
    numeric("sign_agreement", "Agree-\nment", percent),
    {
      ...numeric("responding_fraction", "Responding\nof cells", percent),
      cell: (e) => [
        percent(e.responding_fraction),
        " ",
        element("span", { class: "small muted under" }, `of ${count(e.n_cells)}`),
      ],
    },
    numeric("q_value", "q", probability),
    CONTROL,
    numeric("computed_share", "Com-\nputed", percent),
  ];
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
  if (edges.some(({ stability }) => stability !== null)) columns.push(numeric("stability", "Stability", percent));
  return dataTable({ caption, columns, rows: edges, sort: "snr", descending: true, perPage: 20 });
}

/** What the numbers of an edge mean. */
export function edgeMeanings() {
  return meaningList("edges", MEANINGS);
}
