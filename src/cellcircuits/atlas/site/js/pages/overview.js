// The overview. Its text, numbers and figures are in index.html already; circuits and hubs are filled in here.

import { loadContents, loadRows } from "../data.js";
import { element, emptyState } from "../dom.js";
import { errorNotice } from "../errors.js";
import {
  circuitAddress,
  count,
  counted,
  featureLink,
  geneLinks,
  geneList,
  number,
  percent,
  probability,
  programLink,
} from "../format.js";
import { meaningList } from "../meanings.js";
import { currentRun, severalRuns } from "../runs.js";
import { dataTable } from "../table.js";

const STRONGEST = /^L(\d+)\/F(\d+) -> L(\d+)\/F(\d+)$/;

function program(label, genes) {
  const symbols = geneList(genes, 4);
  const shown = symbols.length ? element("span", { class: "genes small" }, ...geneLinks(symbols)) : null;
  return element("span", { class: "end" }, element("strong", { class: "label" }, programLink(label)), " ", shown);
}

function strongestLink(text) {
  const found = text.match(STRONGEST);
  if (!found) return text;
  const [source, sourceFeature, target, targetFeature] = found.slice(1).map(Number);
  return element(
    "span",
    { class: "pair" },
    featureLink(source, sourceFeature),
    " → ",
    featureLink(target, targetFeature),
    " ",
    element("a", { class: "small", href: circuitAddress(source, sourceFeature) }, "draw"),
  );
}

const CIRCUIT_COLUMNS = [
  {
    key: "source",
    title: "Source program",
    value: (row) => row.source_label,
    cell: (row) => program(row.source_label, row.source_genes),
  },
  {
    key: "target",
    title: "Target program",
    value: (row) => row.target_label,
    cell: (row) => program(row.target_label, row.target_genes),
  },
  {
    key: "edges",
    title: "Edges\n(by chance)",
    numeric: true,
    descending: true,
    value: (row) => row.n_edges,
    cell: (row) => `${count(row.n_edges)} (${number(row.n_expected)})`,
  },
  { key: "q", title: "q", numeric: true, value: (row) => row.q_value, cell: (row) => probability(row.q_value) },
  {
    key: "snr",
    title: "Mean snr",
    numeric: true,
    value: (row) => row.mean_snr,
    cell: (row) => number(row.mean_snr),
  },
  {
    key: "sign",
    title: "▼\u00a0supports",
    numeric: true,
    descending: true,
    value: (row) => row.share_negative,
    cell: (row) => percent(row.share_negative),
  },
  {
    key: "strongest",
    title: "Strongest edge",
    value: (row) => row.strongest,
    cell: (row) => strongestLink(row.strongest),
  },
];

async function fillCircuits(box) {
  const [rows, contents] = await Promise.all([loadRows("circuits.json.gz"), loadContents()]);
  const title = element("h2", {}, "Top circuits");
  if (!rows.length) {
    const advice = "No pair of programs was tested. Label more features (`annotate`) and run `findings` again.";
    box.replaceChildren(title, emptyState(advice));
    return;
  }
  const { n_circuits: total, n_circuits_beyond_chance: beyond, circuit_max_q: maxQ } = contents;
  const intro =
    "Pairs of gene programs with edges between their features, smallest q first. Beside the number of edges: how many " +
    "there are by chance, when target labels are permuted within layers. ";
  const outcome = beyond
    ? `Of ${counted(total, "pair")}, ${count(beyond)} with q ≤ ${maxQ} have more edges than chance explains.`
    : `None of ${counted(total, "pair")} has q ≤ ${maxQ}: chance can explain these numbers of edges.`;
  const part = rows.length < total ? ` The first ${count(rows.length)} are listed.` : "";
  const caption = "Circuits between gene programs";
  const table = dataTable({ caption, columns: CIRCUIT_COLUMNS, rows, sort: "q", perPage: 10 });
  const names = CIRCUIT_COLUMNS.map((c, i) => [
    c.title.split("\n")[0],
    ["source_label", "target_label", "n_edges", "q_value", "mean_snr", "share_negative", "strongest"][i],
  ]);
  names.splice(3, 0, ["Edges by chance", "n_expected"]);
  box.replaceChildren(
    title,
    element("p", {}, intro, element("strong", {}, outcome), part),
    table.box,
    await meaningList("circuits", names),
  );
}

function hubTable(caption, rows) {
  const columns = [
    {
      key: "feature",
      title: "Feature",
      value: (row) => `${row.layer}/${row.feature}`,
      cell: (row) =>
        element(
          "span",
          { class: "end" },
          featureLink(row.layer, row.feature),
          " ",
          element("span", { class: row.label ? "label" : "label muted" }, row.label || "no label"),
        ),
    },
    {
      key: "degree",
      title: "Edges",
      numeric: true,
      descending: true,
      value: (r) => r.degree,
      cell: (r) => count(r.degree),
    },
    {
      key: "residual",
      title: "Beyond\nfiring rate",
      numeric: true,
      descending: true,
      value: (r) => r.degree_residual,
      cell: (r) => number(r.degree_residual),
    },
    {
      key: "rate",
      title: "Firing rate",
      numeric: true,
      descending: true,
      value: (r) => r.firing_rate,
      cell: (r) => percent(r.firing_rate),
    },
  ];
  return dataTable({ caption, columns, rows, sort: "degree", descending: true, perPage: 8 }).box;
}

async function fillHubs(box) {
  const rows = await loadRows("hubs.json.gz");
  const title = element("h2", {}, "Hubs");
  if (!rows.length) {
    box.replaceChildren(
      title,
      emptyState("This run lists no hubs. Run the `findings` stage and build the atlas again."),
    );
    return;
  }
  const intro =
    "Features with the most edges. A feature that fires often has more edges for that reason alone, so compare " +
    "“beyond firing rate”: above 0 means more edges than its firing rate predicts.";
  const tables = [
    ["Sources with the most targets", "out"],
    ["Targets with the most sources", "in"],
  ].map(([caption, direction]) =>
    hubTable(
      caption,
      rows.filter((row) => row.direction === direction),
    ),
  );
  const meanings = await meaningList("hubs", [
    ["Edges", "degree"],
    ["Beyond firing rate", "degree_residual"],
    ["Firing rate", "firing_rate"],
  ]);
  box.replaceChildren(title, element("p", {}, intro), element("div", { class: "two" }, ...tables), meanings);
}

async function fill(section) {
  const parts = Object.entries({ ".top-circuits": fillCircuits, ".top-hubs": fillHubs }).map(async ([name, draw]) => {
    const box = section.querySelector(name);
    if (box.childElementCount && !box.querySelector(".notice")) return;
    await draw(box).catch((error) => box.replaceChildren(errorNotice(error)));
  });
  await Promise.all(parts);
}

/**
 * Show the overview of the site, or that of one run, and fill what is not in index.html, once; a failure leaves the rest
 * of the overview readable.
 */
export async function render(_, { hasRun }) {
  const one = hasRun || !severalRuns();
  const shown = one ? currentRun() : null;
  const title = document.querySelector("#overview h1");
  title.dataset.site ??= title.textContent;
  title.textContent = hasRun && severalRuns() ? shown.name : title.dataset.site;
  document.getElementById("intro").hidden = hasRun && severalRuns();
  const sections = [...document.querySelectorAll("#overview .run")];
  for (const section of sections) {
    section.hidden = section.dataset.run !== shown?.key;
    const heading = section.querySelector(".run-title");
    if (heading) heading.hidden = true; // the heading of the page says it
  }
  const section = sections.find(({ hidden }) => !hidden);
  if (section) await fill(section);
  return hasRun && severalRuns() ? shown.name : "";
}
