// The viewer: three linked planes, or a picture beside its map, on 2D canvases. Arrays lie on a
// grid whose axes run to the patient's right, anterior and superior, the first axis fastest.

/** Paints the panes by a state, which others change. @param {Study} study */
function createViewer(study) {
  const { shape, image } = study;
  const state = {
    at: [...study.start], map: study.maps[0] ?? null, low: image.windows[0].low,
    high: image.windows[0].high, opacity: study.opacity, threshold: 0, showMap: true,
    showMask: true, showSegmentation: true, crosshair: true, neurological: false,
  };
  /** @type {{image?: any, mask: any, segmentation: any, maps: Map<MapInfo, any>}} */
  const arrays = { maps: new Map(), mask: null, segmentation: null };
  const colours = {
    positive: fromBase64(study.colours.positive), signed: fromBase64(study.colours.signed),
  };
  let grey = new Uint8ClampedArray(1);
  /** @type {any} */
  let tint = null;
  let queued = false;

  /** @type {Pane[]} */
  const panes = [...document.querySelectorAll(".pane")].map((/** @type {any} */ figure) => ({
    plane: study.planes[Number(figure.dataset.plane)],
    figure,
    stage: figure.querySelector(".stage"),
    slice: figure.querySelector(".slice"),
    marks: figure.querySelector(".marks"),
    scroll: figure.querySelector(".scroll"),
  }));

  /** Whether a plane runs from right to left. @param {Plane} plane */
  const mirrored = (plane) => plane.mirrored !== (plane.across === 0 && state.neurological);

  /** @param {MapInfo} map */
  const shapeOf = (map) => shape.map((extent) => Math.ceil(extent / map.factor));

  /**
   * Where each pixel of the slice is in an array: the sum of base, its row's and its column's.
   * @param {Plane} plane @param {number[]} own  The array's shape.
   * @param {number} factor  2 where the array has half the resolution.
   */
  function pixelsOf(plane, own, factor) {
    const strides = [1, own[0], own[0] * own[1]];
    const along = (/** @type {number} */ axis, /** @type {boolean} */ backwards) =>
      Int32Array.from({ length: shape[axis] }, (_, i) =>
        Math.floor((backwards ? shape[axis] - 1 - i : i) / factor) * strides[axis]);
    return {
      base: Math.floor(state.at[plane.through] / factor) * strides[plane.through],
      columns: along(plane.across, mirrored(plane)),
      rows: along(plane.down, plane.raised),
    };
  }

  /** Paints a slice, one pixel a voxel. @param {Pane} pane */
  function paintSlice({ plane, slice }) {
    const context = slice.getContext("2d");
    const pixels = context.createImageData(slice.width, slice.height);
    const { data } = pixels;
    const { channels } = image;
    const { map } = state;
    const alone = plane.shows === "map";
    const codes = plane.shows !== "image" && (state.showMap || alone) && arrays.maps.get(map);
    const of = pixelsOf(plane, shape, 1);
    const ofMap = codes && pixelsOf(plane, shapeOf(map), map.factor);
    let pixel = 0;
    for (let row = 0; row < slice.height; row += 1) {
      for (let column = 0; column < slice.width; column += 1, pixel += 4) {
        const place = (of.base + of.rows[row] + of.columns[column]) * channels;
        for (let c = 0; c < 3; c += 1) {
          data[pixel + c] = grey[arrays.image[place + (channels === 3 ? c : 0)]];
        }
        data[pixel + 3] = 255;
        if (!codes) continue;
        const code = codes[ofMap.base + ofMap.rows[row] + ofMap.columns[column]];
        const alpha = alone ? 1 : state.opacity * tint.weight[code];
        for (let c = 0; c < 3 && alpha > 0; c += 1) {
          const colour = tint.shown[code] * tint.rgb[3 * code + c];
          data[pixel + c] += alpha * (colour - data[pixel + c]);
        }
      }
    }
    context.putImageData(pixels, 0, 0);
  }

  /**
   * The edges between voxels of different labels.
   * @param {any} labels @param {Plane} plane @param {number} stepX @param {number} stepY
   */
  function outline(labels, plane, stepX, stepY) {
    const { base, columns, rows } = pixelsOf(plane, shape, 1);
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

  /** Draws outlines and crosshair over a slice. @param {Pane} pane */
  function drawMarks({ plane, slice, marks }) {
    const context = marks.getContext("2d");
    const [stepX, stepY] = [marks.width / slice.width, marks.height / slice.height];
    const ratio = window.devicePixelRatio || 1;
    const stroke = (/** @type {Path2D} */ path, /** @type {string} */ style, width = 1) => {
      Object.assign(context, { strokeStyle: style, lineWidth: width * ratio });
      context.stroke(path);
    };
    context.clearRect(0, 0, marks.width, marks.height);
    for (const [labels, shown, style] of [[arrays.segmentation, state.showSegmentation, "#5dffa0"],
      [arrays.mask, state.showMask, "#ffffff"]]) {
      if (!labels || !shown || plane.shows === "map") continue;
      const path = outline(labels, plane, stepX, stepY);
      stroke(path, "rgba(0, 0, 0, 0.6)", 3);
      stroke(path, style, 1.25);
    }
    if (!state.crosshair) return;
    const { across, down, raised } = plane;
    const column = mirrored(plane) ? slice.width - 1 - state.at[across] : state.at[across];
    const row = raised ? slice.height - 1 - state.at[down] : state.at[down];
    const [x, y] = [(column + 0.5) * stepX, (row + 0.5) * stepY];
    const gap = Math.max(7 * ratio, 0.75 * Math.max(stepX, stepY)); // what is pointed at stays free
    const cross = new Path2D();
    for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, marks.width, y],
      [x, 0, x, y - gap], [x, y + gap, x, marks.height]]) {
      if (x1 < x0 || y1 < y0) continue;
      cross.moveTo(x0, y0);
      cross.lineTo(x1, y1);
    }
    stroke(cross, "rgba(0, 0, 0, 0.35)", 3);
    stroke(cross, "rgba(96, 205, 255, 0.9)");
  }

  /** Lays the canvases into the stage, with the aspect in mm. @param {Pane} pane */
  function fit({ plane, stage, slice, marks }) {
    const size = [plane.across, plane.down].map((axis) => shape[axis] * study.spacing[axis]);
    const room = [stage.clientWidth, stage.clientHeight];
    const scale = Math.min(room[0] / size[0], room[1] / size[1]);
    const [width, height] = size.map((extent) => extent * scale);
    for (const { style } of [slice, marks]) {
      Object.assign(style, { left: `${(room[0] - width) / 2}px`,
        top: `${(room[1] - height) / 2}px`, width: `${width}px`, height: `${height}px` });
    }
    const ratio = window.devicePixelRatio || 1;
    const pixels = [width, height].map((extent) => Math.max(Math.round(extent * ratio), 1));
    if (marks.width !== pixels[0]) marks.width = pixels[0]; // a new size clears it
    if (marks.height !== pixels[1]) marks.height = pixels[1];
  }

  /**
   * A slice's position along its normal and its index, as "S 12.0 mm · k 45".
   * @param {number} axis
   */
  function positionOf(axis) {
    const stored = study.order[axis];
    const index = `${"ijk"[stored]} ${storedIndex(study, state.at)[stored]}`;
    if (!study.affine) return index;
    const along = toMm(study.affine, state.at)
      .reduce((sum, mm, n) => sum + mm * study.normals[axis][n], 0);
    const side = study.ends[axis][along < -0.05 ? 0 : 1];
    // along an oblique normal it is no coordinate of the body, so it gets no letter of one
    if (study.oblique) return `position ${tidy(along.toFixed(1))} mm, oblique · ${index}`;
    return `${side} ${Math.abs(along).toFixed(1)} mm · ${index}`;
  }

  /**
   * Writes letters, position and the label for those who listen.
   * @param {Pane} pane @param {string} readings
   */
  function writeLabels({ plane, figure, slice, scroll }, readings) {
    if (study.ends) {
      const [left, right] = study.ends[plane.across];
      const [below, above] = study.ends[plane.down]; // planes with sides are all raised
      const letters = mirrored(plane) ? { left: right, right: left, above, below }
        : { left, right, above, below };
      for (const [side, letter] of Object.entries(letters)) {
        figure.querySelector(`.letter.${side}`).textContent = letter;
      }
    }
    const position = study.volume ? positionOf(plane.through) : "";
    slice.setAttribute("aria-label", `${plane.name} ${position}. ${readings}`);
    if (!scroll) return;
    figure.querySelector(".position").textContent = position;
    scroll.value = String(state.at[plane.through]);
    scroll.setAttribute("aria-valuetext", position);
  }

  /** Writes what is at the crosshair, and gives it in a sentence. */
  function writeReadings() {
    const { at, map } = state;
    const write = (/** @type {string} */ id, /** @type {string} */ text, value = "") => {
      const element = byId(id);
      element.textContent = text;
      if (value) element.value = value;
      return text;
    };
    const first = placeOf(shape, at) * image.channels;
    const values = Array.from({ length: image.channels }, (_, c) =>
      valueOf(image, arrays.image[first + c]));
    const texts = values.map((value) => exactly(value, image.step)).join(" ");
    const shown = write("image-value", `${texts} ${image.units}`.trim(), values.join(" "));
    const said = [`image ${shown}`];
    const [i, j, k] = storedIndex(study, at);
    const index = write("index", study.volume ? `${i}, ${j}, ${k}` : `${j}, ${i}`);
    if (study.affine) {
      write("place", toMm(study.affine, at).map((mm) => tidy(mm.toFixed(1))).join(", "));
    }
    if (map) {
      const codes = arrays.maps.get(map);
      const own = at.map((n) => Math.floor(n / map.factor));
      const value = codes ? valueOf(map, codes[placeOf(shapeOf(map), own)]) : NaN;
      const text = codes ? exactly(value, map.step) : "–";
      said.push(`map ${write("map-value", text, String(value))}`);
    }
    if (arrays.mask) {
      const inside = arrays.mask[placeOf(shape, at)] > 0;
      said.push(`${write("inside", inside ? "inside" : "outside")} the mask`);
    }
    if (arrays.segmentation) {
      const label = arrays.segmentation[placeOf(shape, at)];
      said.push(`predicted ${write("predicted", label ? `label ${label}` : "background")}`);
    }
    return `Crosshair at ${byId("index-title").textContent} ${index}: ${said.join(", ")}.`;
  }

  function paint() {
    queued = false;
    if (!arrays.image) return;
    const readings = writeReadings();
    for (const pane of panes) {
      paintSlice(pane);
      drawMarks(pane);
      writeLabels(pane, readings);
    }
  }

  /** Paints once before the next frame, however often it is asked for. */
  function refresh() {
    if (!queued) requestAnimationFrame(paint);
    queued = true;
  }

  /** Moves the crosshair, within the grid. @param {number[]} at */
  function goTo(at) {
    state.at = at.map((index, n) => Math.min(Math.max(index, 0), shape[n] - 1));
    refresh();
  }

  /** Moves along one axis. @param {number} axis @param {number} by */
  const step = (axis, by) => goTo(state.at.map((index, n) => (n === axis ? index + by : index)));

  /** @param {number} low @param {number} high */
  function setWindow(low, high) {
    Object.assign(state, { low, high });
    grey = greyTable(image, low, high);
    refresh();
  }

  /** @param {number} threshold */
  function setThreshold(threshold) {
    const { map } = state;
    state.threshold = threshold;
    tint = map && colourTable(map, map.signed ? colours.signed : colours.positive, threshold,
      study.rise);
    refresh();
  }

  /** Where the shown map has its highest magnitude. */
  function peak() {
    const { map } = state;
    const codes = arrays.maps.get(map) ?? [];
    let [best, where] = [-1, 0];
    for (let i = 0; i < codes.length; i += 1) {
      const size = Math.abs(codes[i] + map.first);
      if (size > best) [best, where] = [size, i];
    }
    const [x, y] = shapeOf(map);
    const own = [where % x, Math.floor(where / x) % y, Math.floor(where / (x * y))];
    return best < 0 ? state.at : own.map((index) => index * map.factor);
  }

  /** @param {MapInfo} map */
  async function load(map) {
    if (arrays.maps.has(map)) return;
    arrays.maps.set(map, null); // on its way
    arrays.maps.set(map, await unpack(map, sizeOf(shapeOf(map))));
    refresh();
  }

  /** Shows another map. @param {MapInfo} map */
  function showMap(map) {
    state.map = map;
    setThreshold(0);
    return load(map);
  }

  /** Unpacks the arrays: what is seen first, first. */
  async function open() {
    for (const pane of panes) {
      [pane.slice.width, pane.slice.height] = [shape[pane.plane.across], shape[pane.plane.down]];
      fit(pane);
      new ResizeObserver(() => { // a canvas of a new size is empty: drawn in the same frame
        fit(pane);
        if (arrays.image) drawMarks(pane);
      }).observe(pane.stage);
    }
    const pixels = await unpack(image, sizeOf(shape) * image.channels);
    if (state.map) await load(state.map);
    arrays.mask = await unpackLabels(study.mask, sizeOf(shape));
    arrays.segmentation = await unpackLabels(study.segmentation, sizeOf(shape));
    arrays.image = pixels;
    setWindow(state.low, state.high);
    setThreshold(0);
    paint();
    document.body.classList.add("ready");
    for (const map of study.maps) await load(map);
  }

  return { study, state, panes, colours, open, refresh, goTo, step, setWindow, setThreshold, peak,
    showMap, mirrored };
}

/** @typedef {ReturnType<typeof createViewer>} Viewer */
