// What a circuit shows: the options in its address, and the controls that change them.

import { element, field, select } from "./dom.js";

const CHOICES = {
  direction: [
    ["both", "Up- and downstream"],
    ["from", "Downstream (from here)"],
    ["to", "Upstream (to here)"],
  ],
  depth: [1, 2, 3, 4].map((n) => [n, n === 1 ? "1 step" : `${n} steps`]),
  limit: [2, 4, 8, 12, 20, 40].map((n) => [n, `${n} strongest`]),
  sign: [
    ["all", "Both signs"],
    ["supports", "▼ supports only"],
    ["opposes", "▲ opposes only"],
  ],
  control: [
    ["any", "All edges"],
    ["beyond", "● beyond random only"],
  ],
};
const NUMBERS = { snr: 0, effect: 0, q: 1, computed: 0 };
// steps and starts multiply, so fewer edges of each feature keep the drawing readable
const LIMITS = { 1: 12, 2: 4, 3: 2, 4: 2 };
const LIMITS_OF_MANY = { 1: 4, 2: 2, 3: 2, 4: 2 };

/**
 * Options of an address, with what is not said or makes no sense at its default; `many`: it starts from several features.
 */
export function readOptions(query, many) {
  const chosen = (name, fallback) =>
    CHOICES[name].map(([value]) => value).find((value) => String(value) === query.get(name)) ?? fallback;
  const numbers = Object.entries(NUMBERS).map(([name, fallback]) => {
    const value = query.has(name) ? Number(query.get(name)) : fallback;
    return [name, Number.isFinite(value) && value >= 0 ? value : fallback];
  });
  const depth = chosen("depth", 1);
  return {
    direction: chosen("direction", "both"),
    depth,
    limit: chosen("limit", (many ? LIMITS_OF_MANY : LIMITS)[depth]),
    sign: chosen("sign", "all"),
    control: chosen("control", "any"),
    ...Object.fromEntries(numbers),
  };
}

/** The options as a query; those at their default are left out. */
export function writeOptions(options, pinned, many) {
  const usual = readOptions(new URLSearchParams({ depth: String(options.depth) }), many);
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(options)) {
    if (value !== usual[name] || (name === "depth" && value !== 1)) query.set(name, String(value));
  }
  if (pinned.size) query.set("pin", [...pinned].join(" "));
  return query;
}

/** The names of pinned features in an address. */
export function readPinned(query) {
  return new Set((query.get("pin") ?? "").split(/\s+/).filter((name) => /^L\d{1,4}\/F\d{1,9}$/.test(name)));
}

function numberField(title, hint, name, options, scale, change) {
  const read = (event) => {
    const value = Number(event.target.value);
    change({ [name]: Number.isFinite(value) && value >= 0 ? value / scale : NUMBERS[name] });
  };
  const shown = Number((options[name] * scale).toPrecision(6));
  const attributes = { type: "number", min: 0, step: "any", value: shown, title: hint, name };
  return field(title, element("input", { ...attributes, on: { change: read } }));
}

/** The controls; `change` is called with the options that differ. */
export function optionControls(options, known, change) {
  const choice = (name, title) =>
    field(
      title,
      select(
        CHOICES[name],
        options[name],
        (value) => {
          const number = Number(value);
          change({ [name]: Number.isNaN(number) ? value : number });
        },
        name,
      ),
    );
  const controlled = known.controls && [
    choice("control", "Beside random directions"),
    numberField("Computed at least (%)", "Share of the effect that the blocks compute", "computed", options, 100, change),
  ];
  return element(
    "div",
    { class: "controls" },
    choice("direction", "Follow edges"),
    choice("depth", "For"),
    choice("limit", "Edges per feature"),
    choice("sign", "Sign"),
    numberField("Smallest |snr|", "Mean effect / standard deviation over cells", "snr", options, 1, change),
    numberField("Relative effect (%)", "Smallest |effect / clean activation|", "effect", options, 100, change),
    numberField("Largest q", "Benjamini-Hochberg q of the edge", "q", options, 1, change),
    ...(controlled || []),
  );
}
