// The header: pages of the run, the choice of the run, the search.

import { element } from "./dom.js";
import { address, allRuns, currentRun, severalRuns } from "./runs.js";
import { searchBox } from "./search.js";

const RUN_PAGES = [
  ["map", "Map"],
  ["features", "Features"],
  ["circuit", "Circuits"],
  ["gene", "Genes"],
  ["program", "Programs"],
  ["findings", "Findings"],
];
const KEEP = new Set(["map", "features", "gene", "program", "findings", "interventions"]);

/** Where the same page of another run is; pages of features have other features there. */
function samePage(route, run) {
  const { page, parts, query } = route;
  if (!KEEP.has(page)) return address(page === "feature" ? "features" : page === "circuit" ? "circuit" : "", run);
  const path = [page, ...parts].map(encodeURIComponent).join("/");
  const kept = page === "gene" || page === "program" ? new URLSearchParams(query) : new URLSearchParams();
  const search = query.get("search");
  if (search) kept.set("search", search);
  return address(kept.size ? `${path}?${kept}` : path, run);
}

function runChoice(route) {
  const choices = allRuns().map(({ key, name }) =>
    element("option", { value: key, selected: key === currentRun().key }, name),
  );
  const change = (event) => {
    location.hash = samePage(
      route,
      allRuns().find(({ key }) => key === event.target.value),
    );
  };
  const select = element("select", { id: "run", on: { change } }, ...choices);
  return element("label", { class: "run-choice" }, element("span", {}, "Run"), select);
}

/** Draw the header for an address. */
export function drawNavigation(route, hasComparison) {
  const overview = severalRuns() ? [["", "Overview", "#/"]] : [["", "Overview", address("")]];
  const links = [...overview, ...RUN_PAGES.map(([page, title]) => [page, title, address(page)])];
  if (currentRun().interventions) links.push(["interventions", "Interventions", address("interventions")]);
  if (severalRuns() || hasComparison) links.push(["compare", "Compare", "#/compare"]);
  links.push(["methods", "Methods", address("methods")]);
  const section = route.page === "feature" ? "features" : route.page;
  const items = links.map(([page, title, href]) =>
    element("a", { href, "data-page": page, "aria-current": page === section ? "page" : null }, title),
  );
  document.getElementById("pages").replaceChildren(...items);
  const box = document.getElementById("search");
  if (!box.childElementCount) box.append(searchBox());
  box.querySelector(".run-choice")?.remove();
  if (severalRuns()) box.prepend(runChoice(route));
}
