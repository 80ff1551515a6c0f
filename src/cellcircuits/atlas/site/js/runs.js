// Which run an address is about. Addresses without the name of a run mean the first one.

let runs = [];
let current = null;

/** Take over the list of runs of the site. */
export function setRuns(listed) {
  runs = listed;
  current = listed[0] ?? null;
}

/** The runs of the site: {key, name, n_layers, n_features, n_edges}. */
export function allRuns() {
  return runs;
}

/** The run that the page shown is about. */
export function currentRun() {
  return current;
}

export function severalRuns() {
  return runs.length > 1;
}

/** Choose the run of an address; returns whether there is one of that key. */
export function chooseRun(key) {
  const found = runs.find((run) => run.key === key);
  current = found ?? runs[0] ?? null;
  return Boolean(found);
}

/** Address of a page of a run: address("feature/3/127"). */
export function address(page, run = current) {
  return severalRuns() && run ? `#/${run.key}/${page}` : `#/${page}`;
}
