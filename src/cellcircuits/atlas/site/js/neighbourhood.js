// The features and edges around one or more features, found by following edges outward from them.

import { loadEdges } from "./data.js";
import { featureName } from "./format.js";

const MOST_FEATURES = 150;

export const strength = (edge) => (edge.snr === null ? 0 : Math.abs(edge.snr));
const size = (value) => (value === null || value === undefined ? 0 : Math.abs(value));

/** Whether an edge passes the cut-offs of the reader: {snr, effect, q, sign, control, computed}. */
export function passes(edge, { snr, effect, q, sign, control, computed }) {
  if (strength(edge) < snr || size(edge.relative_effect) < effect) return false;
  if (edge.q_value !== null && edge.q_value > q) return false;
  if (sign === "supports" && !(edge.mean_delta < 0)) return false;
  if (sign === "opposes" && !(edge.mean_delta > 0)) return false;
  if (control === "beyond" && !edge.specific) return false;
  return computed <= 0 || (edge.computed_share !== null && edge.computed_share >= computed);
}

/** Adds an edge and the feature at its other end; null if that one would be one too many. */
function add(found, from, edge, direction, step) {
  const node = edge.other;
  const name = featureName(node.layer, node.feature);
  if (!found.nodes.has(name)) {
    if (found.nodes.size >= MOST_FEATURES) {
      found.left += 1;
      return null;
    }
    found.nodes.set(name, { ...node, name, step });
  }
  const [source, target] = direction === "out" ? [from, name] : [name, from];
  const key = `${source} ${target}`;
  if (!found.edges.has(key)) found.edges.set(key, { key, source, target, ...edge });
  return found.nodes.get(name);
}

async function step(found, frontier, direction, number, options) {
  const lists = await Promise.all(frontier.map((node) => loadEdges(direction, node.layer, node.feature)));
  const next = new Map();
  lists.forEach((edges, i) => {
    const passing = edges.filter((edge) => passes(edge, options)).sort((a, b) => strength(b) - strength(a));
    found.left += Math.max(0, passing.length - options.limit);
    for (const edge of passing.slice(0, options.limit)) {
      const known = found.nodes.size;
      const node = add(found, frontier[i].name, edge, direction, number);
      if (node && found.nodes.size > known) next.set(node.name, node);
    }
  });
  return [...next.values()];
}

/**
 * Follow edges upstream and downstream of `starts`, features as {layer, feature, label, genes}.
 *
 * options: depth, direction ("both", "from": downstream, "to": upstream), limit (strongest edges followed from each
 * feature and direction), and the cut-offs of `passes`.
 * Returns {nodes, edges, left}: nodes by name, edges by key, and how many edges passed but were left out.
 */
export async function neighbourhood(starts, options) {
  const found = { nodes: new Map(), edges: new Map(), left: 0 };
  for (const start of starts) {
    const name = featureName(start.layer, start.feature);
    found.nodes.set(name, { ...start, name, step: 0 });
  }
  const centre = [...found.nodes.values()];
  const directions = { both: ["in", "out"], from: ["out"], to: ["in"] }[options.direction];
  for (const direction of directions) {
    let frontier = centre;
    for (let number = 1; number <= options.depth && frontier.length; number += 1) {
      frontier = await step(found, frontier, direction, number, options);
    }
  }
  return found;
}
