// Two or more runs side by side: key numbers, what a comparison found, and the pairs of programs that both connect.

import { answerSections, verdictCounts } from "../answers.js";
import { loadRows, loadSite, loadSiteJson, rowsOf } from "../data.js";
import { append, element, emptyState, heading, section } from "../dom.js";
import { count, number, programAddress } from "../format.js";
import { meaningList } from "../meanings.js";
import { pictures } from "../pictures.js";
import { address, allRuns } from "../runs.js";
import { dataTable } from "../table.js";

/** Key numbers of all runs in one table: a row for each that any run has, in the order of the first that has it. */
function keyNumbers(runs, summaries) {
  const rows = new Map();
  summaries.forEach((summary, i) => {
    for (const { section: part, name, value } of summary) {
      const key = `${part} ${name}`;
      if (!rows.has(key)) rows.set(key, { part, name, values: runs.map(() => "–") });
      rows.get(key).values[i] = value;
    }
  });
  const head = ["", ...runs.map(({ name }) => name)];
  const cells = ["Number", ...head.slice(1)].map((name, i) =>
    element("th", { scope: "col" }, i ? element("a", { href: address("", runs[i - 1]) }, name) : name),
  );
  let part = "";
  const body = [...rows.values()].flatMap((row) => {
    const title = row.part !== part && element("tr", {}, element("th", { scope: "colgroup", colspan: head.length, class: "part" }, row.part));
    part = row.part;
    const values = row.values.map((value, i) => element("td", { "data-name": head[i + 1] }, value));
    return [title, element("tr", {}, element("th", { scope: "row" }, row.name), ...values)].filter(Boolean);
  });
  return element(
    "div",
    { class: "table-frame" },
    element(
      "table",
      { class: "list side-by-side" },
      element("caption", {}, "Key numbers of the runs"),
      element("thead", {}, element("tr", {}, ...cells)),
      element("tbody", {}, ...body),
    ),
  );
}

/** A program with a link into each of the first two runs. */
function programInBoth(name, runs) {
  const links = runs
    .slice(0, 2)
    .map((run) => element("a", { class: "small item", href: programAddress(name, run) }, run.key));
  return element("span", { class: "end" }, element("span", { class: "label" }, name), " ", ...links.flatMap((l) => [l, " "]));
}

function consensusTable(rows, runs) {
  const numeric = (key, title, cell) => ({ key, title, numeric: true, descending: true, value: (row) => row[key], cell });
  const columns = [
    {
      key: "source",
      title: "Source program",
      value: (row) => row.source_label,
      cell: (row) => programInBoth(row.source_label, runs),
    },
    {
      key: "target",
      title: "Target program",
      value: (row) => row.target_label,
      cell: (row) => programInBoth(row.target_label, runs),
    },
    numeric("n_runs", "Runs", (row) => count(row.n_runs)),
    numeric("chance_runs", "Runs by\nchance", (row) => number(row.chance_runs)),
    numeric("n_edges", "Edges", (row) => count(row.n_edges)),
    numeric("mean_snr", "Mean snr", (row) => number(row.mean_snr)),
    {
      key: "same",
      title: "Same sign",
      value: (row) => Number(row.same_sign),
      cell: (row) => (row.same_sign ? "● yes" : "○ no"),
    },
  ];
  const caption = "Pairs of programs that several runs connect";
  return dataTable({ caption, columns, rows, sort: "n_edges", descending: true }).box;
}

async function comparisonParts(runs, comparison) {
  if (!comparison) {
    const advice = "Compare them first (`cellcircuits compare RUN RUN`), or name the folder in `atlas.comparison`.";
    return [section("What they agree on", emptyState(`This atlas has no comparison of its runs. ${advice}`))];
  }
  const [consensus, answers] = await Promise.all(
    ["consensus", "answers"].map(async (name) => rowsOf(await loadSiteJson(`comparison/${name}.json.gz`))),
  );
  const intro = "A pair counts if two runs or more have an edge between features with these labels. Links lead to each run.";
  return [
    ...(answers.length ? [element("p", {}, `Answers: ${verdictCounts(answers)}.`), ...answerSections(answers)] : []),
    comparison.figures.length ? section("Figures", pictures(comparison.figures)) : null,
    section(
      "Pairs of programs that they connect",
      element("p", {}, intro),
      consensus.length ? consensusTable(consensus, runs) : emptyState("No pair of programs is connected in two runs."),
      await meaningList("consensus", [
        ["Runs", "n_runs"],
        ["Runs by chance", "chance_runs"],
        ["Edges", "n_edges"],
        ["Mean snr", "mean_snr"],
        ["Same sign", "same_sign"],
      ]),
    ),
  ];
}

/** The page. */
export async function render(view) {
  const [site, runs] = [await loadSite(), allRuns()];
  const summaries = await Promise.all(runs.map((run) => loadRows("summary.json.gz", undefined, run)));
  append(view, heading("Comparison of runs"));
  if (runs.length < 2) {
    append(view, emptyState("This atlas has one run. Add others with `cellcircuits atlas RUN --also OTHER_RUN`."));
  }
  append(view, ...(await comparisonParts(runs, site.comparison)), section("Key numbers", keyNumbers(runs, summaries)));
  return "Comparison of runs";
}
