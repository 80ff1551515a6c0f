// The list of features: search, sort, filter by layer. Its state is part of the address.

import { layerFile, loadContents, loadRows } from "../data.js";
import { append, delayed, element, emptyState, field, heading, select } from "../dom.js";
import { errorNotice } from "../errors.js";
import { count, featureLink, geneLinks, geneList, labelOrGenes, percent } from "../format.js";
import { matcher } from "../matching.js";
import { meaningList } from "../meanings.js";
import { address } from "../runs.js";
import { dataTable } from "../table.js";

const numeric = (key, title, format) => ({
  key,
  title,
  numeric: true,
  descending: true,
  value: (row) => row[key],
  cell: (row) => format(row[key]),
});

const COLUMNS = [
  {
    key: "feature",
    title: "Feature",
    value: (row) => row.layer * 1e9 + row.feature,
    cell: (row) => featureLink(row.layer, row.feature),
  },
  { key: "label", title: "Label", value: (row) => row.label, cell: (row) => labelOrGenes(row.label, "") },
  numeric("firing_rate", "Firing rate", percent),
  {
    key: "genes",
    title: "Top genes",
    value: (row) => row.top_genes,
    cell: (row) => element("span", { class: "genes" }, ...geneLinks(geneList(row.top_genes, 6))),
  },
  numeric("n_out", "Edges out", count),
  numeric("n_in", "Edges in", count),
  numeric("n_specific_out", "Beyond\nrandom, out", count),
];

async function loadLayers(layers) {
  return (await Promise.all(layers.map((layer) => loadRows(layerFile("layers", layer))))).flat();
}

function readState(query, layers) {
  const layer = query.get("layer");
  const known = layer === "all" || layers.includes(Number(layer ?? NaN));
  return {
    layer: known ? layer : String(layers[0]),
    search: query.get("search") ?? "",
    edges: query.get("edges") ?? "any",
    labelled: query.get("labelled") ?? "any",
    sort: query.get("sort") ?? "n_out",
    descending: query.get("order") !== "up",
    page: Math.max(0, (Number.parseInt(query.get("page"), 10) || 1) - 1),
  };
}

/** Put the state into the address without a new entry in the browser's history for every letter typed. */
function writeState(state) {
  const query = new URLSearchParams({ layer: state.layer });
  if (state.search) query.set("search", state.search);
  if (state.edges !== "any") query.set("edges", state.edges);
  if (state.labelled !== "any") query.set("labelled", state.labelled);
  query.set("sort", state.sort);
  query.set("order", state.descending ? "down" : "up");
  if (state.page) query.set("page", state.page + 1);
  history.replaceState(null, "", address(`features?${query}`));
}

const EDGE_FILTERS = {
  any: () => true,
  out: (row) => row.n_out > 0,
  in: (row) => row.n_in > 0,
  specific: (row) => row.n_specific_out > 0,
};
const LABEL_FILTERS = { any: () => true, yes: (row) => row.label !== "", no: (row) => row.label === "" };

function controls(state, layers, update) {
  const layerChoices = [...layers.map((layer) => [layer, `Layer ${layer}`]), ["all", "All layers"]];
  const edgeChoices = [
    ["any", "All"],
    ["out", "With outgoing"],
    ["in", "With incoming"],
    ["specific", "With outgoing beyond random directions"],
  ];
  const labelChoices = [
    ["any", "All"],
    ["yes", "With a label"],
    ["no", "Without a label"],
  ];
  const input = element("input", {
    type: "search",
    value: state.search,
    placeholder: "for example: ribosome, LYZ, F12",
    on: { input: delayed((event) => update({ search: event.target.value })) },
  });
  return element(
    "div",
    { class: "controls" },
    field(
      "Layer",
      select(layerChoices, state.layer, (layer) => update({ layer })),
    ),
    field("Search labels and top genes", input),
    field(
      "Edges",
      select(edgeChoices, state.edges, (edges) => update({ edges })),
    ),
    field(
      "Label",
      select(labelChoices, state.labelled, (labelled) => update({ labelled })),
    ),
  );
}

/** Controls and table; both change `state`, which is kept in the address. */
async function featureList(state, layers) {
  const nothing = emptyState("No feature fits. Try fewer words, another layer, or all layers.");
  const problem = element("div", {});
  let rows = [];
  let loads = 0;
  const load = async () => {
    loads += 1;
    const turn = loads;
    const found = await loadLayers(state.layer === "all" ? layers : [Number(state.layer)]);
    if (turn === loads) rows = found;
  };
  const fitting = () => {
    const fits = [matcher(state.search), EDGE_FILTERS[state.edges], LABEL_FILTERS[state.labelled]].filter(Boolean);
    const found = rows.filter((row) => fits.every((fit) => fit(row)));
    nothing.hidden = found.length > 0;
    return found;
  };
  await load();
  const onState = (next) => writeState(Object.assign(state, next));
  const { sort, descending, page } = state;
  const table = dataTable({ caption: "Features", columns: COLUMNS, rows: fitting(), sort, descending, page, onState });
  const update = async (next) => {
    Object.assign(state, next);
    problem.replaceChildren();
    if ("layer" in next) await load().catch((error) => problem.append(errorNotice(error)));
    table.replace(fitting());
  };
  return [controls(state, layers, update), problem, nothing, table.box];
}

/** The page. */
export async function render(view, { query }) {
  const layers = (await loadContents()).layers.map(({ layer }) => layer);
  append(view, heading("Features"));
  if (!layers.length) {
    append(view, emptyState("This atlas has no features. Run the `annotate` stage and build the atlas again."));
    return "Features";
  }
  const intro = "Directions that sparse autoencoders found in each layer, with the genes on which they fire most.";
  const names = [
    ["Label", "label"],
    ["Firing rate", "firing_rate"],
    ["Top genes", "top_genes"],
  ];
  append(view, element("p", {}, intro), ...(await featureList(readState(query, layers), layers)));
  append(view, await meaningList("features", names));
  return "Features";
}
