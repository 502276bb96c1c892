// From a file to the gray square that the network takes, as Python's mura_utils.data makes it.
// Pure functions on arrays, without a page: tests compare them with Pillow, level by level.

const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const JPEG = [0xff, 0xd8, 0xff];
const PNG_METADATA = ["tRNS", "iCCP", "gAMA", "cHRM", "sRGB", "cICP", "eXIf"];
const PRECISION = 22; // bits behind the point of Pillow's filter weights

/** What one can tell a user in a sentence. */
export class ImageFault extends Error {}

/**
 * A PNG or JPEG without what would change its pixels: color profiles, gamma, orientation, and of
 * a PNG the transparent color.
 * @param {Uint8Array} bytes of a file, whatever its name.
 * @returns {{bytes: Uint8Array, type: string, deep: boolean, alpha: boolean}} deep: 16 bits.
 */
export function withoutMetadata(bytes) {
  const startsWith = (head) => head.every((byte, n) => bytes[n] === byte);
  if (startsWith(PNG) && bytes.length > 33) {
    const deep = bytes[24] === 16;
    const alpha = (bytes[25] & 4) !== 0;
    return { bytes: join(bytes, pngParts(bytes)), type: "image/png", deep, alpha };
  }
  if (startsWith(JPEG)) {
    const parts = jpegParts(bytes);
    return { bytes: join(bytes, parts), type: "image/jpeg", deep: false, alpha: false };
  }
  throw new ImageFault("Its content is neither PNG nor JPEG.");
}

/** The ranges [from, to) of a PNG that are kept. */
function pngParts(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const parts = [[0, PNG.length]];
  for (let at = PNG.length; at + 12 <= bytes.length; ) {
    const end = at + 12 + view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (!PNG_METADATA.includes(name)) parts.push([at, end]);
    at = end;
  }
  return parts;
}

/** The ranges [from, to) of a JPEG that are kept: all but APP1 (EXIF) and APP2 (profile). */
function jpegParts(bytes) {
  const parts = [[0, 2]];
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    const end = at + 2 + bytes[at + 2] * 256 + bytes[at + 3];
    if (bytes[at + 1] !== 0xe1 && bytes[at + 1] !== 0xe2) parts.push([at, end]);
    at = end;
  }
  parts.push([at, bytes.length]);
  return parts;
}

function join(bytes, parts) {
  const kept = parts.map(([from, to]) => bytes.subarray(from, to));
  const joined = new Uint8Array(kept.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of kept) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/**
 * Luma of ITU-R 601 in 65536ths, as Pillow has it; alpha is dropped.
 * @param {Uint8ClampedArray|Uint8Array} rgba 4 bytes a pixel.
 * @param {Uint8Array} gray where the levels go.
 * @param {number} start the first of them there.
 */
export function toGray(rgba, gray, start = 0) {
  for (let from = 0, to = start; from < rgba.length; from += 4, to++) {
    const luma = 19595 * rgba[from] + 38470 * rgba[from + 1] + 7471 * rgba[from + 2];
    gray[to] = (luma + 0x8000) >> 16;
  }
}

/** Pixels by gray level: 256 counts. */
export function histogramOf(gray) {
  const histogram = new Float64Array(256);
  for (const level of gray) histogram[level]++;
  return histogram;
}

/** The lowest gray level that `percent` of the pixels do not exceed. */
export function percentile(histogram, percent) {
  const pixels = histogram.reduce((sum, count) => sum + count, 0);
  let below = 0;
  return histogram.findIndex((count) => (below += count) >= (pixels * percent) / 100);
}

/** Stretch a 16-bit image, of which the browser gave 8 bits, as read_image does. */
export function stretch(gray, { percent, margin }) {
  const histogram = histogramOf(gray);
  const least = histogram.findIndex((count) => count > 0);
  const most = histogram.findLastIndex((count) => count > 0);
  const [low, high] = [percentile(histogram, percent), percentile(histogram, 100 - percent)];
  const wider = margin * (high - low);
  const [from, to] = [Math.max(least, low - wider), Math.min(most, high + wider)];
  return gray.map((level) => Math.min(Math.max(((level - from) * 255) / (to - from), 0), 255) + 0.5);
}

/** Whether the background is bright, as in a negative: the remark "inverted" of mura predict. */
export function isInverted(gray, width, height, { border, medians }) {
  const band = roundEven(border * Math.min(width, height));
  const edge = gray.filter((_, n) => {
    const [x, y] = [n % width, Math.floor(n / width)];
    return x < band || y < band || x >= width - band || y >= height - band;
  });
  const histogram = histogramOf(gray);
  const [low, high] = [percentile(histogram, 1), percentile(histogram, 99)];
  const found = [percentile(histogram, 50), percentile(histogramOf(edge), 50)];
  return found.every((median, n) => median >= low + medians[n] * (high - low));
}

/**
 * The square that the network takes: data.squares.resize.
 * @param {Uint8Array} gray height * width levels.
 * @param {"stretch"|"pad"} how
 * @returns {{square: Uint8Array, box: number[]}} box: left, top, width, height of the radiograph.
 */
export function toSquare(gray, width, height, size, how) {
  const longer = Math.max(width, height);
  const side = (n) => (how === "pad" ? Math.max(1, roundEven((size * n) / longer)) : size);
  const [columns, rows] = [side(width), side(height)];
  const [left, top] = [(size - columns) >> 1, (size - rows) >> 1];
  const resized = resize(gray, width, height, columns, rows);
  const square = new Uint8Array(size * size);
  for (let row = 0; row < rows; row++) {
    const line = resized.subarray(row * columns, (row + 1) * columns);
    square.set(line, (top + row) * size + left);
  }
  return { square, box: [left, top, columns, rows] };
}

/** Python's round: half to even. */
function roundEven(x) {
  const down = Math.floor(x);
  return x - down === 0.5 ? down + (down % 2) : Math.round(x);
}

/**
 * Image.resize with BILINEAR and reducing_gap=3.0 of 8-bit levels, to the bit of Pillow 13; earlier
 * versions always filter along the rows first, so that a level may differ by 1.
 */
function resize(gray, width, height, columns, rows) {
  if (width === columns && height === rows) return gray;
  const across = Math.trunc(width / columns / 3) || 1;
  const down = Math.trunc(height / rows / 3) || 1;
  const reduced = across > 1 || down > 1 ? reduce(gray, width, height, across, down) : gray;
  const [w, h] = [Math.ceil(width / across), Math.ceil(height / down)];
  const horizontal = weightsOf(w, width / across, columns);
  const vertical = weightsOf(h, height / down, rows);
  return rows < h && h - rows > 2 * (w - columns)
    ? filteredRows(horizontal, filteredColumns(vertical, reduced, w), w, rows)
    : filteredColumns(vertical, filteredRows(horizontal, reduced, w, h), columns);
}

/** Image.reduce: the mean of whole blocks, and of what is left of them at the right and below. */
function reduce(gray, width, height, across, down) {
  const [columns, rows] = [Math.ceil(width / across), Math.ceil(height / down)];
  const reduced = new Uint8Array(columns * rows);
  for (let row = 0; row < rows; row++) {
    const bottom = Math.min((row + 1) * down, height);
    for (let column = 0; column < columns; column++) {
      const right = Math.min((column + 1) * across, width);
      const count = (bottom - row * down) * (right - column * across);
      let sum = count >> 1;
      for (let y = row * down; y < bottom; y++) {
        for (let x = column * across; x < right; x++) sum += gray[y * width + x];
      }
      const multiplier = Math.trunc(Math.fround(2 ** 32 / (256 * count)));
      reduced[row * columns + column] = Math.imul(sum, multiplier) >>> 24;
    }
  }
  return reduced;
}

/** Of each output level the first input level, and the weights of a triangle, in 2^-22. */
function weightsOf(available, extent, count) {
  const scale = Math.fround(extent) / count;
  const support = Math.max(scale, 1);
  return Array.from({ length: count }, (_, n) => {
    const center = (n + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), available);
    const raw = Array.from({ length: last - first }, (_, k) =>
      Math.max(1 - Math.abs((k + first - center + 0.5) * (1 / support)), 0),
    );
    const sum = raw.reduce((total, weight) => total + weight, 0);
    const weights = raw.map((weight) => Math.trunc((weight / sum) * 2 ** PRECISION + 0.5));
    return { first, weights };
  });
}

/** Levels (height, width) filtered along each row: (height, one a weight). */
function filteredRows(filter, levels, width, height) {
  const columns = filter.length;
  const result = new Uint8Array(height * columns);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < columns; column++) {
      const { first, weights } = filter[column];
      result[row * columns + column] = weighted(levels, row * width + first, 1, weights);
    }
  }
  return result;
}

/** Levels (any, width) filtered along each column: (one a weight, width). */
function filteredColumns(filter, levels, width) {
  const result = new Uint8Array(filter.length * width);
  filter.forEach(({ first, weights }, row) => {
    for (let column = 0; column < width; column++) {
      result[row * width + column] = weighted(levels, first * width + column, width, weights);
    }
  });
  return result;
}

function weighted(levels, start, step, weights) {
  let sum = 2 ** (PRECISION - 1);
  for (let k = 0; k < weights.length; k++) sum += levels[start + k * step] * weights[k];
  return sum >> PRECISION;
}
