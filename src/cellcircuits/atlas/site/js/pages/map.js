// The map of a layer: features with similar directions stand close together. The list below holds the same features.

import { onThemeChange } from "../colours.js";
import { layerFile, loadContents, loadJson, loadRows } from "../data.js";
import { append, delayed, element, emptyState, field, heading, select, svg } from "../dom.js";
import { AtlasError } from "../errors.js";
import { count, counted, featureAddress, featureLink, featureName, labelOrGenes, percent } from "../format.js";
import { colourChoices, mapStyle } from "../mapstyle.js";
import { matcher } from "../matching.js";
import { address } from "../runs.js";
import { scatter, WHOLE } from "../scatter.js";
import { dataTable } from "../table.js";

function readState(query, known) {
  const [x, y, zoom] = (query.get("view") ?? "").split(",").map(Number);
  const colours = colourChoices(known.modules).map(([key]) => key);
  return {
    color: colours.includes(query.get("color")) ? query.get("color") : known.modules ? "module" : "label",
    search: query.get("search") ?? "",
    highlight: query.get("highlight"),
    feature: /^\d{1,9}$/.test(query.get("feature") ?? "") ? Number(query.get("feature")) : -1,
    view: [x, y, zoom].every(Number.isFinite) && zoom >= 1 ? { x, y, zoom } : WHOLE,
  };
}

function writeState(layer, state) {
  const query = new URLSearchParams({ color: state.color });
  if (state.search) query.set("search", state.search);
  if (state.highlight !== null) query.set("highlight", state.highlight);
  if (state.feature >= 0) query.set("feature", state.feature);
  if (state.view.zoom > 1) {
    query.set("view", [state.view.x.toFixed(4), state.view.y.toFixed(4), state.view.zoom.toFixed(2)].join());
  }
  history.replaceState(null, "", address(`map/${layer}?${query}`));
}

const MARKS = {
  circle: "M5,1A4,4,0,1,1,4.99,1Z",
  square: "M1.5,1.5H8.5V8.5H1.5Z",
  triangle: "M5,1L9.2,8.8H0.8Z",
  diamond: "M5,0L10,5L5,10L0,5Z",
};

function mark({ colour, shape }) {
  return svg("svg", { class: "mark-shape", viewBox: "0 0 10 10", "aria-hidden": "true" }, svg("path", { d: MARKS[shape], fill: colour }));
}

/** The legend: buttons that show one group alone, or the ends of a scale. */
function legend(style, chosen, onGroup) {
  if (style.scale) {
    const steps = style.scale.steps.map((colour) => mark({ colour, shape: "square" }));
    const [low, high] = style.scale.ends;
    return [element("span", { class: "muted" }, `${style.title} (log scale): ${low} `), ...steps, ` ${high}`];
  }
  return style.groups.map((group) =>
    element(
      "button",
      {
        type: "button",
        class: "group",
        "aria-pressed": String(chosen === group.key),
        title: group.name,
        on: { click: () => onGroup(chosen === group.key ? null : group.key) },
      },
      mark(group),
      element("span", { class: "group-name" }, group.name),
      element("span", { class: "muted item" }, ` ${count(group.n)}`),
    ),
  );
}

const COLUMNS = [
  { key: "feature", title: "Feature", value: (row) => row.feature, cell: (row) => featureLink(row.layer, row.feature) },
  { key: "label", title: "Label", value: (row) => row.label, cell: (row) => labelOrGenes(row.label, row.top_genes) },
  ...[
    ["firing_rate", "Firing rate", percent],
    ["n_out", "Edges out", count],
    ["n_in", "Edges in", count],
  ].map(([key, title, format]) => ({
    key,
    title,
    numeric: true,
    descending: true,
    value: (row) => row[key],
    cell: (row) => format(row[key]),
  })),
];

function describe(row) {
  const text = row.label || row.top_genes.split(";").slice(0, 3).join(", ") || "no label";
  const edges = `${counted(row.n_out, "edge")} out, ${count(row.n_in)} in`;
  return `${featureName(row.layer, row.feature)} ${text}; fires at ${percent(row.firing_rate)} of positions; ${edges}`;
}

function toolbar(plot) {
  const button = (text, label, click) => element("button", { type: "button", "aria-label": label, on: { click } }, text);
  return element(
    "div",
    { class: "map-tools" },
    button("+", "Zoom in", () => plot.zoom(1.6)),
    button("−", "Zoom out", () => plot.zoom(1 / 1.6)),
    button("All", "Show the whole map", () => plot.setView(WHOLE)),
  );
}

const METHODS = { tsne: "t-SNE", pca: "principal axes" };

/** How the places were made: "t-SNE of decoder directions". */
function methodText(method) {
  const [name, source] = method.split(" of ");
  return `${METHODS[name] ?? name} of ${source === "decoder" ? "decoder directions" : "top-gene scores"}`;
}

const HINT =
  "Point at a feature to read about it, click to open it. Drag to move, + and − to zoom. With the keyboard: focus the " +
  "map, arrow keys go from feature to feature, Enter opens, 0 shows all.";

/** The drawing, its legend and the list of what is not pale. */
function mapParts(layer, rows, places, names, state) {
  const details = element("p", { class: "map-details" }, element("span", { class: "muted" }, HINT));
  const key = element("div", { class: "map-legend", role: "group", "aria-label": "Legend" });
  const table = dataTable({ caption: "Features", columns: COLUMNS, rows, sort: "n_out", descending: true, perPage: 10 });
  const status = element("p", { class: "muted", role: "status" });
  let style = null;
  const plot = scatter({
    ...places,
    label: `Map of ${counted(rows.length, "feature")} of layer ${layer}. The table below lists them.`,
    describe: (i) => describe(rows[i]),
    onPoint: (i) => details.replaceChildren(i === null ? element("span", { class: "muted" }, HINT) : describe(rows[i])),
    onChoose: (i) => {
      location.hash = featureAddress(layer, rows[i].feature);
    },
    onView: (view) => {
      state.view = view;
      writeState(layer, state);
    },
    view: state.view,
  });
  const update = () => {
    style = mapStyle(rows, state.color, names);
    const fits = matcher(state.search);
    const shown = rows.map(
      (row, i) => fits(row) && (state.highlight === null || !style.groups || style.styles[i].key === state.highlight),
    );
    plot.paint({
      colours: style.styles.map(({ colour }) => colour),
      shapes: style.styles.map(({ shape }) => shape),
      faint: shown.map((on) => !on),
      under: style.styles.map(({ key: group }) => group === ""),
      marked: rows.findIndex((row) => row.feature === state.feature),
    });
    const choose = (group) => {
      state.highlight = group;
      changed();
      [...key.querySelectorAll("button")].find((b) => b.title === style.groups.find((g) => g.key === group)?.name)?.focus();
    };
    key.replaceChildren(...legend(style, state.highlight, choose));
    const found = rows.filter((_, i) => shown[i]);
    const silent = rows.filter((_, i) => shown[i] && places.x[i] === null).length;
    const note = silent ? `; ${count(silent)} of them never fire and have no place` : "";
    status.textContent = `${counted(found.length, "feature")} of ${count(rows.length)} shown${note}.`;
    table.replace(found);
  };
  const changed = () => {
    update();
    writeState(layer, state);
  };
  update();
  onThemeChange(plot.box, update);
  const frame = element("div", { class: "map-frame" }, plot.box, toolbar(plot));
  return { parts: [frame, details, key, status, table.box], changed };
}

/** The page. */
export async function render(view, { parts, query }) {
  const contents = await loadContents();
  const layers = contents.layers.map(({ layer }) => layer);
  const layer = parts[0] ? Number(parts[0]) : layers[0];
  if (!layers.length || !contents.known.map) {
    const advice = "Build it again with `cellcircuits atlas RUN`.";
    append(view, heading("Map"), emptyState(`This atlas was built without maps of its layers. ${advice}`));
    return "Map";
  }
  if (!layers.includes(layer)) {
    const link = [address("map"), "Show the first layer"];
    throw new AtlasError(`There is no layer ${parts[0]}.`, `Layers with features: ${layers.join(", ")}.`, link);
  }
  const [rows, { columns }, modules] = await Promise.all([
    loadRows(layerFile("layers", layer)),
    loadJson(layerFile("map", layer)),
    loadRows("modules.json.gz", ({ layer: of }, i) => of[i] === layer),
  ]);
  const state = readState(query, contents.known);
  const moduleName = (module) => `${module.module}: ${module.label || module.top_genes.split(";").slice(0, 3).join(", ")}`;
  const names = new Map(modules.map((module) => [module.module, moduleName(module)]));
  const { parts: drawn, changed } = mapParts(layer, rows, columns, names, state);
  const search = (event) => {
    state.search = event.target.value;
    changed();
  };
  const input = element("input", { type: "search", value: state.search, placeholder: "label, gene, F12", on: { input: delayed(search) } });
  const colour = (value) => {
    Object.assign(state, { color: value, highlight: null });
    changed();
  };
  const go = (value) => {
    const options = new URLSearchParams({ color: state.color, ...(state.search ? { search: state.search } : {}) });
    location.hash = address(`map/${value}?${options}`);
  };
  append(
    view,
    heading(`Map of layer ${layer}`),
    element("p", {}, `Features with similar directions stand close together (${methodText(columns.method[0])}). Axes mean nothing.`),
    element(
      "div",
      { class: "controls" },
      field("Layer", select(layers.map((l) => [l, `Layer ${l}`]), layer, go, "layer")),
      field("Colour by", select(colourChoices(contents.known.modules), state.color, colour)),
      field("Search labels and top genes", input),
    ),
    ...drawn,
  );
  if (!contents.known.modules) {
    const advice = "Modules, features that fire together, come from `cellcircuits structure RUN`; then build it again.";
    append(view, element("p", { class: "small muted" }, advice));
  }
  return `Map of layer ${layer}`;
}
