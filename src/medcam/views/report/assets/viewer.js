// The viewer: three linked planes, or a picture beside its map, on 2D canvases. Arrays are on the
// upright grid, whose axes point to the patient's right, anterior and superior; the first axis runs
// fastest.

/**
 * Create the viewer, which paints the panes from a state that the controls change.
 * @param {SceneData} scene
 */
function createViewer(scene) {
  const { shape, image } = scene;
  const state = {
    at: [...scene.start], map: scene.maps[scene.first] ?? null, low: image.windows[0].low,
    high: image.windows[0].high, opacity: scene.opacity, threshold: 0, showMap: true,
    showMask: true, showSegmentation: true, crosshair: true, neurological: false,
  };
  /** @type {{image?: any, mask: any, segmentation: any, maps: Map<MapInfo, any>}} */
  const arrays = { maps: new Map(), mask: null, segmentation: null };
  const colours = {
    positive: fromBase64(scene.colours.positive), signed: fromBase64(scene.colours.signed),
  };
  let grey = new Uint8ClampedArray(1);
  /** @type {any} */
  let tint = null;
  let queued = false;

  /** @type {Pane[]} */
  const panes = [...document.querySelectorAll(".pane")].map((/** @type {any} */ figure) => ({
    plane: scene.planes[Number(figure.dataset.plane)],
    figure,
    stage: figure.querySelector(".stage"),
    slice: figure.querySelector(".slice"),
    marks: figure.querySelector(".marks"),
    scroll: figure.querySelector(".scroll"),
  }));

  /** Whether a plane is shown from right to left. @param {Plane} plane */
  const mirrored = (plane) => plane.mirrored !== (plane.across === 0 && state.neurological);

  /** The extents of a map's array. @param {MapInfo} map */
  const shapeOf = (map) => shape.map((extent) => Math.ceil(extent / map.factor));

  /**
   * The offsets of a slice's pixels in a flat array: base + rows[row] + columns[column].
   * @param {Plane} plane @param {number[]} arrayShape
   * @param {number} factor  2 if the array has half the resolution of the grid.
   */
  function indicesOf(plane, arrayShape, factor) {
    const strides = [1, arrayShape[0], arrayShape[0] * arrayShape[1]];
    const along = (/** @type {number} */ axis, /** @type {boolean} */ backwards) =>
      Int32Array.from({ length: shape[axis] }, (_, i) =>
        Math.floor((backwards ? shape[axis] - 1 - i : i) / factor) * strides[axis]);
    return {
      base: Math.floor(state.at[plane.through] / factor) * strides[plane.through],
      columns: along(plane.across, mirrored(plane)),
      rows: along(plane.down, plane.raised),
    };
  }

  /** Paint a slice, one pixel per voxel. @param {Pane} pane */
  function paintSlice({ plane, slice }) {
    const context = slice.getContext("2d");
    const pixels = context.createImageData(slice.width, slice.height);
    const { data } = pixels;
    const { channels } = image;
    const { map } = state;
    const mapOnly = plane.shows === "map";
    const codes = plane.shows !== "image" && (state.showMap || mapOnly) && arrays.maps.get(map);
    const inImage = indicesOf(plane, shape, 1);
    const inMap = codes && indicesOf(plane, shapeOf(map), map.factor);
    let pixel = 0;
    for (let row = 0; row < slice.height; row += 1) {
      for (let column = 0; column < slice.width; column += 1, pixel += 4) {
        const offset = (inImage.base + inImage.rows[row] + inImage.columns[column]) * channels;
        for (let c = 0; c < 3; c += 1) {
          data[pixel + c] = grey[arrays.image[offset + (channels === 3 ? c : 0)]];
        }
        data[pixel + 3] = 255;
        if (!codes) continue;
        const code = codes[inMap.base + inMap.rows[row] + inMap.columns[column]];
        const alpha = mapOnly ? 1 : state.opacity * tint.weight[code];
        for (let c = 0; c < 3 && alpha > 0; c += 1) {
          const colour = tint.shown[code] * tint.rgb[3 * code + c];
          data[pixel + c] += alpha * (colour - data[pixel + c]);
        }
      }
    }
    context.putImageData(pixels, 0, 0);
  }

  /** Draw outlines and crosshair over a slice. @param {Pane} pane */
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
      const path = outline(labels, indicesOf(plane, shape, 1), stepX, stepY);
      stroke(path, "rgba(0, 0, 0, 0.6)", 3);
      stroke(path, style, 1.25);
    }
    if (!state.crosshair) return;
    const { across, down, raised } = plane;
    const column = mirrored(plane) ? slice.width - 1 - state.at[across] : state.at[across];
    const row = raised ? slice.height - 1 - state.at[down] : state.at[down];
    const [x, y] = [(column + 0.5) * stepX, (row + 0.5) * stepY];
    const gap = Math.max(7 * ratio, 0.75 * Math.max(stepX, stepY)); // keeps the voxel visible
    const cross = crosshairPath(x, y, gap, marks);
    stroke(cross, "rgba(0, 0, 0, 0.35)", 3);
    stroke(cross, "rgba(96, 205, 255, 0.9)");
  }

  /** Fit the canvases into the stage, with the aspect ratio in mm. @param {Pane} pane */
  function fit({ plane, stage, slice, marks }) {
    const size = [plane.across, plane.down].map((axis) => shape[axis] * scene.spacing[axis]);
    const room = [stage.clientWidth, stage.clientHeight];
    const scale = Math.min(room[0] / size[0], room[1] / size[1]);
    const [width, height] = size.map((extent) => extent * scale);
    for (const { style } of [slice, marks]) {
      Object.assign(style, { left: `${(room[0] - width) / 2}px`,
        top: `${(room[1] - height) / 2}px`, width: `${width}px`, height: `${height}px` });
    }
    const ratio = window.devicePixelRatio || 1;
    const pixels = [width, height].map((extent) => Math.max(Math.round(extent * ratio), 1));
    if (marks.width !== pixels[0]) marks.width = pixels[0]; // setting the size clears it
    if (marks.height !== pixels[1]) marks.height = pixels[1];
  }

  /**
   * Write the letters, the position, and the label for screen readers.
   * @param {Pane} pane @param {string} readings
   */
  function writeLabels({ plane, figure, slice, scroll }, readings) {
    if (scene.ends) {
      const [left, right] = scene.ends[plane.across];
      const [below, above] = scene.ends[plane.down]; // anatomical planes are all raised
      const letters = mirrored(plane) ? { left: right, right: left, above, below }
        : { left, right, above, below };
      for (const [side, letter] of Object.entries(letters)) {
        figure.querySelector(`.letter.${side}`).textContent = letter;
      }
    }
    const position = scene.volume ? describePosition(scene, state.at, plane.through) : "";
    slice.setAttribute("aria-label", `${plane.name} ${position}. ${readings}`);
    if (!scroll) return;
    figure.querySelector(".position").textContent = position;
    scroll.value = String(state.at[plane.through]);
    scroll.setAttribute("aria-valuetext", position);
  }

  /** Write the values at the crosshair, and return them as a sentence. */
  function writeReadings() {
    const { at, map } = state;
    const write = (/** @type {string} */ id, /** @type {string} */ text, value = "") => {
      const element = byId(id);
      element.textContent = text;
      if (value) element.value = value;
      return text;
    };
    const first = offsetOf(shape, at) * image.channels;
    const values = Array.from({ length: image.channels }, (_, c) =>
      valueOf(image, arrays.image[first + c]));
    const texts = values.map((value) => exactly(value, image.step)).join(" ");
    const shown = write("image-value", `${texts} ${image.units}`.trim(), values.join(" "));
    const said = [`image ${shown}`];
    const [i, j, k] = storedIndex(scene, at);
    const index = write("index", scene.volume ? `${i}, ${j}, ${k}` : `${j}, ${i}`);
    if (scene.affine) {
      write("place", toMm(scene.affine, at).map((mm) => tidy(mm.toFixed(1))).join(", "));
    }
    if (map) {
      const codes = arrays.maps.get(map);
      const inMap = at.map((n) => Math.floor(n / map.factor));
      const value = codes ? valueOf(map, codes[offsetOf(shapeOf(map), inMap)]) : NaN;
      const text = codes ? exactly(value, map.step) : "–";
      said.push(`map ${write("map-value", text, String(value))}`);
    }
    if (arrays.mask) {
      const inside = arrays.mask[offsetOf(shape, at)] > 0;
      said.push(`${write("inside", inside ? "inside" : "outside")} the mask`);
    }
    if (arrays.segmentation) {
      const label = arrays.segmentation[offsetOf(shape, at)];
      said.push(`predicted ${write("predicted", label ? `label ${label}` : "background")}`);
    }
    return `Crosshair at ${byId("index-title").textContent} ${index}: ${said.join(", ")}.`;
  }

  /** Paint all panes. */
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

  /** Paint once before the next frame, however often it is called. */
  function refresh() {
    if (!queued) requestAnimationFrame(paint);
    queued = true;
  }

  /** Move the crosshair, clipped to the grid. @param {number[]} at */
  function goTo(at) {
    state.at = at.map((index, n) => Math.min(Math.max(index, 0), shape[n] - 1));
    refresh();
  }

  /** Move the crosshair along one axis. @param {number} axis @param {number} by */
  const step = (axis, by) => goTo(state.at.map((index, n) => (n === axis ? index + by : index)));

  /** Set the values drawn black and white. @param {number} low @param {number} high */
  function setWindow(low, high) {
    Object.assign(state, { low, high });
    grey = greyTable(image, low, high);
    refresh();
  }

  /** Hide values of a smaller magnitude. @param {number} threshold */
  function setThreshold(threshold) {
    const { map } = state;
    state.threshold = threshold;
    tint = map && colourTable(map, map.signed ? colours.signed : colours.positive, threshold,
      scene.exponent);
    refresh();
  }

  /** The voxel where the shown map has its largest magnitude. */
  function peak() {
    const { map } = state;
    const codes = arrays.maps.get(map) ?? [];
    let [largest, peakOffset] = [-1, 0];
    for (let i = 0; i < codes.length; i += 1) {
      const magnitude = Math.abs(codes[i] + map.first);
      if (magnitude > largest) [largest, peakOffset] = [magnitude, i];
    }
    const [x, y] = shapeOf(map);
    const inMap = [peakOffset % x, Math.floor(peakOffset / x) % y,
      Math.floor(peakOffset / (x * y))];
    return largest < 0 ? state.at : inMap.map((index) => index * map.factor);
  }

  /** Unpack a map, once. @param {MapInfo} map */
  async function load(map) {
    if (arrays.maps.has(map)) return;
    arrays.maps.set(map, null); // being unpacked
    arrays.maps.set(map, await unpack(map, sizeOf(shapeOf(map))));
    refresh();
  }

  /** Show another map. @param {MapInfo} map */
  function showMap(map) {
    state.map = map;
    setThreshold(0);
    return load(map);
  }

  /** Unpack all arrays: first those that are visible when the page opens. */
  async function open() {
    for (const pane of panes) {
      [pane.slice.width, pane.slice.height] = [shape[pane.plane.across], shape[pane.plane.down]];
      fit(pane);
      new ResizeObserver(() => { // resizing clears a canvas, so it is drawn in the same frame
        fit(pane);
        if (arrays.image) drawMarks(pane);
      }).observe(pane.stage);
    }
    const pixels = await unpack(image, sizeOf(shape) * image.channels);
    if (state.map) await load(state.map);
    arrays.mask = await unpackLabels(scene.mask, sizeOf(shape));
    arrays.segmentation = await unpackLabels(scene.segmentation, sizeOf(shape));
    arrays.image = pixels;
    setWindow(state.low, state.high);
    setThreshold(0);
    paint();
    document.body.classList.add("ready");
    for (const map of scene.maps) await load(map);
  }

  return { scene, state, panes, colours, open, refresh, goTo, step, setWindow, setThreshold, peak,
    showMap, mirrored };
}

/** @typedef {ReturnType<typeof createViewer>} Viewer */
