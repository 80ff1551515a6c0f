// The findings of a run: every question with its number, its chance baseline and its verdict; figures; the report.

import { answerSections, verdictCounts } from "../answers.js";
import { loadContents, loadRows } from "../data.js";
import { append, element, emptyState, heading, section } from "../dom.js";
import { meaningList } from "../meanings.js";
import { fileAddress, pictures } from "../pictures.js";
import { address, currentRun, severalRuns } from "../runs.js";

/** The page. */
export async function render(view) {
  const [contents, rows] = await Promise.all([loadContents(), loadRows("answers.json.gz")]);
  const title = severalRuns() ? `Findings: ${currentRun().name}` : "Findings";
  append(view, heading(title));
  if (contents.report) {
    const href = fileAddress(contents.report);
    append(view, element("p", {}, element("a", { class: "action", href }, "Open the full report")));
  }
  if (rows.length) {
    const intro = element(
      "p",
      {},
      "The biological questions asked of the edges. Each number stands beside what chance makes of it; a verdict needs ",
      "q at or below the run's ",
      element("code", {}, "findings.max_q"),
      " over all tested answers.",
    );
    append(view, intro, element("p", {}, `Answers: ${verdictCounts(rows)}.`), ...answerSections(rows));
    append(
      view,
      await meaningList("answers", [
        ["Found", "value"],
        ["By chance", "baseline"],
        ["p", "p_value"],
        ["q", "q_value"],
        ["Published statistic", "published_is"],
      ]),
    );
  } else {
    const advice = "Run `findings` again with this version, and build the atlas again.";
    const overview = element("a", { href: address("") }, "overview");
    append(
      view,
      emptyState(`This run has no table of answers. ${advice} Circuits, hubs and signs are on the `, overview, "."),
    );
  }
  if (contents.figures.length) append(view, section("Figures", pictures(contents.figures)));
  return title;
}
