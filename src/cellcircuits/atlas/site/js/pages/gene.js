// Genes: which features have a gene among their top genes, and which edges join these features.

import { findName } from "../circuitstart.js";
import { loadContents, loadItemRows, loadJson } from "../data.js";
import { endColumn, numberColumns } from "../edgetable.js";
import { append, delayed, element, emptyState, field, heading } from "../dom.js";
import { AtlasError } from "../errors.js";
import { count, counted, featureLink, geneAddress, labelOrGenes, number, percent } from "../format.js";
import { otherRuns } from "../otherruns.js";
import { address } from "../runs.js";
import { dataTable } from "../table.js";

const SUGGESTIONS = 30;

function similar(symbols, text) {
  const lower = text.toLowerCase();
  return symbols.filter((symbol) => symbol.toLowerCase().startsWith(lower)).slice(0, SUGGESTIONS);
}

function searchForm(symbols, chosen) {
  const choices = element("datalist", { id: "gene-choices" });
  const suggest = (text) =>
    choices.replaceChildren(...similar(symbols, text).map((symbol) => element("option", { value: symbol })));
  const input = element("input", {
    type: "search",
    value: chosen,
    list: "gene-choices",
    autocomplete: "off",
    placeholder: "for example: LYZ",
    on: { input: delayed((event) => suggest(event.target.value)) },
  });
  suggest(chosen);
  const submit = (event) => {
    event.preventDefault();
    if (input.value.trim()) location.hash = geneAddress(input.value.trim());
  };
  const form = element("form", { class: "controls", on: { submit } }, field("Gene symbol", input), choices);
  form.append(element("button", {}, "Show"));
  return form;
}

function startPage(genes) {
  const order = genes.symbol.map((_, i) => i).sort((a, b) => genes.n_features[b] - genes.n_features[a] || a - b);
  const items = order
    .slice(0, 60)
    .map((i) =>
      element(
        "li",
        {},
        element("a", { class: "gene", href: geneAddress(genes.symbol[i]) }, genes.symbol[i]),
        element("span", { class: "muted" }, ` ${count(genes.n_features[i])}`),
      ),
    );
  const total = `${count(order.length)} genes are a top gene of some feature. `;
  const intro = `${total}Those of the most features, with their number of features:`;
  return [element("p", {}, intro), element("ul", { class: "gene-list" }, ...items)];
}

function featureTable(symbol, rows) {
  const columns = [
    {
      key: "feature",
      title: "Feature",
      value: (row) => row.layer * 1e9 + row.feature,
      cell: (row) => featureLink(row.layer, row.feature),
    },
    { key: "label", title: "Label", value: (row) => row.label, cell: (row) => labelOrGenes(row.label, "") },
    {
      key: "rank",
      title: `Rank of ${symbol}`,
      numeric: true,
      value: (row) => row.rank,
      cell: (row) => String(row.rank),
    },
    {
      key: "score",
      title: "Score",
      numeric: true,
      descending: true,
      value: (row) => row.score,
      cell: (row) => number(row.score),
    },
    {
      key: "rate",
      title: "Firing rate",
      numeric: true,
      descending: true,
      value: (row) => row.firing_rate,
      cell: (row) => percent(row.firing_rate),
    },
    {
      key: "edges",
      title: "Edges\nout / in",
      numeric: true,
      descending: true,
      value: (row) => row.n_out + row.n_in,
      cell: (row) => `${count(row.n_out)} / ${count(row.n_in)}`,
    },
  ];
  return dataTable({ caption: `Features with ${symbol} among their top genes`, columns, rows, sort: "rank" }).box;
}

function edgeSection(symbol, edges, total, features) {
  const title = element("h2", {}, "Edges between these features");
  if (!edges.length) {
    return [title, emptyState(`No edge joins two features with ${symbol} among their top genes.`)];
  }
  const labels = new Map(features.map((row) => [`${row.layer}/${row.feature}`, row.label]));
  const end = (name) => (edge) => {
    const [layer, feature] = [edge[`${name}_layer`], edge[`${name}_feature`]];
    return { layer, feature, label: labels.get(`${layer}/${feature}`) ?? "", genes: "" };
  };
  const part =
    edges.length < total ? `The ${count(edges.length)} strongest of ${counted(total, "edge")}` : counted(total, "edge");
  const note = `${part} in which both ends have ${symbol} among their top genes.`;
  const columns = [
    endColumn("source", "Source", end("source")),
    endColumn("target", "Target", end("target")),
    ...numberColumns(true),
  ];
  const caption = `Edges between features of ${symbol}`;
  const table = dataTable({ caption, columns, rows: edges, sort: "snr", descending: true, perPage: 15 });
  return [title, element("p", {}, note), table.box];
}

/** The page: the search alone, or one gene. */
export async function render(view, { parts }) {
  const [{ columns: genes }, contents] = await Promise.all([loadJson("genes.json.gz"), loadContents()]);
  const wanted = parts.join("/");
  append(view, heading(wanted ? `Gene ${wanted}` : "Genes"), searchForm(genes.symbol, wanted));
  if (!genes.symbol.length) {
    append(
      view,
      emptyState("No feature of this atlas lists genes. Run the `annotate` stage and build the atlas again."),
    );
    return "Genes";
  }
  if (!wanted) {
    append(view, ...startPage(genes));
    return "Genes";
  }
  const place = findName(genes.symbol, wanted);
  if (place < 0) {
    const near = similar(genes.symbol, wanted.slice(0, 3)).slice(0, 8).join(", ");
    const advice = near ? `Symbols that start alike: ${near}.` : "Check the spelling; symbols are those of the model.";
    throw new AtlasError(`${wanted} is not a top gene of any feature.`, advice, [address("gene"), "Choose a gene"]);
  }
  const [features, edges, others] = await Promise.all([
    ...["gene_features", "gene_edges"].map((table) => loadItemRows(table, "gene", place, contents.genes_per_shard)),
    otherRuns("genes.json.gz", "symbol", genes.symbol[place], "n_features", geneAddress),
  ]);
  const symbol = genes.symbol[place];
  const intro = `Features with ${symbol} among their top genes: ${count(features.length)}.`;
  const circuit = address(`circuit/gene/${encodeURIComponent(symbol)}`);
  append(
    view,
    element(
      "p",
      { class: "actions" },
      features.some((row) => row.n_out + row.n_in > 0) &&
        element("a", { class: "action", href: circuit }, "Draw its circuit"),
      ...others,
    ),
    element("p", {}, intro),
    featureTable(symbol, features),
  );
  append(view, element("section", {}, ...edgeSection(symbol, edges, genes.n_edges[place], features)));
  return `Gene ${symbol}`;
}
