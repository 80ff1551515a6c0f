// Answers of the findings: a number beside its chance baseline, its interval, and a plain verdict.

import { element } from "./dom.js";
import { number, percent, probability } from "./format.js";

const VERDICTS = {
  supported: ["●", "yes"],
  "the opposite is found": ["✗", "opposite"],
  "not distinguishable from chance": ["○", "chance"],
  "cannot be tested with these inputs": ["–", "missing"],
  "a description, not a test": ["■", "description"],
};

/** The verdict as symbol and words. */
function verdictBadge(verdict) {
  const [symbol, kind] = VERDICTS[verdict] ?? ["·", "missing"];
  return element("span", { class: `verdict ${kind}` }, `${symbol} ${verdict}`);
}

const inUnit = (value, unit) => {
  if (value === null) return "–";
  if (unit === "share") return percent(value);
  return unit && unit !== "1" && unit !== "-" ? `${number(value)} ${unit}` : number(value);
};

function range(row) {
  if (row.low === null || row.high === null) return "";
  return ` (95 %: ${inUnit(row.low, row.unit)} to ${inUnit(row.high, row.unit)})`;
}

function fact(name, value, note) {
  const more = note ? element("p", { class: "small muted" }, note) : null;
  return element("div", {}, element("dt", {}, name), element("dd", {}, value, more));
}

function answerBox(row) {
  const known = row.value !== null;
  const facts = [
    known && fact("Found", element("strong", {}, inUnit(row.value, row.unit), range(row)), row.statistic),
    known && fact("By chance", inUnit(row.baseline, row.unit), row.baseline_is),
    row.published !== null && fact("Published statistic", inUnit(row.published, row.unit), row.published_is),
    row.p_value !== null && fact("p (q over the report)", `${probability(row.p_value)} (${probability(row.q_value)})`),
  ].filter(Boolean);
  return element(
    "article",
    { class: "card answer" },
    element("p", { class: "asked" }, row.asked, " ", verdictBadge(row.verdict)),
    known ? null : element("p", {}, row.statistic),
    facts.length ? element("dl", { class: "facts" }, ...facts) : null,
    row.note ? element("p", { class: "small" }, row.note) : null,
  );
}

/** The answers by question, in the order of the report. */
export function answerSections(rows) {
  const questions = [...new Set(rows.map(({ question }) => question))];
  return questions.map((question) => {
    const title = question.replaceAll("_", " ");
    const boxes = rows.filter((row) => row.question === question).map(answerBox);
    return element("section", {}, element("h2", {}, title.charAt(0).toUpperCase() + title.slice(1)), ...boxes);
  });
}

/** How many answers have each verdict, in the order in which verdicts are explained. */
export function verdictCounts(rows) {
  const counts = new Map();
  for (const { verdict } of rows) counts.set(verdict, (counts.get(verdict) ?? 0) + 1);
  const names = new Set([...Object.keys(VERDICTS), ...counts.keys()]);
  return [...names].filter((name) => counts.has(name)).map((name) => `${name} (${counts.get(name)})`).join("; ");
}
