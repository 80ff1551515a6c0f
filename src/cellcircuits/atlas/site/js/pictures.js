// Figures of a run or a comparison: PNG files that lead to themselves.

import { element } from "./dom.js";

const ROOT = new URL("../", import.meta.url);

/** The figures at these addresses within the site. */
export function pictures(addresses) {
  const figures = addresses.map((address) => {
    const name = decodeURIComponent(address.split("/").pop()).replace(/\.png$/, "").replaceAll("_", " ");
    const title = name.charAt(0).toUpperCase() + name.slice(1);
    const href = new URL(address, ROOT).href;
    const image = element("img", { src: href, alt: `Figure: ${title}`, loading: "lazy" });
    return element("figure", {}, element("a", { href }, image), element("figcaption", {}, title));
  });
  return element("div", { class: "plots" }, ...figures);
}

/** Address of a file of the site. */
export function fileAddress(address) {
  return new URL(address, ROOT).href;
}
