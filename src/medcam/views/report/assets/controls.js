// Connect the viewer to mouse, wheel, keys and touch on the pictures, and to the form of controls.

/**
 * Bind click, drag and touch to the crosshair; with the right button or Shift, to the window.
 * @param {Viewer} viewer @param {Pane} pane @param {() => void} onWindow
 */
function bindPointer(viewer, { plane, stage, slice }, onWindow) {
  const { scene: { shape, image: { range } }, state } = viewer;
  const unit = (range[1] - range[0] || 1) / 500; // grey values per pixel of a drag
  /** @type {?{x: number, y: number, level: number, width: number}} */
  let windowing = null;

  const follow = (/** @type {PointerEvent} */ { clientX, clientY }) => {
    if (windowing) {
      const width = Math.max(windowing.width + (clientX - windowing.x) * unit, unit / 2);
      const level = windowing.level + (clientY - windowing.y) * unit;
      viewer.setWindow(level - width / 2, level + width / 2);
      onWindow();
      return;
    }
    const box = slice.getBoundingClientRect();
    const column = Math.floor(((clientX - box.left) / box.width) * slice.width);
    const row = Math.floor(((clientY - box.top) / box.height) * slice.height);
    const at = [...state.at];
    at[plane.across] = viewer.mirrored(plane) ? shape[plane.across] - 1 - column : column;
    at[plane.down] = plane.raised ? shape[plane.down] - 1 - row : row;
    viewer.goTo(at);
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 && event.button !== 2) return;
    event.preventDefault();
    slice.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    windowing = event.button === 2 || event.shiftKey ? { x: event.clientX, y: event.clientY,
      level: (state.low + state.high) / 2, width: state.high - state.low } : null;
    follow(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) follow(event);
  });
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
}

/** Bind the wheel, keys, slider and button of a pane. @param {Viewer} viewer @param {Pane} pane */
function bindSlices(viewer, pane) {
  const { scene, state, step } = viewer;
  const { across, down, through, raised } = pane.plane;
  let wheel = 0;
  pane.stage.addEventListener("wheel", (event) => {
    if (!scene.volume) return;
    event.preventDefault();
    wheel += event.deltaMode === 0 ? event.deltaY : event.deltaY * 30;
    // a notch of a wheel is one slice; touch pads send many small steps, which are summed up
    if (Math.abs(wheel) < 30) return;
    step(through, wheel < 0 ? 1 : -1);
    wheel = 0;
  }, { passive: false });
  pane.slice.addEventListener("keydown", (event) => {
    const [right, up] = [viewer.mirrored(pane.plane) ? -1 : 1, raised ? 1 : -1];
    /** @type {Object<string, number[]>} */
    const moves = event.shiftKey || !scene.volume
      ? { ArrowLeft: [across, -right], ArrowRight: [across, right], ArrowUp: [down, up],
        ArrowDown: [down, -up] }
      : { ArrowLeft: [through, -1], ArrowRight: [through, 1], ArrowUp: [through, 1],
        ArrowDown: [through, -1], PageUp: [through, 10], PageDown: [through, -10] };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    step(move[0], move[1]);
  });
  if (!pane.scroll) return;
  pane.scroll.max = String(scene.shape[through] - 1);
  pane.scroll.disabled = false;
  pane.scroll.addEventListener("input", () => step(through, pane.scroll.value - state.at[through]));
  pane.figure.querySelector(".enlarge").addEventListener("click", () => {
    for (const { figure } of viewer.panes) figure.classList.toggle("main", figure === pane.figure);
  });
}

/**
 * Call a function on input, if the control exists.
 * @param {string} id @param {(element: any) => void} act
 */
function on(id, act) {
  const element = byId(id);
  element?.addEventListener("input", () => act(element));
}

/**
 * Fill a select. A single name is shown as plain text; without a name the field is hidden.
 * @param {string} id @param {string[]} names @param {string} chosen
 */
function fill(id, names, chosen) {
  const select = byId(id);
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  select.hidden = names.length === 1;
  select.parentElement.hidden = names.join("") === "";
  select.parentElement.querySelector(".only")?.remove();
  if (names.length !== 1) return;
  const only = document.createElement("span");
  only.className = "only";
  for (const part of names[0].split(/(?<=[._])/)) only.append(part, document.createElement("wbr"));
  select.after(only);
}

/** Bind the choice of method, layer and target to the shown map. @param {Viewer} viewer */
function bindMapChoice(viewer) {
  const { scene: { maps }, state } = viewer;
  const keys = ["method", "layer", "target"];
  const nameOf = (/** @type {any} */ map, /** @type {string} */ key) => map[key] ?? "the input";
  /** @param {MapInfo[]} candidates @param {string} key @param {string} name */
  const having = (candidates, key, name) => candidates.filter((map) => nameOf(map, key) === name);
  function write() {
    let left = maps;
    for (const key of keys) {
      fill(key, [...new Set(left.map((map) => nameOf(map, key)))], nameOf(state.map, key));
      left = having(left, key, nameOf(state.map, key));
    }
    byId("threshold").value = "0";
    writeVerdict(state.map);
    writeScale(viewer);
  }
  for (const key of keys) {
    on(key, ({ value }) => {
      let left = having(maps, key, value); // prefer a map that keeps the other choices
      for (const other of keys.filter((name) => name !== key)) {
        const same = having(left, other, nameOf(state.map, other));
        if (same.length) left = same;
      }
      viewer.showMap(left[0]).catch(fail);
      write();
    });
  }
  write();
}

/** Write what the check says of a map, if there is a check. @param {MapInfo} map */
function writeVerdict({ verdict }) {
  if (!byId("verdict")) return;
  const { sign, word, bad, remark } = verdict
    ?? { sign: "", word: "not checked", bad: false, remark: "" };
  byId("verdict").toggleAttribute("data-bad", bad);
  const texts = { "verdict-sign": sign, "verdict-word": word, "verdict-remark": remark };
  for (const [id, text] of Object.entries(texts)) byId(id).textContent = text;
}

/**
 * Write the colour bar and the notes on the map; colours below the threshold are left out.
 * @param {Viewer} viewer
 */
function writeScale({ state: { map, threshold, opacity }, scene, colours }) {
  const kept = (/** @type {Packing} */ { exact, step }) =>
    (exact ? "kept exactly" : `kept in steps of ${roughly(step)}`);
  const ofMap = map ? `, this map's are ${kept(map)}` : "";
  byId("step-note").textContent = `The image's values are ${kept(scene.image)}${ofMap}: `
    + "a reading is within half a step of the array's value.";
  if (!map) return;
  const [low, high] = [map.signed ? -map.top : 0, map.top];
  const context = byId("bar").getContext("2d");
  const pixels = context.createImageData(256, 1);
  const table = map.signed ? colours.signed : colours.positive;
  for (let entry = 0; entry < 256; entry += 1) {
    const value = low + ((entry + 0.5) / 256) * (high - low);
    const alpha = Math.abs(value) >= threshold ? 255 : 0;
    pixels.data.set([...table.subarray(3 * entry, 3 * entry + 3), alpha], 4 * entry);
  }
  context.putImageData(pixels, 0, 0);
  const texts = { units: `${map.units}, ${map.scale}`, "tick-low": roughly(low),
    "tick-middle": roughly((low + high) / 2), "tick-high": roughly(high),
    "threshold-value": roughly(threshold), "opacity-value": `${Math.round(100 * opacity)} %` };
  for (const [id, text] of Object.entries(texts)) byId(id).textContent = text;
  byId("bar").setAttribute("aria-label", `Colours from ${roughly(low)} to ${roughly(high)}`);
}

/**
 * Bind the presets, level and width of the window; return a function that updates them.
 * @param {Viewer} viewer
 */
function bindWindow({ state, setWindow, scene: { image: { windows, range, units } } }) {
  const least = Math.min(range[0], ...windows.map(({ low }) => low));
  const span = Math.max(range[1], ...windows.map(({ high }) => high)) - least;
  function write() {
    const [level, width] = [(state.low + state.high) / 2, state.high - state.low];
    byId("level").value = String(Math.round((1000 * (level - least)) / span));
    byId("width").value = String(Math.round((1000 * width) / span));
    byId("level-value").textContent = `${roughly(level)} ${units}`.trim();
    byId("width-value").textContent = `${roughly(width)} ${units}`.trim();
    const known = windows.find(({ low, high }) => low === state.low && high === state.high);
    const names = [...windows.map(({ name }) => name), ...(known ? [] : ["Own"])];
    byId("preset").replaceChildren(...names.map((name) =>
      new Option(name, name, false, name === (known?.name ?? "Own"))));
  }
  const slide = (/** @type {number} */ level, /** @type {number} */ width) => {
    setWindow(level - width / 2, level + width / 2);
    write();
  };
  on("preset", ({ value }) => {
    const chosen = windows.find(({ name }) => name === value);
    if (chosen) setWindow(chosen.low, chosen.high);
    write();
  });
  on("level", ({ value }) => slide(least + (span * value) / 1000, state.high - state.low));
  on("width", ({ value }) => slide((state.low + state.high) / 2, (span * value) / 1000));
  write();
  return write;
}

/** Bind all controls. @param {Viewer} viewer */
function bindControls(viewer) {
  const { state, refresh } = viewer;
  const set = (/** @type {object} */ change) => { Object.assign(state, change); refresh(); };
  if (state.map) {
    bindMapChoice(viewer);
    byId("opacity").value = String(100 * state.opacity);
  }
  writeScale(viewer);
  on("opacity", ({ value }) => { set({ opacity: value / 100 }); writeScale(viewer); });
  on("threshold", ({ value }) => {
    viewer.setThreshold((value / 1000) * state.map.top);
    writeScale(viewer);
  });
  on("show-map", ({ checked }) => set({ showMap: checked }));
  on("show-mask", ({ checked }) => set({ showMask: checked }));
  on("show-segmentation", ({ checked }) => set({ showSegmentation: checked }));
  on("crosshair", ({ checked }) => set({ crosshair: checked }));
  on("radiological", () => set({ neurological: false }));
  on("neurological", () => set({ neurological: true }));
  on("smooth", ({ checked }) => document.body.classList.toggle("crisp", !checked));
  byId("peak")?.addEventListener("click", () => viewer.goTo(viewer.peak()));
  const onWindow = bindWindow(viewer);
  for (const pane of viewer.panes) {
    bindPointer(viewer, pane, onWindow);
    bindSlices(viewer, pane);
  }
}

/** Show an error at the top of the page. @param {unknown} error */
function fail(error) {
  byId("message").hidden = false;
  byId("message").textContent = typeof DecompressionStream === "undefined"
    ? "This browser cannot unpack the images in this page: only the pictures below are shown. "
      + "Open it in Chrome or Edge 80, Firefox 113, Safari 16.4, or a later version of these."
    : `The images in this page could not be unpacked (${error}): the file may be incomplete. `
      + "Only the pictures below are shown.";
}

document.addEventListener("DOMContentLoaded", () => {
  const viewer = createViewer(JSON.parse(byId("scene").textContent));
  bindControls(viewer);
  viewer.open().catch(fail);
});
