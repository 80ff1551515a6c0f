// Links to the same gene or program in the other runs of the site.

import { loadJson } from "./data.js";
import { element } from "./dom.js";
import { counted } from "./format.js";
import { allRuns, currentRun } from "./runs.js";

/** One link for each other run that has `name` in the column of a list; `counts` says how many features it has. */
export async function otherRuns(file, column, name, counts, addressOf) {
  const others = allRuns().filter((run) => run !== currentRun());
  const lists = await Promise.all(others.map((run) => loadJson(file, run)));
  return others.flatMap((run, i) => {
    const place = lists[i].columns[column].indexOf(name);
    if (place < 0) return [element("span", { class: "muted" }, `not in ${run.name}`)];
    const text = `In ${run.name}: ${counted(lists[i].columns[counts][place], "feature")}`;
    return [element("a", { class: "action", href: addressOf(name, run) }, text)];
  });
}
