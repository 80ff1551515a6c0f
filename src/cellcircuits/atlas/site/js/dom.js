// Elements made from plain text: nothing here ever parses a string as HTML, so names from data cannot become markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  return append(node, ...children);
}

/** Add children: elements, text, or lists of them; null, undefined and false stand for nothing. */
export function append(node, ...children) {
  // a node's own append turns strings into text nodes, and false into the word
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An HTML element: element("a", {href: "#/"}, "text", otherElement). */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** The heading of a page; it takes the focus after a change of page, so that a screen reader starts there. */
export function heading(...children) {
  return element("h1", { tabindex: "-1" }, ...children);
}

/** A section with a heading; null in place of what is not there. */
export function section(title, ...children) {
  return append(element("section", {}, element("h2", {}, title)), ...children);
}

/** A message in place of content that is empty: what is missing, and what to do. */
export function emptyState(...children) {
  return element("p", { class: "empty" }, ...children);
}

/** A labelled form control. */
export function field(label, control, hint = null) {
  const hinted = hint ? element("span", { class: "hint" }, hint) : null;
  return element("label", { class: "field" }, element("span", {}, label), control, hinted);
}

/** A drop-down list; `choices` are [value, text]; a page that is drawn again finds the focus by the name. */
export function select(choices, chosen, onChange, name = null) {
  const options = choices.map(([value, text]) =>
    element("option", { value, selected: String(value) === String(chosen) }, text),
  );
  return element("select", { name, on: { change: (event) => onChange(event.target.value) } }, ...options);
}

/** Calls `action` once the calls have paused, as when a reader types. */
export function delayed(action, milliseconds = 150) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}
