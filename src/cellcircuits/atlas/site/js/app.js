// Addresses and pages: #/feature/3/127 shows pages/feature.js, #/scgpt/feature/3/127 that of the run "scgpt". Every view
// has its own address, so back and links work.

import { loadSite } from "./data.js";
import { element, heading } from "./dom.js";
import { AtlasError, errorNotice } from "./errors.js";
import { drawNavigation } from "./navigation.js";
import { chooseRun, setRuns } from "./runs.js";

const PAGES = "feature features map circuit gene program findings interventions compare methods".split(" ");
const siteTitle = document.title;
const main = document.getElementById("main");
const overviewBox = document.getElementById("overview");
const view = document.getElementById("view");
let shown = 0;
let lastPath = null;

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The parts of an address: "#/scgpt/feature/3/127?x=1" has run true, page "feature" and parts ["3", "127"]. */
function currentRoute() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const names = path.split("/").map(decoded);
  const hasRun = chooseRun(names[0]);
  const [page = "", ...parts] = hasRun ? names.slice(1) : names;
  return { page, parts, query: new URLSearchParams(query), hasRun };
}

function showError(error) {
  const [target, text] = error.link ?? ["#/", "Back to the overview"];
  const retry = element("button", { type: "button", on: { click: () => show(false) } }, "Try again");
  view.replaceChildren(
    heading(error.link ? "Not found" : "This page could not be shown"),
    errorNotice(error),
    element("p", { class: "actions" }, error.link ? "" : retry, element("a", { href: target }, text)),
  );
}

const loading = () => element("p", { class: "late loading", role: "status" }, "Loading …");

/** The module of a page, loaded when it is first asked for; null if there is none of that name. */
function pageModule(name) {
  if (name === "") return import("./pages/overview.js");
  return PAGES.includes(name) ? import(`./pages/${name}.js`) : null;
}

/** Ask for the module of the page before it is known whether the address starts with the name of a run. */
function fetchEarly() {
  const names = location.hash.replace(/^#\/?/, "").split(/[/?]/);
  for (const name of names.slice(0, 2)) pageModule(name)?.catch(() => null);
}

function loadPage(name) {
  const found = pageModule(name);
  if (found) return found;
  const advice = "Choose a page from the menu above.";
  throw new AtlasError(`There is no page or run named “${name}”.`, advice, ["#/", "Back to the overview"]);
}

async function prepare() {
  const site = await loadSite();
  setRuns(site.runs);
  return site;
}

/** Put the focus on the heading of another page; on the same page, drawn again, back on the control that had it. */
function focusAfter(path, control) {
  if (path === lastPath && control) {
    view.querySelector(`[name="${CSS.escape(control)}"]`)?.focus({ preventScroll: true });
    return;
  }
  scrollTo(0, 0);
  main.querySelector(":scope > :not([hidden]) h1")?.focus({ preventScroll: true });
}

/** Show the page of the current address. A slower page that was left meanwhile does not overwrite it. */
async function show(moveFocus) {
  shown += 1;
  const turn = shown;
  document.body.dataset.ready = "no";
  const content = element("div", { class: "page" });
  const [path, control] = [location.hash.split("?")[0], document.activeElement?.getAttribute("name")];
  let onOverview = /^#?\/?$/.test(location.hash);
  try {
    const site = await prepare();
    if (turn !== shown) return;
    const route = currentRoute();
    onOverview = route.page === "";
    drawNavigation(route, Boolean(site.comparison));
    overviewBox.hidden = !onOverview;
    view.hidden = onOverview;
    // a page that is drawn again stays until then, so that nothing jumps
    if (!onOverview && path !== lastPath) view.replaceChildren(loading());
    const page = await loadPage(route.page);
    if (turn !== shown) return;
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
  if (moveFocus) focusAfter(path, control);
  lastPath = path;
  performance.mark("view-ready"); // what benchmarks/atlas.py measures
  document.body.dataset.ready = "yes";
}

document.getElementById("needs-server").remove();
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // its address would count as a page
  main.focus();
});
addEventListener("hashchange", () => show(true));
fetchEarly();
show(false);
