// Addresses and pages: #/feature/3/127 shows pages/feature.js. Every view has its own address, so back and links work.

import { element, heading } from "./dom.js";
import { AtlasError, errorNotice } from "./errors.js";
import { searchBox } from "./search.js";
import * as circuit from "./pages/circuit.js";
import * as feature from "./pages/feature.js";
import * as features from "./pages/features.js";
import * as gene from "./pages/gene.js";
import * as methods from "./pages/methods.js";
import * as overview from "./pages/overview.js";

const PAGES = { "": overview, features, feature, circuit, gene, methods };
const HOME = ["#/", "Back to the overview"];
const siteTitle = document.title;
const main = document.getElementById("main");
const overviewBox = document.getElementById("overview");
const view = document.getElementById("view");
let shown = 0;

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The parts and options of an address: "#/feature/3/127?x=1" has page "feature" and parts ["3", "127"]. */
function currentRoute() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [page, ...parts] = path.split("/").map(decoded);
  return { page, parts, query: new URLSearchParams(query) };
}

function showError(error) {
  const [address, text] = error.link ?? HOME;
  const retry = element("button", { type: "button", on: { click: () => show(false) } }, "Try again");
  view.replaceChildren(
    heading(error.link ? "Not found" : "This page could not be shown"),
    errorNotice(error),
    element("p", { class: "actions" }, error.link ? "" : retry, element("a", { href: address }, text)),
  );
}

function markNavigation(page) {
  const section = page === "feature" ? "features" : page;
  for (const link of document.querySelectorAll("nav [data-page]")) {
    if (link.dataset.page === section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Show the page of the current address. A slower page that was left meanwhile does not overwrite it. */
async function show(moveFocus) {
  shown += 1;
  const turn = shown;
  const route = currentRoute();
  const onOverview = route.page === "";
  markNavigation(route.page);
  overviewBox.hidden = !onOverview;
  view.hidden = onOverview;
  document.body.dataset.ready = "no";
  const content = element("div", { class: "page" });
  if (!onOverview) view.replaceChildren(element("p", { class: "late loading", role: "status" }, "Loading …"));
  try {
    const page = PAGES[route.page];
    if (!page)
      throw new AtlasError(`There is no page named “${route.page}”.`, "Choose a page from the menu above.", HOME);
    const title = await page.render(content, route);
    if (turn !== shown) return;
    if (!onOverview) view.replaceChildren(content);
    document.title = title ? `${title} – ${siteTitle}` : siteTitle;
  } catch (error) {
    if (turn !== shown) return;
    overviewBox.hidden = true;
    view.hidden = false;
    showError(error);
  }
  if (moveFocus) {
    scrollTo(0, 0);
    main.querySelector(":scope > :not([hidden]) h1")?.focus({ preventScroll: true });
  }
  document.body.dataset.ready = "yes";
}

document.getElementById("needs-server").remove();
document.getElementById("search").append(searchBox());
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // its address would count as a page
  main.focus();
});
addEventListener("hashchange", () => show(true));
show(false);
