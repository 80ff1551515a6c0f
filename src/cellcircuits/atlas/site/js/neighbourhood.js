// The features and edges within one or two steps of a feature, found by following edges outward from it.

import { loadEdges } from "./data.js";
import { featureName } from "./format.js";

const strength = (edge) => (edge.snr === null ? 0 : Math.abs(edge.snr));

/** Whether an edge passes the cut-offs of the reader: {snr, sign}. */
export function passes(edge, { snr, sign }) {
  if (strength(edge) < snr) return false;
  if (sign === "supports") return edge.mean_delta < 0;
  return sign === "opposes" ? edge.mean_delta > 0 : true;
}

function add(found, from, edge, direction, step) {
  const node = edge.other;
  const name = featureName(node.layer, node.feature);
  if (!found.nodes.has(name)) found.nodes.set(name, { ...node, name, step });
  const [source, target] = direction === "out" ? [from, name] : [name, from];
  const key = `${source} ${target}`;
  if (!found.edges.has(key)) found.edges.set(key, { key, source, target, ...edge });
  return found.nodes.get(name);
}

/**
 * Follow edges upstream and downstream of `centre`.
 *
 * options: depth, limit (strongest edges followed from each feature and direction), snr, sign.
 * Returns {nodes, edges, left}: nodes by name, edges by key, and how many edges passed but were left out.
 */
export async function neighbourhood(centre, options) {
  const name = featureName(centre.layer, centre.feature);
  const found = { nodes: new Map(), edges: new Map(), left: 0 };
  found.nodes.set(name, { ...centre, genes: centre.top_genes, name, step: 0 });
  for (const direction of ["in", "out"]) {
    let frontier = [found.nodes.get(name)];
    for (let step = 1; step <= options.depth; step += 1) {
      const lists = await Promise.all(frontier.map((node) => loadEdges(direction, node.layer, node.feature)));
      const next = new Map();
      lists.forEach((edges, i) => {
        const passing = edges.filter((edge) => passes(edge, options)).sort((a, b) => strength(b) - strength(a));
        found.left += Math.max(0, passing.length - options.limit);
        for (const edge of passing.slice(0, options.limit)) {
          const node = add(found, frontier[i].name, edge, direction, step);
          next.set(node.name, node);
        }
      });
      frontier = [...next.values()];
    }
  }
  return found;
}
