// Where the numbers come from: versions, settings and hashes of every stage, as the run recorded them.

import { loadJson } from "./data.js";
import { append, element, emptyState } from "./dom.js";
import { count } from "./format.js";
import { currentRun, severalRuns } from "./runs.js";

const MEGABYTE = 1e6;

function flat(value, prefix = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return [[prefix, value]];
  return Object.entries(value).flatMap(([name, inner]) => flat(inner, prefix ? `${prefix}.${name}` : name));
}

const text = (value) => (value === null || typeof value === "object" ? JSON.stringify(value) : String(value));

function pairs(entries) {
  const rows = entries.map(([name, value]) =>
    element("tr", {}, element("th", { scope: "row" }, element("code", {}, name)), element("td", {}, text(value))),
  );
  return element("table", { class: "pairs" }, element("tbody", {}, ...rows));
}

function stageBox(manifest) {
  const { stage, settings, inputs, record, hash, created, package_version: version } = manifest;
  const facts = `${created}, cellcircuits ${version}, ${count(manifest.n_files)} files`;
  const size = `${(manifest.size_bytes / MEGABYTE).toPrecision(3)} MB`;
  const short = Object.entries(inputs).map(([name, value]) => `${name} ${value.slice(0, 12)}`);
  const entries = [["hash", hash], ["inputs", short.join(", ") || "none"], ...flat(settings)];
  return element(
    "details",
    { class: "card" },
    element("summary", {}, element("strong", {}, stage), element("span", { class: "muted" }, ` ${facts}, ${size}`)),
    pairs(entries),
    element("details", {}, element("summary", {}, "What the stage recorded"), pairs(flat(record))),
  );
}

/** The section of the page of methods. */
export async function provenanceSection() {
  const stages = await loadJson("provenance.json.gz");
  const title = severalRuns() ? `Provenance of ${currentRun().name}` : "Provenance";
  const box = element("section", {}, element("h2", {}, title));
  if (!stages.length) return append(box, emptyState("This atlas was built from tables alone, without a run folder."));
  const intro =
    "Every stage with the settings that decide it. The hash changes when its files are made again from other inputs or " +
    "settings; inputs are the stages it was made from.";
  return append(box, element("p", {}, intro), ...stages.map(stageBox));
}
