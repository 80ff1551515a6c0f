// Colours and shapes of points: groups that colour-blind readers can tell apart, and a scale for numbers.

import { SHAPE_NAMES } from "./scatter.js";

// Okabe & Ito's colours, without black and yellow, which do not show on light or dark ground
const GROUPS = {
  light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8860b", "#7b4fb0"],
  dark: ["#4aa9e0", "#f0843c", "#2cc295", "#e29cc4", "#8fd0f5", "#e0b34a", "#b196e0"],
};
const OTHER = { light: "#9aa3a8", dark: "#6a757c" };
// from near to far from the ground, in lightness as well as in hue
const SCALE = {
  light: ["#c9d6df", "#8fb3cc", "#4f8bb3", "#1f5f8f", "#0b2f52"],
  dark: ["#2f4656", "#3f6f8f", "#5c9cc4", "#97c9e8", "#e6f4fd"],
};

const theme = () => (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

function mixed(from, to, share) {
  const part = (hex, i) => Number.parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
  const channel = (i) => Math.round(part(from, i) + (part(to, i) - part(from, i)) * share);
  return `rgb(${channel(0)},${channel(1)},${channel(2)})`;
}

/** The colour of a number between 0 and 1. */
export function scaleColour(share) {
  const stops = SCALE[theme()];
  const place = Math.min(0.999, Math.max(0, share)) * (stops.length - 1);
  const first = Math.floor(place);
  return mixed(stops[first], stops[first + 1], Math.round((place - first) * 16) / 16);
}

/** How many groups have a colour of their own. */
export const GROUPS_SHOWN = 12;

/** Colour and shape of a group by its place, -1 for all others. */
export function groupStyle(place) {
  if (place < 0) return { colour: OTHER[theme()], shape: "circle" };
  const colours = GROUPS[theme()];
  // seven colours and four shapes: no two of the first 28 groups have both in common
  return { colour: colours[place % colours.length], shape: SHAPE_NAMES[place % SHAPE_NAMES.length] };
}

/** Draw again when the reader switches between light and dark, as long as `node` is on the page. */
export function onThemeChange(node, draw) {
  const query = matchMedia("(prefers-color-scheme: dark)");
  const listener = () => (node.isConnected ? draw() : query.removeEventListener("change", listener));
  query.addEventListener("change", listener);
}
