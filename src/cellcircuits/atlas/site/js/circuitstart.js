// Where a circuit starts: a feature, the features of a gene, or those of a program.

import { loadContents, loadItemRows, loadJson, loadRows } from "./data.js";
import { AtlasError } from "./errors.js";
import { featureAddress, featureName, geneAddress, programAddress } from "./format.js";
import { featureOfRoute } from "./pages/feature.js";
import { address } from "./runs.js";

const STARTS = 8;

/** Place of a name in a list; upper and lower case count only where both exist. -1 if it is not there. */
export function findName(names, name) {
  const exact = names.indexOf(name);
  if (exact >= 0) return exact;
  const lower = name.toLowerCase();
  return names.findIndex((other) => other.toLowerCase() === lower);
}

async function featureStart(parts) {
  const row = await featureOfRoute(parts);
  const { layer, feature, label } = row;
  const name = featureName(layer, feature);
  return {
    title: `Circuit around ${name}`,
    label,
    path: `circuit/feature/${layer}/${feature}`,
    page: [featureAddress(layer, feature), "Open its page"],
    nodes: [{ layer, feature, label, genes: row.top_genes }],
    hasEdges: row.n_out + row.n_in > 0,
    total: 1,
  };
}

/** The first features that have edges, as starts. */
function withEdges(rows, genes) {
  const able = rows.filter((row) => row.n_out + row.n_in > 0);
  const nodes = able.slice(0, STARTS).map(({ layer, feature, label }) => ({ layer, feature, label, genes }));
  return { nodes, hasEdges: able.length > 0, total: able.length };
}

async function geneStart(symbol) {
  const [{ columns }, contents] = await Promise.all([loadJson("genes.json.gz"), loadContents()]);
  const place = findName(columns.symbol, symbol);
  if (place < 0) {
    const advice = "Check the spelling; symbols are those of the model.";
    throw new AtlasError(`${symbol} is not a top gene of any feature.`, advice, [address("gene"), "Choose a gene"]);
  }
  const found = columns.symbol[place];
  const rows = await loadItemRows("gene_features", "gene", place, contents.genes_per_shard);
  rows.sort((a, b) => a.rank - b.rank || b.score - a.score);
  return {
    title: `Circuit of the gene ${found}`,
    label: "",
    path: `circuit/gene/${encodeURIComponent(found)}`,
    page: [geneAddress(found), `All features of ${found}`],
    ...withEdges(rows, found),
  };
}

async function programStart(name) {
  const [{ columns }, contents] = await Promise.all([loadJson("programs.json.gz"), loadContents()]);
  const place = findName(columns.program, name);
  if (place < 0) {
    const link = [address("program"), "Choose a program"];
    throw new AtlasError(`No feature has the program “${name}”.`, "Check the name, or choose from the list.", link);
  }
  const found = columns.program[place];
  const rows = await loadItemRows("program_features", "program", place, contents.programs_per_shard);
  rows.sort((a, b) => b.labelled - a.labelled || a.q_value - b.q_value);
  return {
    title: "Circuit of the program",
    label: found,
    path: `circuit/program/${encodeURIComponent(found)}`,
    page: [programAddress(found), "All its features"],
    ...withEdges(rows, ""),
  };
}

/**
 * What an address starts from: {title, label, path, page, nodes, hasEdges, total}; total counts the features with edges
 * of which `nodes` are the first.
 */
export function startOfRoute(parts) {
  const [kind, ...rest] = parts;
  if (kind === "gene" && rest.length) return geneStart(rest.join("/"));
  if (kind === "program" && rest.length) return programStart(rest.join("/"));
  return featureStart(kind === "feature" ? rest : parts);
}

/** Features with many edges to start from. */
export function loadHubs() {
  return loadRows("hubs.json.gz");
}
