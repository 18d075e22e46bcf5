// Convert codes to colours, values and positions: pure functions.

/** The value of a code. @param {Packing} packing @param {number} code */
function valueOf(packing, code) {
  return packing.gaps && code === 0 ? NaN : (code + packing.first) * packing.step;
}

/** The grey of each code. @param {Packing} packing @param {number} low @param {number} high */
function greyTable(packing, low, high) {
  const table = new Uint8ClampedArray(256 ** packing.bytes); // rounds and clips; NaN is 0
  for (let code = 0; code < table.length; code += 1) {
    table[code] = (255 * (valueOf(packing, code) - low)) / (high - low);
  }
  return table;
}

/**
 * The colour, visibility and opacity of each code of a map.
 * @param {MapInfo} map @param {Uint8Array} colours  256 colours, red, green and blue.
 * @param {number} threshold  Values of a smaller magnitude are hidden.
 * @param {number} exponent  Opacity is the scaled magnitude to the power of this exponent.
 */
function colourTable(map, colours, threshold, exponent) {
  const count = 256 ** map.bytes;
  const [rgb, shown] = [new Uint8Array(3 * count), new Uint8Array(count)];
  const weight = new Float32Array(count);
  for (let code = 0; code < count; code += 1) {
    const value = valueOf(map, code);
    const scaled = Math.min(Math.max(value / map.top, map.signed ? -1 : 0), 1);
    const share = map.signed ? scaled / 2 + 0.5 : scaled;
    const entry = 3 * Math.min(Math.floor(share * 256), 255);
    rgb.set(colours.subarray(entry, entry + 3), 3 * code);
    shown[code] = Number(Math.abs(value) >= threshold);
    weight[code] = shown[code] * Math.abs(scaled) ** exponent;
  }
  return { rgb, weight, shown };
}

/** Replace hyphens by minus signs, and remove the sign of zero. @param {string} text */
const tidy = (text) => (Number(text) === 0 ? text.replace("-", "") : text.replaceAll("-", "−"));

/**
 * Format a value with one decimal more than its step.
 * @param {number} value @param {number} step
 */
function exactly(value, step) {
  if (Number.isNaN(value)) return "not a number";
  if (step >= 1) return tidy(value.toFixed(step === 1 ? 0 : 1));
  const power = Math.floor(Math.log10(step) + 1e-9);
  if (power >= -4) return tidy(value.toFixed(1 - power));
  const digits = Math.floor(Math.log10(Math.abs(value) || step) + 1e-9) - power + 1;
  return tidy(value.toExponential(Math.min(Math.max(digits, 1), 16)));
}

/** Format a number with about three digits, for scales and sliders. @param {number} value */
function roughly(value) {
  const size = Math.abs(value);
  if (size >= 1000 && size < 1e6) return tidy(value.toFixed(0));
  const extreme = size !== 0 && (size < 1e-3 || size >= 1e6);
  const text = extreme ? value.toExponential(2).replace(/\.?0+e/, "e")
    : String(Number(value.toPrecision(3)));
  return tidy(text);
}

/** The RAS coordinates of a voxel in mm. @param {number[][]} affine @param {number[]} at */
const toMm = (affine, at) => [0, 1, 2].map((row) =>
  affine[row][0] * at[0] + affine[row][1] * at[1] + affine[row][2] * at[2] + affine[row][3]);

/** The index of a voxel in the stored array. @param {SceneData} scene @param {number[]} at */
function storedIndex(scene, at) {
  const index = [0, 0, 0];
  scene.order.forEach((axis, n) => {
    index[axis] = scene.flipped[n] ? scene.shape[n] - 1 - at[n] : at[n];
  });
  return index;
}

/** The number of voxels. @param {number[]} shape */
const sizeOf = (shape) => shape[0] * shape[1] * shape[2];

/** The offset of a voxel in a flat array. @param {number[]} shape @param {number[]} at */
const offsetOf = (shape, at) => at[0] + shape[0] * (at[1] + shape[1] * at[2]);

/**
 * The position of a slice along its normal, and its stored index: "S 12.0 mm · k 45".
 * @param {SceneData} scene @param {number[]} at @param {number} axis
 */
function describePosition(scene, at, axis) {
  const storedAxis = scene.order[axis];
  const index = `${"ijk"[storedAxis]} ${storedIndex(scene, at)[storedAxis]}`;
  if (!scene.affine) return index;
  const along = toMm(scene.affine, at)
    .reduce((sum, mm, n) => sum + mm * scene.normals[axis][n], 0);
  const side = scene.ends[axis][along < -0.05 ? 0 : 1];
  // along an oblique normal it is no coordinate of the patient, so it gets no letter
  if (scene.oblique) return `position ${tidy(along.toFixed(1))} mm, oblique · ${index}`;
  return `${side} ${Math.abs(along).toFixed(1)} mm · ${index}`;
}
