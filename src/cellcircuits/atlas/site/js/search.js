// The search field of the header: a feature's name leads to its page, everything else to the list of features.

import { element } from "./dom.js";
import { featureAddress } from "./format.js";
import { address } from "./runs.js";

/** Where a search leads. */
export function searchAddress(text) {
  const name = text.trim().match(/^L?(\d{1,4})\s*[/:,\s-]\s*F?(\d{1,8})$/i);
  if (name) return featureAddress(Number(name[1]), Number(name[2]));
  return address(`features?layer=all&search=${encodeURIComponent(text.trim())}`);
}

/** The search form. */
export function searchBox() {
  const input = element("input", {
    type: "search",
    placeholder: "Gene, label, L3/F127",
    "aria-label": "Search genes, programs and features",
    maxlength: 200,
  });
  const submit = (event) => {
    event.preventDefault();
    if (input.value.trim()) location.hash = searchAddress(input.value);
  };
  return element("form", { role: "search", on: { submit } }, input, element("button", {}, "Search"));
}
