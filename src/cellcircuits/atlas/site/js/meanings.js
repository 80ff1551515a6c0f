// Meanings of the columns, as declared by the program that wrote the tables.

import { loadSiteJson, rowsOf } from "./data.js";
import { element } from "./dom.js";

/** All columns of the tables: {table, rows, column, unit, meaning}. */
export async function loadMeanings() {
  return rowsOf(await loadSiteJson("columns.json.gz"));
}

/** A fold-out list with the meaning of some columns; `names` are [title in the page, column]. */
export async function meaningList(table, names) {
  const meanings = new Map((await loadMeanings()).filter((m) => m.table === table).map((m) => [m.column, m]));
  const entries = names
    .filter(([, column]) => meanings.has(column))
    .flatMap(([title, column]) => [element("dt", {}, title), element("dd", {}, meanings.get(column).meaning)]);
  return element(
    "details",
    { class: "meanings" },
    element("summary", {}, "What the columns mean"),
    element("dl", {}, ...entries),
  );
}
