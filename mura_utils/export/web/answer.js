// From the network's numbers to what the page says. Pure functions, without a page.

const SMALLEST = 1.1754943508222875e-38; // of float32: log 0 does not exist

/** P(abnormal): the sum over the abnormal classes, whatever the body part. */
export function pAbnormal(probabilities, classes) {
  const sum = classes.reduce((total, { abnormal }, k) => total + (abnormal ? probabilities[k] : 0), 0);
  return Math.min(sum, 1);
}

/** softmax(log p / temperature), Guo et al. 2017. */
export function atTemperature(probabilities, temperature) {
  const scaled = Array.from(probabilities, (p) => Math.max(p, SMALLEST) ** (1 / temperature));
  const sum = scaled.reduce((total, p) => total + p, 0);
  return scaled.map((p) => p / sum);
}

/**
 * What `mura predict` says of an image.
 * @param {number[]} probabilities one a class.
 * @param {number|null} score how unfamiliar the image is, null where the run does not know.
 * @param {object} facts run.json.
 */
export function answer(probabilities, score, facts) {
  const { labels: classes, threshold, temperature, limit } = facts;
  const likeliest = probabilities.indexOf(Math.max(...probabilities));
  const p = pAbnormal(probabilities, classes);
  return {
    label: classes[likeliest].label,
    bodyPart: classes[likeliest].body_part,
    pAbnormal: p,
    calibrated:
      temperature === null ? null : pAbnormal(atTemperature(probabilities, temperature), classes),
    called: p > threshold ? "abnormal" : "normal",
    unfamiliar: limit === null ? null : score > limit,
    score,
    parts: byBodyPart(probabilities, classes),
  };
}

/** Body parts, likeliest first: [{bodyPart, abnormal, normal}]. */
function byBodyPart(probabilities, classes) {
  const parts = new Map();
  classes.forEach(({ body_part: bodyPart, abnormal }, k) => {
    const part = parts.get(bodyPart) ?? { bodyPart, abnormal: 0, normal: 0 };
    part[abnormal ? "abnormal" : "normal"] += probabilities[k];
    parts.set(bodyPart, part);
  });
  return [...parts.values()].sort((a, b) => b.abnormal + b.normal - a.abnormal - a.normal);
}

/**
 * The map to show, at least 0.
 * @param {Float32Array} values (h, w, channels): attention, or the fall of each class's logit.
 * @param {string} bodyPart whose abnormal - normal is explained.
 */
export function heatOf(values, [height, width, channels], bodyPart, { labels, map }) {
  const sign = ({ body_part, abnormal }) => (body_part === bodyPart ? (abnormal ? 1 : -1) : 0);
  const weights = map === "attention" ? [1] : labels.map(sign);
  return Array.from({ length: height * width }, (_, cell) => {
    const at = cell * channels;
    const sum = weights.reduce((total, weight, k) => total + weight * values[at + k], 0);
    return Math.max(sum, 0);
  });
}

/** A map (h, w) at (size, size), the centers of its cells kept: bilinear. */
export function enlarged(heat, height, width, size) {
  const axis = (cells) =>
    Array.from({ length: size }, (_, n) => {
      const x = Math.min(Math.max(((n + 0.5) * cells) / size - 0.5, 0), cells - 1);
      const low = Math.floor(x);
      return [low, Math.min(low + 1, cells - 1), x - low];
    });
  const columns = axis(width);
  return axis(height).flatMap(([above, below, down]) =>
    columns.map(([left, right, across]) => {
      const at = (row) =>
        heat[row * width + left] * (1 - across) + heat[row * width + right] * across;
      return at(above) * (1 - down) + at(below) * down;
    }),
  );
}
