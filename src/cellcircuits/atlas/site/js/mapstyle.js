// How the points of a map are painted: by module or label (groups), or by firing rate or degree (numbers).

import { GROUPS_SHOWN, groupStyle, scaleColour } from "./colours.js";
import { number, percent } from "./format.js";

const NUMBERS = {
  firing_rate: ["Firing rate", (row) => row.firing_rate, percent],
  n_out: ["Edges out", (row) => row.n_out, number],
  n_in: ["Edges in", (row) => row.n_in, number],
};
const GROUPED = {
  label: ["Label", (row) => row.label || null, (value) => value],
  module: ["Module", (row) => (row.module >= 0 ? row.module : null), (value, names) => names.get(value) ?? `module ${value}`],
};

/** What points can be coloured by: [value, text]. */
export function colourChoices(hasModules) {
  const grouped = Object.entries(GROUPED).filter(([key]) => key !== "module" || hasModules);
  return [...grouped, ...Object.entries(NUMBERS)].map(([key, [title]]) => [key, title]);
}

function byGroup(rows, [title, valueOf, nameOf], names) {
  const counts = new Map();
  for (const row of rows) {
    const value = valueOf(row);
    if (value !== null) counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  const order = [...counts].sort((a, b) => b[1] - a[1] || String(a[0]).localeCompare(String(b[0])));
  const shown = order.slice(0, GROUPS_SHOWN);
  const place = new Map(shown.map(([value], i) => [value, i]));
  const groups = shown.map(([value, n], i) => ({ key: String(value), name: nameOf(value, names), n, ...groupStyle(i) }));
  const rest = rows.length - shown.reduce((sum, [, n]) => sum + n, 0);
  groups.push({ key: "", name: `other or none`, n: rest, ...groupStyle(-1) });
  const styles = rows.map((row) => groups[place.get(valueOf(row)) ?? groups.length - 1]);
  return { title, groups, styles };
}

function byNumber(rows, [title, valueOf, format]) {
  const values = rows.map(valueOf);
  const positive = values.filter((value) => value > 0);
  const [low, high] = [Math.min(...positive, Infinity), Math.max(...positive, -Infinity)];
  const span = Math.log(high / low) || 1;
  const share = (value) => (value > 0 ? 0.08 + (0.92 * Math.log(value / low)) / span : 0);
  const styles = values.map((value) => ({ key: null, colour: scaleColour(share(value)), shape: "circle" }));
  const ends = positive.length ? [format(low), format(high)] : ["0", "0"];
  const steps = [0.08, 0.3, 0.55, 0.8, 1].map(scaleColour);
  return { title, scale: { ends, steps }, styles };
}

/**
 * The style of every row: {title, styles: [{key, colour, shape}]} with `groups` ({key, name, n, colour, shape}) or `scale`
 * ({ends, steps}) for the legend. `names` are the names of modules by number.
 */
export function mapStyle(rows, by, names) {
  return NUMBERS[by] ? byNumber(rows, NUMBERS[by]) : byGroup(rows, GROUPED[by] ?? GROUPED.label, names);
}
