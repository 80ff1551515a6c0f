// Reads the compressed tables under data/. Every file is asked for at most once while the site is open.

import { AtlasError } from "./errors.js";
import { currentRun } from "./runs.js";

const DATA = new URL("../data/", import.meta.url);
const KEPT_FILES = 300;
const loaded = new Map();

async function unpack(buffer) {
  const bytes = new Uint8Array(buffer);
  // Some web hosts declare .gz files as compressed transfers; the browser has then unpacked them already.
  const packed = bytes[0] === 0x1f && bytes[1] === 0x8b;
  if (!packed) return new TextDecoder().decode(bytes);
  if (!("DecompressionStream" in globalThis)) {
    throw new AtlasError("This browser cannot unpack the tables.", "Use Chrome 80, Firefox 113, Safari 16.4 or later.");
  }
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

/** A column as a list of values; see shards.py for the three forms. */
function decoded(column, length) {
  if (Array.isArray(column)) return column;
  if ("codes" in column) return column.codes.map((code) => column.values[code]);
  return Array(length).fill(column.constant);
}

function unfold(content) {
  if (!content.columns) return content;
  const columns = Object.entries(content.columns).map(([name, column]) => [name, decoded(column, content.length)]);
  return { length: content.length, columns: Object.fromEntries(columns) };
}

async function request(name) {
  let response;
  try {
    // no-cache: ask whether the file changed, so that files of two builds never mix
    response = await fetch(new URL(name, DATA), { cache: "no-cache" });
  } catch {
    throw new AtlasError(
      `The file data/${name} could not be reached.`,
      "The web server may have stopped. Run `cellcircuits atlas RUN --open` again and reload this page.",
    );
  }
  if (!response.ok) {
    throw new AtlasError(
      `The file data/${name} is missing (status ${response.status}).`,
      "The atlas is incomplete. Copy its whole folder again, or build it again with `cellcircuits atlas RUN`.",
    );
  }
  const buffer = await response.arrayBuffer();
  try {
    return unfold(JSON.parse(await unpack(buffer)));
  } catch (error) {
    if (error instanceof AtlasError) throw error;
    throw new AtlasError(`The file data/${name} is damaged.`, "Build the atlas again with `cellcircuits atlas RUN`.");
  }
}

/** The content of a file under data/: {length, columns} for tables. */
export function loadSiteJson(name) {
  if (!loaded.has(name)) {
    if (loaded.size >= KEPT_FILES) loaded.delete(loaded.keys().next().value);
    const promise = request(name);
    promise.catch(() => loaded.delete(name));
    loaded.set(name, promise);
  }
  return loaded.get(name);
}

/** The content of a file of a run. */
export function loadJson(name, run = currentRun()) {
  return loadSiteJson(`${run.key}/${name}`);
}

/** The rows of a table in columns, as objects. */
export function rowsOf({ length, columns }, keep = () => true) {
  const names = Object.keys(columns);
  const rows = [];
  for (let i = 0; i < length; i += 1) {
    if (!keep(columns, i)) continue;
    const row = {};
    for (const name of names) row[name] = columns[name][i];
    rows.push(row);
  }
  return rows;
}

/** The rows of a table of a run, as objects. */
export async function loadRows(name, keep = undefined, run = currentRun()) {
  return rowsOf(await loadJson(name, run), keep);
}

/** What the site holds: title, runs, comparison. */
export function loadSite() {
  return loadSiteJson("site.json.gz");
}

/** What a run holds: layers, numbers of rows, names of shards. */
export function loadContents(run = currentRun()) {
  return loadJson("contents.json.gz", run);
}

const padded = (number, width) => String(number).padStart(width, "0");

/** Name of the file of a layer: layerFile("map", 3). */
export function layerFile(table, layer) {
  return `${table}/L${padded(layer, 2)}.json.gz`;
}

/** The rows of one item (gene or program) of a table sharded by item. */
export function loadItemRows(table, column, item, perShard) {
  const name = `${table}/${padded(Math.floor(item / perShard), 4)}.json.gz`;
  return loadRows(name, (columns, i) => columns[column][i] === item);
}

/** The rows of one feature in a sharded table ("features", "terms", "edges_out", ...). */
export async function loadFeatureRows(table, layer, feature) {
  const { features_per_shard: width, shards } = (await loadContents()).shards[table];
  const number = Math.floor(feature / width);
  if (!(shards[layer] ?? []).includes(number)) return [];
  const [layerColumn, featureColumn] = {
    edges_out: ["source_layer", "source_feature"],
    edges_in: ["target_layer", "target_feature"],
  }[table] ?? ["layer", "feature"];
  const name = `${table}/L${padded(layer, 2)}/${padded(number, 4)}.json.gz`;
  return loadRows(name, (columns, i) => columns[featureColumn][i] === feature && columns[layerColumn][i] === layer);
}

/** One feature, or null if the run has none of that name. */
export async function loadFeature(layer, feature) {
  return (await loadFeatureRows("features", layer, feature))[0] ?? null;
}

/** Edges of a feature with the other end as {layer, feature, label, genes}; `direction` is "out" or "in". */
export async function loadEdges(direction, layer, feature) {
  const other = direction === "out" ? "target" : "source";
  const rows = await loadFeatureRows(`edges_${direction}`, layer, feature);
  return rows.map((edge) => ({
    ...edge,
    other: {
      layer: edge[`${other}_layer`],
      feature: edge[`${other}_feature`],
      label: edge.other_label,
      genes: edge.other_genes,
    },
  }));
}
