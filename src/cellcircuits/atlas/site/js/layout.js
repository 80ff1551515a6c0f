// Where features and edges stand in the drawing of a circuit: one column per layer, edges led around the features.

export const NODE = { width: 148, height: 42 };
const BEND = { height: 8 };
const GAP = 12;
const MARGIN = { top: 36, side: 14, bottom: 14 };
const COLUMN = { least: 187, most: 300 };
const SWEEPS = 6;

const byName = (a, b) => a.layer - b.layer || a.feature - b.feature;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/**
 * Items of each column, and the items that each edge passes. An edge that skips layers gets a small item in each column
 * between its ends: room of its own, so that it never seems to start or end at a feature it only passes.
 */
function columnsAndChains(nodes, edges) {
  const layers = [...new Set(nodes.map(({ layer }) => layer))].sort((a, b) => a - b);
  const columnOf = new Map(layers.map((layer, i) => [layer, i]));
  const columns = layers.map(() => []);
  const items = new Map();
  const put = (column, id, height) => {
    const item = { id, height, column, near: [], y: 0 };
    columns[column].push(item);
    items.set(id, item);
    return item;
  };
  for (const node of [...nodes].sort(byName)) put(columnOf.get(node.layer), node.name, NODE.height);
  const chains = new Map();
  for (const { key, source, target } of edges) {
    const chain = [items.get(source)];
    for (let i = items.get(source).column + 1; i < items.get(target).column; i += 1) {
      chain.push(put(i, `${key} ${i}`, BEND.height));
    }
    chain.push(items.get(target));
    for (let i = 1; i < chain.length; i += 1) {
      chain[i - 1].near.push(chain[i]);
      chain[i].near.push(chain[i - 1]);
    }
    chains.set(key, chain);
  }
  return { layers, columns, items, chains };
}

/** Stack the items of a column in their order, around `middle`. */
function stack(column, middle) {
  const total = column.reduce((sum, item) => sum + item.height + GAP, -GAP);
  let y = middle - total / 2;
  for (const item of column) {
    item.y = y + item.height / 2;
    y += item.height + GAP;
  }
}

/** Order each column by the mean height of the neighbours (barycentres), forth and back, to avoid crossings. */
function order(columns, middle) {
  columns.forEach((column) => stack(column, middle));
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    for (const column of sweep % 2 ? [...columns].reverse() : columns) {
      const wish = new Map(column.map((item) => [item, item.near.length ? mean(item.near.map(({ y }) => y)) : item.y]));
      column.sort((a, b) => wish.get(a) - wish.get(b));
      stack(column, middle);
    }
  }
}

/** A smooth line through the items of an edge, level while it passes a column. */
function path(chain, x) {
  const points = [[x(chain[0]) + NODE.width, chain[0].y]];
  for (const item of chain.slice(1, -1)) points.push([x(item), item.y], [x(item) + NODE.width, item.y]);
  const last = chain[chain.length - 1];
  points.push([x(last), last.y]);
  let line = `M${points[0].join()}`;
  for (let i = 1; i < points.length; i += 1) {
    const [[x1, y1], [x2, y2]] = [points[i - 1], points[i]];
    const bend = (x2 - x1) / 2;
    line += i % 2 ? ` C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}` : ` L${x2},${y2}`;
  }
  return line;
}

/** Corners of features, lines of edges, heads of columns, and the size of the drawing; `room` is the width to fill. */
export function layout(nodes, edges, room) {
  const { layers, columns, items, chains } = columnsAndChains(nodes, edges);
  const tallest = Math.max(...columns.map((column) => column.reduce((sum, item) => sum + item.height + GAP, -GAP)));
  order(columns, MARGIN.top + tallest / 2);
  const free = (room - 2 * MARGIN.side - NODE.width) / Math.max(1, columns.length - 1);
  const step = Math.max(COLUMN.least, Math.min(COLUMN.most, free));
  const x = (item) => MARGIN.side + item.column * step;
  return {
    corner: new Map(nodes.map(({ name }) => [name, { x: x(items.get(name)), y: items.get(name).y - NODE.height / 2 }])),
    line: new Map([...chains].map(([key, chain]) => [key, path(chain, x)])),
    heads: layers.map((layer, column) => ({ layer, x: x({ column }) + NODE.width / 2 })),
    width: 2 * MARGIN.side + NODE.width + (columns.length - 1) * step,
    height: MARGIN.top + tallest + MARGIN.bottom,
  };
}
