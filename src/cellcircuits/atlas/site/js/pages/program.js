// Programs: gene sets that are enriched in features or label them, and the circuits between them.

import { findName } from "../circuitstart.js";
import { loadContents, loadItemRows, loadJson, rowsOf } from "../data.js";
import { append, delayed, element, emptyState, field, heading, section } from "../dom.js";
import { AtlasError } from "../errors.js";
import { count, featureLink, labelOrGenes, number, percent, probability, programAddress, programLink } from "../format.js";
import { otherRuns } from "../otherruns.js";
import { address } from "../runs.js";
import { dataTable } from "../table.js";

const numeric = (key, title, cell, descending = true) => ({
  key,
  title,
  numeric: true,
  descending,
  value: (row) => row[key],
  cell,
});

const LIST_COLUMNS = [
  {
    key: "program",
    title: "Program",
    value: (row) => row.program,
    cell: (row) => [
      element("span", { class: "label" }, programLink(row.program)),
      " ",
      element("span", { class: "small muted" }, row.collection),
    ],
  },
  numeric("n_features", "Features", (row) => count(row.n_features)),
  numeric("n_labelled", "Of them with\nit as label", (row) => count(row.n_labelled)),
  numeric("n_pairs", "Pairs with\nother programs", (row) => count(row.n_pairs)),
];

/** Whether every word of the search is in the name or the collection. */
function matcher(search) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  return (row) => words.every((word) => `${row.program} ${row.collection}`.toLowerCase().includes(word));
}

function listPage(view, programs, query) {
  const rows = rowsOf(programs);
  const search = query.get("search") ?? "";
  const nothing = emptyState("No program fits. Try fewer words, or the name of a gene under Genes.");
  const fitting = (text) => {
    const found = rows.filter(matcher(text));
    nothing.hidden = found.length > 0;
    return found;
  };
  const options = { columns: LIST_COLUMNS, rows: fitting(search), sort: "n_features", descending: true };
  const table = dataTable({ caption: "Programs", ...options });
  const type = delayed((event) => {
    table.replace(fitting(event.target.value));
    const text = event.target.value.trim();
    history.replaceState(null, "", address(text ? `program?search=${encodeURIComponent(text)}` : "program"));
  });
  const attributes = { type: "search", value: search, placeholder: "for example: ribosome, interferon", on: { input: type } };
  append(
    view,
    element("p", {}, `${count(rows.length)} gene sets are enriched in some feature, or label one.`),
    element("div", { class: "controls" }, field("Search names and collections", element("input", attributes))),
    nothing,
    table.box,
  );
}

const FEATURE_COLUMNS = [
  {
    key: "feature",
    title: "Feature",
    value: (row) => row.layer * 1e9 + row.feature,
    cell: (row) => featureLink(row.layer, row.feature),
  },
  { key: "label", title: "Label", value: (row) => row.label, cell: (row) => labelOrGenes(row.label, "") },
  numeric("q_value", "q of the program", (row) => probability(row.q_value), false),
  numeric("n_overlap", "Shared genes", (row) => (row.n_overlap < 0 ? "–" : count(row.n_overlap))),
  numeric("firing_rate", "Firing rate", (row) => percent(row.firing_rate)),
  numeric("n_out", "Edges out", (row) => count(row.n_out)),
  numeric("n_in", "Edges in", (row) => count(row.n_in)),
];

function pairTable(caption, pairs, otherTitle) {
  const columns = [
    {
      key: "other",
      title: otherTitle,
      value: (row) => row.other,
      cell: (row) => element("span", { class: "label" }, programLink(row.other)),
    },
    numeric("n_edges", "Edges\n(by chance)", (row) => `${count(row.n_edges)} (${number(row.n_expected)})`),
    numeric("q_value", "q", (row) => probability(row.q_value), false),
    numeric("mean_snr", "Mean snr", (row) => number(row.mean_snr)),
    numeric("share_negative", "▼\u00a0supports", (row) => percent(row.share_negative)),
  ];
  return dataTable({ caption, columns, rows: pairs, sort: "q_value", perPage: 10 }).box;
}

function pairSection(title, caption, pairs, otherTitle) {
  if (pairs.length) return section(title, pairTable(caption, pairs, otherTitle));
  return section(title, emptyState("No pair with another program has an edge."));
}

/** The page: the search alone, or one program. */
export async function render(view, { parts, query }) {
  const [programs, contents] = await Promise.all([loadJson("programs.json.gz"), loadContents()]);
  const wanted = parts.join("/");
  if (!programs.length) {
    const advice = "Name collections in `annotate.gene_sets`, run `annotate` again, and build the atlas again.";
    append(view, heading("Programs"), emptyState(`No gene set is enriched in any feature of this run. ${advice}`));
    return "Programs";
  }
  if (!wanted) {
    append(view, heading("Programs"));
    listPage(view, programs, query);
    return "Programs";
  }
  const names = programs.columns.program;
  const place = findName(names, wanted);
  if (place < 0) {
    const link = [address("program"), "Choose a program"];
    throw new AtlasError(`No feature of this run has the program “${wanted}”.`, "Check the name, or search.", link);
  }
  const perShard = contents.programs_per_shard;
  const [features, pairs, others] = await Promise.all([
    loadItemRows("program_features", "program", place, perShard),
    loadItemRows("program_pairs", "program", place, perShard),
    otherRuns("programs.json.gz", "program", names[place], "n_features", programAddress),
  ]);
  const total = programs.columns.n_features[place];
  const part = features.length < total ? `; the ${count(features.length)} with the smallest q are listed` : "";
  const intro = `Enriched in ${count(total)} features, the label of ${count(programs.columns.n_labelled[place])}${part}. `;
  const circuit = address(`circuit/program/${encodeURIComponent(names[place])}`);
  const drawn = features.some((row) => row.n_out + row.n_in > 0);
  const of = (direction) => pairs.filter((row) => row.direction === direction);
  append(
    view,
    element("p", { class: "crumbs" }, element("a", { href: address("program") }, "Programs")),
    heading(names[place]),
    element(
      "p",
      { class: "actions" },
      drawn && element("a", { class: "action", href: circuit }, "Draw its circuit"),
      ...others,
    ),
    element("p", {}, intro, programs.columns.collection[place]),
    dataTable({ caption: "Features of the program", columns: FEATURE_COLUMNS, rows: features, sort: "q_value" }).box,
    pairSection("Acts on", "Programs that it acts on", of("out"), "Target program"),
    pairSection("Acted on by", "Programs that act on it", of("in"), "Source program"),
  );
  return names[place];
}
