// Numbers and signs as text. null is a value that is missing (NaN in the tables).

import { element } from "./dom.js";
import { address } from "./runs.js";

const HEADING_LETTERS = 240;
const MISSING = "–";
const THIN_SPACE = "\u202f";

/** Whole numbers with thin spaces between thousands. */
export function count(value) {
  return value === null ? MISSING : String(value).replace(/\B(?=(\d{3})+(?!\d))/g, THIN_SPACE);
}

/** A number of things: 1 edge, 2 edges. */
export function counted(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** Three significant digits, with a real minus sign. */
export function number(value, digits = 3) {
  if (value === null || value === undefined) return MISSING;
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-4 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
  return text.replace(/^-/, "−").replace("e-", "e−").replace("e+", "e");
}

/** A share as a percentage. */
export function percent(value) {
  if (value === null || value === undefined) return MISSING;
  const share = 100 * value;
  const size = Math.abs(share);
  const text = size >= 10 && Number.isFinite(size) ? share.toFixed(size >= 99.95 ? 0 : 1) : number(share, 2);
  return `${text.replace(/^-/, "−")}${THIN_SPACE}%`;
}

/** A p or q value; 0 means smaller than the computer can tell. */
export function probability(value) {
  if (value === null) return MISSING;
  return value === 0 ? "< 1e−300" : number(value, 2);
}

/** What the sign of an ablation effect says about the source. */
export function signOf(delta) {
  if (delta === null || delta === 0) return { kind: "none", symbol: "·", word: "no change" };
  return delta < 0
    ? { kind: "supports", symbol: "▼", word: "supports" }
    : { kind: "opposes", symbol: "▲", word: "opposes" };
}

/** The sign as symbol and word; colour only repeats it. */
export function signBadge(delta) {
  const { kind, symbol, word } = signOf(delta);
  return element("span", { class: `sign ${kind}` }, `${symbol} ${word}`);
}

/** The symbols of a list of genes "A;B;C". */
export function geneList(text, limit = Infinity) {
  return text.split(";").filter(Boolean).slice(0, limit);
}

/** Short name of a feature, as in the tables: L3/F127. */
export function featureName(layer, feature) {
  return `L${layer}/F${feature}`;
}

export function featureAddress(layer, feature) {
  return address(`feature/${layer}/${feature}`);
}

export function circuitAddress(layer, feature) {
  return address(`circuit/feature/${layer}/${feature}`);
}

export function geneAddress(symbol, run = undefined) {
  return address(`gene/${encodeURIComponent(symbol)}`, run);
}

export function programAddress(name, run = undefined) {
  return address(`program/${encodeURIComponent(name)}`, run);
}

export function programLink(name, run = undefined) {
  return element("a", { class: "program", href: programAddress(name, run), title: name }, name);
}

export function featureLink(layer, feature) {
  return element("a", { class: "feature", href: featureAddress(layer, feature) }, featureName(layer, feature));
}

/** Links to genes, separated by commas. */
export function geneLinks(symbols) {
  return symbols.flatMap((symbol, i) => {
    const link = element("a", { class: "gene", href: geneAddress(symbol) }, symbol);
    return [element("span", { class: "item" }, link, i < symbols.length - 1 ? "," : ""), " "];
  });
}

/** The label of a feature in a heading; a title shows the end of a very long one. */
export function headingLabel(label) {
  if (!label) return element("span", { class: "label muted" }, "no label");
  const letters = [...label];
  const text = letters.length > HEADING_LETTERS ? `${letters.slice(0, HEADING_LETTERS).join("")}…` : label;
  return element("span", { class: "label", title: label }, text);
}

/** A label, or the top genes of a feature that has none. */
export function labelOrGenes(label, genes) {
  if (label) return element("span", { class: "label", title: label }, label);
  const symbols = geneList(genes ?? "", 3);
  const text = symbols.length ? `no label; ${symbols.join(", ")}` : "no label";
  return element("span", { class: "label muted" }, text);
}
