// What the numbers mean. The tables of columns are those that the program checks its own tables against.

import { append, element, heading } from "../dom.js";
import { loadMeanings } from "../meanings.js";
import { provenanceSection } from "../provenance.js";

const TITLES = {
  edges: "Edges",
  features: "Features",
  feature_genes: "Top genes",
  terms: "Enriched gene sets",
  regulators: "Regulators whose targets are enriched",
  activation_bins: "Histograms of activations",
  cell_labels: "Features and labels of cells",
  interactions: "Interactions among top genes",
  quality: "Quality of the autoencoders",
  attenuation: "Edges between layers",
  hubs: "Hubs",
  signs: "Signs",
  circuits: "Circuits between programs",
  consensus: "Pairs of programs that two runs connect",
  modules: "Modules: features that fire together",
  module_labels: "What the modules are",
  answers: "Answers of the findings",
};

const PROSE = [
  [
    "What was done",
    "A sparse autoencoder describes the residual stream of the model after each layer as a sum of a few " +
      "features and a remainder. To measure what a feature does, it is ablated: its contribution, activation " +
      "times decoder row, is subtracted at every gene position where it is active, and the later layers are run " +
      "again; the remainder stays in. Everything that differs from the clean run of the same cell is an effect " +
      "of that feature.",
  ],
  [
    "What delta means",
    "delta = ablated − clean activation of the target feature, averaged over positions of one cell; the numbers" +
      " shown are means over cells. A negative delta (▼ supports) means that the target falls when the source is " +
      "removed: the source supports the target. A positive delta (▲ opposes) means that the target rises. A cell " +
      "counts as one observation.",
  ],
  [
    "When an effect is called an edge",
    "The calibrated rule asks for a small q (Benjamini-Hochberg over all targets of all sources of a source " +
      "layer), enough cells in which the source is active, |snr| above a limit, and agreement in sign among the " +
      "cells that respond. The published rule (Kendiukhov 2026) asks for |snr| and for consistency, in which a " +
      "cell without any change counts as negative; it favours negative edges. The settings of the run say which " +
      "rule was used and its limits.",
  ],
  [
    "How strong is an edge?",
    "snr is the mean delta divided by its standard deviation over cells. It says how reliable the sign is, not " +
      "how large the effect is. For size, read the effect and the relative effect, which divides it by the " +
      "target's clean activation. Agreement is the share of responding cells on the side of the mean; without any" +
      " effect it is about 50 %.",
  ],
  [
    "What the edges are not",
    "They are causal inside the model and for the cells that were traced. They do not show that one gene " +
      "regulates another. A missing edge is no evidence of absence: only ablated features can have outgoing " +
      "edges, and the residual stream carries part of every feature onward by itself, which makes neighbouring " +
      "layers look strongly connected.",
  ],
  [
    "What “beyond random directions” means",
    "In the place of each source, random directions of the same norm are removed at the same positions. An edge is " +
      "beyond them if its computed effect on the target is farther from theirs than chance allows (specific_q). " +
      "An edge within them exists all the same, but says nothing of this feature in particular: any direction does it.",
  ],
  [
    "What “computed” means",
    "Part of an effect needs no computation: the removed vector persists in the residual stream, through skip " +
      "connections and norms, and the target reads it. The computed share is what remains: what attention and the " +
      "feed-forward layers between source and target make of the change.",
  ],
  [
    "The maps of the layers",
    "Features with similar decoder directions stand close together; each map says by which method. Distances between " +
      "far points, the axes, and the gaps between groups mean nothing.",
  ],
  [
    "Digits",
    "Numbers in this atlas are kept with four significant digits; the Parquet files of the run have all. A dash means that a value does not exist, such" +
      " as the relative effect on a target that is silent in the clean run.",
  ],
];

function columnTable(name, rows) {
  const body = rows.map((row) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, element("code", {}, row.column)),
      element("td", { "data-name": "Unit" }, row.unit),
      element("td", { "data-name": "Meaning" }, row.meaning),
    ),
  );
  const head = ["Column", "Unit", "Meaning"].map((title) => element("th", { scope: "col" }, title));
  return element(
    "div",
    { class: "table-frame" },
    element(
      "table",
      { class: "list meaning-table cards-on-phone" },
      element("caption", {}, TITLES[name] ?? name, element("span", { class: "small muted" }, ` ${rows[0].rows}`)),
      element("thead", {}, element("tr", {}, ...head)),
      element("tbody", {}, ...body),
    ),
  );
}

/** The page. */
export async function render(view) {
  const meanings = await loadMeanings();
  const tables = [...new Set(meanings.map(({ table }) => table))];
  append(view, heading("Methods"));
  for (const [title, text] of PROSE) {
    append(view, element("section", { class: "prose" }, element("h2", {}, title), element("p", {}, text)));
  }
  append(view, await provenanceSection(), element("h2", {}, "Columns of the tables"));
  append(
    view,
    ...tables.map((name) =>
      columnTable(
        name,
        meanings.filter(({ table }) => table === name),
      ),
    ),
  );
  return "Methods";
}
