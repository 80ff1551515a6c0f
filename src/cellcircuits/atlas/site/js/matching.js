// Whether a feature fits the words that a reader typed.

import { featureName } from "./format.js";

/** A test whether every word of the search is in the name, the label or the genes of a feature. */
export function matcher(search) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  return (row) => {
    const name = `${featureName(row.layer, row.feature)} ${row.label} ${row.top_genes.replaceAll(";", " ")}`;
    const text = name.toLowerCase();
    return words.every((word) => text.includes(word));
  };
}
