// A file's gray levels, by the browser's decoder.

import { histogramOf, ImageFault, isInverted, percentile, stretch, toGray, withoutMetadata } from "./image.js";

const STRIP = 2 ** 22; // pixels that are read from a canvas at once
const FEWEST_OF_16_BITS = 64; // gray levels that must be left where the browser gives 8 bits of 16

/**
 * Decode a radiograph as read_image does: luma, alpha dropped, no color management, no rotation.
 * @param {File} file
 * @param {object} checks of run.json: what is refused or remarked.
 * @returns {Promise<{gray, width, height, bitmap, remarks: string[]}>}
 */
export async function decode(file, checks) {
  const { bytes, type, deep, alpha } = withoutMetadata(new Uint8Array(await file.arrayBuffer()));
  let bitmap = await bitmapOf(new Blob([bytes], { type }));
  const { width, height } = bitmap;
  if (width * height > checks.max_pixels) {
    throw new ImageFault(`${width} × ${height} pixels are more than ${checks.max_pixels}.`);
  }
  if (Math.min(width, height) < checks.min_side) {
    throw new ImageFault(`${width} × ${height} pixels: a side below ${checks.min_side} shows no bone.`);
  }
  let gray = alpha ? grayByWebGL(bitmap) : grayByCanvas(bitmap);
  requireContent(gray, deep ? FEWEST_OF_16_BITS : checks.min_levels);
  const remarks = [];
  if (deep) {
    gray = stretch(gray, checks.stretch);
    remarks.push("A 16-bit PNG: this page sees 8 of the bits, and mura predict may answer differently.");
  }
  if (isInverted(gray, width, height, checks.inverted)) {
    remarks.push("Bright background, as in a negative: the network expects bright bones.");
  }
  if (deep || alpha) bitmap = await asBitmap(gray, width, height); // else it would look otherwise
  return { gray, width, height, bitmap, remarks };
}

function asBitmap(gray, width, height) {
  const image = new ImageData(width, height);
  gray.forEach((level, n) => image.data.fill(level, 4 * n, 4 * n + 3));
  for (let n = 3; n < image.data.length; n += 4) image.data[n] = 255;
  return createImageBitmap(image);
}

async function bitmapOf(blob) {
  try {
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    return await createImageBitmap(blob, options);
  } catch {
    throw new ImageFault("The file is damaged, or too large for this browser.");
  }
}

function requireContent(gray, fewest) {
  const histogram = histogramOf(gray);
  const levels = percentile(histogram, 99) - percentile(histogram, 1);
  if (levels < fewest) {
    throw new ImageFault(`98 % of its pixels differ by at most ${levels} of 256 gray levels.`);
  }
}

/** Of an opaque image; in strips, because a canvas is bounded where an image is not. */
function grayByCanvas(bitmap) {
  const { width, height } = bitmap;
  const gray = new Uint8Array(width * height);
  const rows = Math.max(Math.floor(STRIP / width), 1);
  const canvas = new OffscreenCanvas(width, Math.min(rows, height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    toGray(context.getImageData(0, 0, width, count).data, gray, top * width);
  }
  return gray;
}

/** Of an image with alpha, by which a 2D canvas would multiply its colors. */
function grayByWebGL(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl) throw new ImageFault("An image with alpha needs WebGL, which this browser lacks here.");
  if (Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
    throw new ImageFault("An image with alpha, too large for this browser: save it without alpha.");
  }
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  const texture = gl.getParameter(gl.TEXTURE_BINDING_2D);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const rgba = new Uint8Array(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, rgba);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  const gray = new Uint8Array(width * height);
  toGray(rgba, gray);
  return gray;
}
