// Read the data embedded in the page: the scene as JSON, and its arrays, compressed by gzip and
// encoded in base64, each in an element of its own.
"use strict";

/**
 * How an array is stored: value = (code + first) * step; with gaps, code 0 marks a value that is
 * not finite. See packing.py.
 * @typedef {{blob: string, bytes: 1|2, first: number, step: number, gaps: boolean,
 *   exact: boolean}} Packing
 * @typedef {{name: string, low: number, high: number}} GreyWindow
 * @typedef {Packing & {channels: 1|3, units: string, windows: GreyWindow[],
 *   range: number[]}} ImageInfo
 * @typedef {{sign: string, word: string, bad: boolean, remark: string}} Verdict
 * @typedef {Packing & {factor: 1|2, method: string, layer: ?string, target: string,
 *   signed: boolean, units: string, top: number, scale: string, verdict: ?Verdict}} MapInfo
 * @typedef {{name: string, across: number, down: number, through: number, mirrored: boolean,
 *   raised: boolean, shows: "overlay"|"image"|"map"}} Plane
 * @typedef {{volume: boolean, shape: number[], spacing: number[], order: number[],
 *   flipped: boolean[], affine: ?number[][], normals: ?number[][], oblique: boolean,
 *   ends: ?string[][], planes: Plane[], start: number[], image: ImageInfo, first: number, maps: MapInfo[],
 *   colours: {positive: string, signed: string}, mask: ?Packing, segmentation: ?Packing,
 *   exponent: number, opacity: number}} SceneData
 * A plane on the page. The canvas of the slice has one pixel per voxel, that of the marks (outlines
 * and crosshair) one per pixel of the screen.
 * @typedef {{plane: Plane, figure: HTMLElement, stage: HTMLElement, slice: HTMLCanvasElement,
 *   marks: HTMLCanvasElement, scroll: ?HTMLInputElement}} Pane
 */

/** @param {string} id @returns {any} */
const byId = (id) => document.getElementById(id);

/** @param {string} text @returns {Uint8Array} */
function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/**
 * Read the bytes of an embedded array, in chunks, so that the page stays responsive.
 * @param {string} id @param {number} length @returns {Promise<Uint8Array>}
 */
async function unpackBytes(id, length) {
  const chunk = 1 << 20; // characters; a multiple of 4, so that each chunk is valid base64
  const element = byId(id);
  const text = element.textContent.trim();
  const { writable, readable } = new DecompressionStream("gzip");
  const feed = async () => {
    const writer = writable.getWriter();
    for (let at = 0; at < text.length; at += chunk) {
      await writer.write(fromBase64(text.slice(at, at + chunk)));
    }
    await writer.close();
  };
  const bytes = new Uint8Array(length);
  const drain = async () => {
    const reader = readable.getReader();
    let at = 0;
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      bytes.set(part.value, at);
      at += part.value.length;
    }
    if (at !== length) throw new Error(`${id} holds ${at} of ${length} bytes`);
  };
  await Promise.all([feed(), drain()]);
  element.remove(); // releases the memory of the text
  return bytes;
}

/**
 * Read the codes of an array. Of two-byte codes, all low bytes come before all high bytes.
 * @param {Packing} packing @param {number} count
 */
async function unpack(packing, count) {
  const bytes = await unpackBytes(packing.blob, count * packing.bytes);
  if (packing.bytes === 1) return bytes;
  const codes = new Uint16Array(count);
  for (let i = 0; i < count; i += 1) codes[i] = bytes[i] | (bytes[count + i] << 8);
  return codes;
}

/**
 * Read the labels of a mask or segmentation; null if there is none.
 * @param {?Packing} packing @param {number} count
 */
async function unpackLabels(packing, count) {
  if (!packing) return null;
  const codes = await unpack(packing, count);
  return packing.first ? Uint16Array.from(codes, (code) => code + packing.first) : codes;
}
