// A scatter plot on a canvas: zoom, pan, pointing, and the keyboard. Some hundred thousand points are drawn at once.

import { element } from "./dom.js";

const SHAPES = {
  circle: (path, x, y, r) => (path.moveTo(x + r, y), path.arc(x, y, r, 0, 2 * Math.PI)),
  square: (path, x, y, r) => path.rect(x - r, y - r, 2 * r, 2 * r),
  triangle: (path, x, y, r) => (path.moveTo(x, y - 1.3 * r), path.lineTo(x + 1.2 * r, y + r), path.lineTo(x - 1.2 * r, y + r)),
  diamond: (path, x, y, r) =>
    (path.moveTo(x, y - 1.4 * r), path.lineTo(x + 1.4 * r, y), path.lineTo(x, y + 1.4 * r), path.lineTo(x - 1.4 * r, y)),
};
/** Names of the shapes. */
export const SHAPE_NAMES = Object.keys(SHAPES);
const REACH = 14;
const MARGIN = 16;
const ZOOM_STEP = 1.6;
const ZOOM_MOST = 200;
export const WHOLE = { x: 0.5, y: 0.5, zoom: 1 };

/**
 * A scatter plot of points within the unit square.
 *
 * options: x, y (places; NaN or null are left out), label (of the plot), describe (row => text of a point), onPoint
 * (called with the row pointed at or null), onChoose (called with the row clicked), onView (called with {x, y, zoom} when
 * the reader moved), view.
 * Returns {box, paint({colours, shapes, faint, under, marked}), setView, zoom}: by row its colour, its shape, whether it
 * is drawn pale, and whether below the others; marked: a row with a ring around it, or -1.
 */
export function scatter(options) {
  const { x, y, describe, onPoint, onChoose, onView } = options;
  const canvas = element("canvas", { tabindex: 0, role: "application", "aria-label": options.label });
  const spoken = element("p", { class: "spoken", "aria-live": "polite" });
  const box = element("div", { class: "scatter" }, canvas, spoken);
  const context = canvas.getContext("2d");
  const state = { view: { ...WHOLE, ...options.view }, width: 0, height: 0, hovered: -1, dragged: null, moved: false };
  let style = null;
  let waiting = false;

  const side = () => Math.min(state.width, state.height) - 2 * MARGIN;
  const screenX = (value) => state.width / 2 + (value - state.view.x) * side() * state.view.zoom;
  const screenY = (value) => state.height / 2 - (value - state.view.y) * side() * state.view.zoom;
  const placed = (i) => x[i] !== null && !Number.isNaN(x[i]);
  const radius = () => Math.min(9, (x.length > 3000 ? 2 : 3.5) * Math.sqrt(Math.sqrt(state.view.zoom)));

  function drawRows(wanted, under) {
    const paths = new Map();
    const r = radius();
    for (let i = 0; i < x.length; i += 1) {
      if (!placed(i) || style.faint[i] !== wanted || style.under[i] !== under) continue;
      const [px, py] = [screenX(x[i]), screenY(y[i])];
      if (px < -r || py < -r || px > state.width + r || py > state.height + r) continue;
      const colour = style.colours[i];
      if (!paths.has(colour)) paths.set(colour, new Path2D());
      SHAPES[style.shapes[i]](paths.get(colour), px, py, r);
    }
    context.globalAlpha = wanted ? 0.16 : 0.85;
    for (const [colour, path] of paths) {
      context.fillStyle = colour;
      context.fill(path);
    }
    context.globalAlpha = 1;
  }

  function ring(i, width) {
    if (i < 0 || !placed(i)) return;
    context.beginPath();
    context.arc(screenX(x[i]), screenY(y[i]), radius() + 4, 0, 2 * Math.PI);
    context.lineWidth = width;
    context.strokeStyle = style.ink;
    context.stroke();
  }

  function draw() {
    waiting = false;
    if (!style || !state.width) return;
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, state.width, state.height);
    for (const [pale, under] of [
      [true, true],
      [true, false],
      [false, true],
      [false, false],
    ]) {
      drawRows(pale, under);
    }
    ring(style.marked, 3);
    ring(state.hovered, 1.5);
  }

  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(draw);
  }

  /** The row nearest to a place on the screen, within reach; those drawn pale only where no other is. */
  function nearest(px, py) {
    let [best, distance] = [-1, REACH * REACH];
    for (let i = 0; i < x.length; i += 1) {
      if (!placed(i)) continue;
      const d = (screenX(x[i]) - px) ** 2 + (screenY(y[i]) - py) ** 2 + (style?.faint[i] ? REACH * REACH * 0.7 : 0);
      if (d < distance) [best, distance] = [i, d];
    }
    return best;
  }

  /** The nearest row in a direction from the one pointed at. */
  function neighbour(dx, dy) {
    if (state.hovered < 0) return nearestTo(state.view.x, state.view.y);
    const from = state.hovered;
    let [best, cost] = [from, Infinity];
    for (let i = 0; i < x.length; i += 1) {
      if (i === from || !placed(i) || style.faint[i]) continue;
      const [ax, ay] = [x[i] - x[from], y[i] - y[from]];
      const along = ax * dx + ay * dy;
      const aside = Math.abs(ax * dy - ay * dx);
      if (along > 0 && aside <= 2 * along && along + 2 * aside < cost) [best, cost] = [i, along + 2 * aside];
    }
    return best;
  }

  function nearestTo(vx, vy) {
    let [best, distance] = [-1, Infinity];
    for (let i = 0; i < x.length; i += 1) {
      if (!placed(i) || style.faint[i]) continue;
      const d = (x[i] - vx) ** 2 + (y[i] - vy) ** 2;
      if (d < distance) [best, distance] = [i, d];
    }
    return best;
  }

  function point(i, speak) {
    if (i === state.hovered) return;
    state.hovered = i;
    canvas.classList.toggle("pointing", i >= 0);
    onPoint(i < 0 ? null : i);
    if (speak && i >= 0) spoken.textContent = describe(i);
    redraw();
  }

  function setView(view, tell = true) {
    const zoom = Math.min(ZOOM_MOST, Math.max(1, view.zoom));
    const half = 0.5 / zoom;
    const within = (value) => Math.min(1 - half / 2, Math.max(half / 2, value));
    state.view = zoom === 1 ? { ...WHOLE } : { x: within(view.x), y: within(view.y), zoom };
    redraw();
    if (tell) onView({ ...state.view });
  }

  /** Zoom so that the place under the pointer stays where it is. */
  function zoomAt(px, py, factor) {
    const zoom = Math.min(ZOOM_MOST, Math.max(1, state.view.zoom * factor));
    const scale = side() * state.view.zoom;
    const [vx, vy] = [state.view.x + (px - state.width / 2) / scale, state.view.y - (py - state.height / 2) / scale];
    const next = side() * zoom;
    setView({ x: vx - (px - state.width / 2) / next, y: vy + (py - state.height / 2) / next, zoom });
  }

  const placeOf = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };

  canvas.addEventListener("pointerdown", (event) => {
    state.dragged = placeOf(event);
    state.moved = false;
  });
  canvas.addEventListener("pointermove", (event) => {
    const [px, py] = placeOf(event);
    if (!state.dragged) return point(nearest(px, py), false);
    const [dx, dy] = [px - state.dragged[0], py - state.dragged[1]];
    if (!state.moved && dx * dx + dy * dy < 16) return undefined;
    state.moved = true;
    canvas.setPointerCapture(event.pointerId);
    state.dragged = [px, py];
    const scale = side() * state.view.zoom;
    return setView({ ...state.view, x: state.view.x - dx / scale, y: state.view.y + dy / scale });
  });
  canvas.addEventListener("pointerup", (event) => {
    const found = state.moved ? -1 : nearest(...placeOf(event));
    state.dragged = null;
    if (found >= 0) onChoose(found);
  });
  canvas.addEventListener("pointercancel", () => (state.dragged = null));
  canvas.addEventListener("pointerleave", () => state.dragged || point(-1, false));
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas && state.view.zoom === 1 && event.deltaY > 0) return;
      event.preventDefault();
      zoomAt(...placeOf(event), event.deltaY < 0 ? 1.2 : 1 / 1.2);
    },
    { passive: false },
  );
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  canvas.addEventListener("keydown", (event) => {
    const actions = {
      "+": () => zoomAt(state.width / 2, state.height / 2, ZOOM_STEP),
      "-": () => zoomAt(state.width / 2, state.height / 2, 1 / ZOOM_STEP),
      0: () => setView(WHOLE),
      Enter: () => state.hovered >= 0 && onChoose(state.hovered),
      Escape: () => point(-1, true),
    };
    const act = arrows[event.key] ? () => point(neighbour(...arrows[event.key]), true) : actions[event.key];
    if (!act || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    act();
  });
  new ResizeObserver(() => {
    const ratio = window.devicePixelRatio || 1;
    [state.width, state.height] = [canvas.clientWidth, canvas.clientHeight];
    [canvas.width, canvas.height] = [state.width * ratio, state.height * ratio];
    redraw();
  }).observe(canvas);

  return {
    box,
    paint(next) {
      style = { ...next, ink: getComputedStyle(canvas).color };
      redraw();
    },
    setView,
    zoom: (factor) => zoomAt(state.width / 2, state.height / 2, factor),
  };
}
