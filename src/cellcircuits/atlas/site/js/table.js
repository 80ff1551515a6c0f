// A table that sorts by its headers and shows one page of rows at a time. At phone width each row becomes a card.

import { element } from "./dom.js";
import { count } from "./format.js";

const ROWS_PER_PAGE = 25;
const ROWS_PER_PAGE_ON_PHONE = 8;

function compare(a, b) {
  if (typeof a === "string" && typeof b === "string") return a.localeCompare(b, "en", { numeric: true });
  return a - b;
}

/** Rows in order of a column; rows without a value always come last. */
export function sorted(rows, column, descending) {
  const keyed = rows.map((row, place) => ({ row, place, value: column.value(row) }));
  keyed.sort((a, b) => {
    const missing = (a.value === null || a.value === "") - (b.value === null || b.value === "");
    if (missing) return missing;
    const order = a.value === null ? 0 : compare(a.value, b.value);
    return (descending ? -order : order) || a.place - b.place;
  });
  return keyed.map(({ row }) => row);
}

function headerCell(column, state, sortBy) {
  const active = state.sort === column.key;
  const order = active ? (state.descending ? "descending" : "ascending") : null;
  const symbol = state.descending ? "▾" : "▴";
  const mark = element("span", { class: "order", "aria-hidden": "true" }, active ? symbol : "");
  const button = element("button", { type: "button", "data-key": column.key, on: { click: () => sortBy(column) } });
  button.append(column.title, mark);
  return element("th", { scope: "col", class: column.numeric ? "numeric" : null, "aria-sort": order }, button);
}

function bodyRow(columns, row, onRow) {
  const cells = columns.map((column, i) => {
    const attributes = { class: column.numeric ? "numeric" : null, "data-name": column.title };
    const head = i === 0 ? { scope: "row" } : {};
    return element(i === 0 ? "th" : "td", { ...attributes, ...head }, column.cell(row));
  });
  return element("tr", { on: onRow ? onRow(row) : {} }, ...cells);
}

function pager(total, state, perPage, turn) {
  const pages = Math.max(1, Math.ceil(total / perPage));
  const from = total ? state.page * perPage + 1 : 0;
  const to = Math.min(total, (state.page + 1) * perPage);
  const button = (text, step, possible) =>
    element("button", { type: "button", disabled: !possible, on: { click: () => turn(step) } }, text);
  return element(
    "div",
    { class: "pager" },
    element("span", { role: "status" }, `Rows ${count(from)} to ${count(to)} of ${count(total)}`),
    pages > 1 && button("← Previous", -1, state.page > 0),
    pages > 1 && button("Next →", 1, state.page < pages - 1),
  );
}

/** Draw again with the focus on the button that had it, or, if that one is gone, on another of the pager. */
function keepFocus(box, draw) {
  const focused = box.contains(document.activeElement) ? document.activeElement : null;
  const { key } = focused?.dataset ?? {};
  draw();
  if (!focused) return;
  const buttons = [...box.querySelectorAll("button:enabled")];
  const same = (button) => (key ? button.dataset.key === key : button.textContent === focused.textContent);
  (buttons.find(same) ?? buttons.find((button) => !button.dataset.key) ?? buttons[0])?.focus();
}

/**
 * A sortable table.
 *
 * options: caption, columns ({key, title, value(row), cell(row), numeric, descending}), rows, sort (key), descending,
 * page, perPage, narrow (few enough columns for a phone), onState (called with {sort, descending, page}), onRow (row =>
 * listeners).
 */
export function dataTable(options) {
  const { caption, columns, onState, onRow } = options;
  const onPhone = matchMedia("(max-width: 640px)").matches && !options.narrow;
  const perPage = onPhone ? ROWS_PER_PAGE_ON_PHONE : (options.perPage ?? ROWS_PER_PAGE);
  const state = { sort: options.sort, descending: Boolean(options.descending), page: options.page ?? 0 };
  const box = element("div", { class: "data-table" });
  let rows = options.rows;

  function change(next) {
    Object.assign(state, next);
    keepFocus(box, draw);
    onState?.({ ...state });
  }

  function sortBy(column) {
    const descending = state.sort === column.key ? !state.descending : Boolean(column.descending);
    change({ sort: column.key, descending, page: 0 });
  }

  function draw() {
    const column = columns.find(({ key }) => key === state.sort) ?? columns[0];
    state.page = Math.max(0, Math.min(state.page, Math.ceil(rows.length / perPage) - 1));
    const shown = sorted(rows, column, state.descending).slice(state.page * perPage, (state.page + 1) * perPage);
    const table = element(
      "table",
      { class: options.narrow ? "list narrow" : "list cards-on-phone" },
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...columns.map((c) => headerCell(c, state, sortBy)))),
      element("tbody", {}, ...shown.map((row) => bodyRow(columns, row, onRow))),
    );
    const turn = (step) => change({ page: state.page + step });
    box.replaceChildren(
      element("div", { class: "table-frame" }, table),
      rows.length > 5 ? pager(rows.length, state, perPage, turn) : "",
    );
  }

  draw();
  return {
    box,
    /** Show other rows, from the first page on. */
    replace(next) {
      rows = next;
      change({ page: 0 });
    },
  };
}
