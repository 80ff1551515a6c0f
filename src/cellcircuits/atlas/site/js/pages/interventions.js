// What changes of features do: every experiment with its number, its chance baseline and its verdict; figures; the report.

import { answerSections, verdictCounts } from "../answers.js";
import { loadContents, loadRows } from "../data.js";
import { append, element, emptyState, heading, section } from "../dom.js";
import { meaningList } from "../meanings.js";
import { fileAddress, pictures } from "../pictures.js";
import { currentRun, severalRuns } from "../runs.js";

const INTRO =
  "Features were not only removed: their activation was scaled, several were changed together, whole circuits were kept or " +
  "taken away, and the model's output was read. Each number stands beside what chance makes of it. They are effects inside " +
  "the model.";

/** The page. */
export async function render(view) {
  const { interventions } = await loadContents();
  const title = severalRuns() ? `Interventions: ${currentRun().name}` : "Interventions";
  append(view, heading(title));
  if (!interventions) {
    const advice = "Run `cellcircuits interventions RUN`, and build the atlas again.";
    append(view, emptyState(`No interventions were made in this run. ${advice}`));
    return title;
  }
  if (interventions.report) {
    const href = fileAddress(interventions.report);
    append(view, element("p", {}, element("a", { class: "action", href }, "Open the full report")));
  }
  const rows = await loadRows("intervention_answers.json.gz");
  append(view, element("p", {}, INTRO), element("p", {}, `Answers: ${verdictCounts(rows)}.`), ...answerSections(rows));
  const names = [
    ["Found", "value"],
    ["By chance", "baseline"],
    ["p", "p_value"],
    ["q", "q_value"],
  ];
  append(view, await meaningList("answers", names));
  if (interventions.figures.length) append(view, section("Figures", pictures(interventions.figures)));
  return title;
}
