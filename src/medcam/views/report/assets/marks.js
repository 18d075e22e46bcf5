// Paths drawn over a slice: outlines of regions and the crosshair; pure functions.

/**
 * The edges between pixels of different labels.
 * @param {any} labels
 * @param {{base: number, rows: Int32Array, columns: Int32Array}} indices  See indicesOf.
 * @param {number} stepX @param {number} stepY  The size of a voxel on the screen.
 */
function outline(labels, { base, rows, columns }, stepX, stepY) {
  const label = (/** @type {number} */ row, /** @type {number} */ column) =>
    (row in rows && column in columns ? labels[base + rows[row] + columns[column]] : 0);
  const path = new Path2D();
  const edge = (/** @type {number[]} */ from, /** @type {number[]} */ to) => {
    path.moveTo(from[0] * stepX, from[1] * stepY);
    path.lineTo(to[0] * stepX, to[1] * stepY);
  };
  for (let row = 0; row <= rows.length; row += 1) {
    for (let column = 0; column <= columns.length; column += 1) {
      const here = label(row, column);
      if (here !== label(row - 1, column)) edge([column, row], [column + 1, row]);
      if (here !== label(row, column - 1)) edge([column, row], [column, row + 1]);
    }
  }
  return path;
}

/**
 * A crosshair with a gap around its centre.
 * @param {number} x @param {number} y @param {number} gap  Half of the gap's width.
 * @param {{width: number, height: number}} size  The size of the canvas.
 */
function crosshairPath(x, y, gap, { width, height }) {
  const path = new Path2D();
  for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, width, y],
    [x, 0, x, y - gap], [x, y + gap, x, height]]) {
    if (x1 < x0 || y1 < y0) continue;
    path.moveTo(x0, y0);
    path.lineTo(x1, y1);
  }
  return path;
}
