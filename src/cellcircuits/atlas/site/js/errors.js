// Failures that a reader can do something about, and how they are shown.

import { element } from "./dom.js";

/** A failure with advice: `advice` says what to do, `link` [address, text] leads there. */
export class AtlasError extends Error {
  constructor(message, advice, link = null) {
    super(message);
    this.advice = advice;
    this.link = link;
  }
}

/** What went wrong and what to do, for any failure. */
export function errorNotice(error) {
  const known = error instanceof AtlasError;
  const message = known ? error.message : `Something went wrong on this page: ${error.message}`;
  const advice = known ? error.advice : "Reload the page. If it happens again, build the atlas again and report it.";
  return element("div", { class: "notice", role: "alert" }, element("p", {}, message), element("p", {}, advice));
}
