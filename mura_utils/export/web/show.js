// What the page shows of an answer.

import { enlarged, heatOf } from "./answer.js";

const SHOWN_SIDE = 1600; // pixels of the longer side of the radiograph's canvas
const HEAT_SIDE = 256; // pixels of a side of the heat-map's canvas, before it is cut
const HOTTEST = 0.7; // opacity
const LEAST_FULL = 0.5; // fall of the log-odds that has the full color, or more where more falls
const MAGMA = [
  [0, 0, 4], [29, 17, 71], [81, 18, 124], [131, 38, 129], [183, 55, 121],
  [231, 82, 99], [252, 137, 97], [254, 196, 136], [252, 253, 191],
]; // prettier-ignore
const PARTS = ["stage", "answer", "map", "details"]; // that are shown with an answer

export const element = (id) => document.getElementById(id);

/** Say something; `spoken` follows for screen readers alone, as the page shows it elsewhere. */
export function say(text, spoken = "") {
  const hidden = make("span", spoken);
  hidden.className = "spoken";
  element("status").replaceChildren(text, hidden);
}

export function showNothing() {
  for (const id of ["intro", "warning", ...PARTS]) element(id).hidden = true;
  element("drop").classList.remove("small");
}

export function showOpacity() {
  element("heat").style.opacity = element("opacity").value / 100;
}

/** The answer in one sentence. */
export function sentence({ called, bodyPart, pAbnormal, unfamiliar }, { threshold }) {
  const side = called === "abnormal" ? "above" : "not above";
  const call = `${called}${bodyPart && `, ${words(bodyPart)}`}`;
  const reason = `P(abnormal) ${number(pAbnormal)} is ${side} the threshold ${number(threshold)}`;
  return `${unfamiliar ? "unlike the training images; " : ""}${call}; ${reason}.`;
}

export function showAnswer(found, remarks, seconds, facts) {
  const { called, bodyPart, label, pAbnormal, calibrated } = found;
  showWarning(found, facts);
  element("answer").dataset.called = called;
  element("call").textContent = called === "abnormal" ? "Abnormal" : "Normal";
  element("part").textContent = words(bodyPart);
  element("p").replaceChildren(data(pAbnormal));
  element("p-bar").style.width = `${100 * pAbnormal}%`;
  element("p-mark").style.left = `${100 * facts.threshold}%`;
  element("rule").textContent = `Called abnormal above ${number(facts.threshold)}, ${facts.rule}.`;
  element("calibrated").replaceChildren(
    ...(calibrated === null
      ? ["This run has no calibrated probability."]
      : ["Calibrated P(abnormal): ", data(calibrated), `, temperature ${number(facts.temperature)}.`]),
  );
  element("likeliest").textContent = `Likeliest class: ${label}.`;
  element("classes").replaceChildren(...found.parts.map(rowOf));
  element("remarks").replaceChildren(...remarks.map((text) => make("li", text)));
  element("time").textContent = `Answered in ${seconds.toFixed(2)} s.`;
}

function showWarning({ unfamiliar, score }, { limit }) {
  element("warning").hidden = unfamiliar === false;
  element("warning").classList.toggle("quiet", unfamiliar === null);
  element("answer").classList.toggle("doubtful", unfamiliar === true);
  element("warning").textContent =
    unfamiliar === null
      ? "This run does not know which images are unlike its training images: it answers anything."
      : `Unlike the training images, perhaps no bone radiograph (score ${score?.toFixed(2)}, ` +
        `limit ${limit?.toFixed(2)}): do not read its label.`;
}

/** A body part's row: its two probabilities, also as a bar. */
function rowOf({ bodyPart, abnormal, normal }) {
  const row = make("tr");
  const head = make("th", words(bodyPart) || "any");
  head.scope = "row";
  const bar = make("td");
  bar.className = "bar";
  bar.ariaHidden = "true";
  for (const [kind, p] of Object.entries({ abnormal, normal })) {
    const span = make("span");
    span.className = kind;
    span.style.width = `${100 * p}%`;
    bar.append(span);
  }
  const cells = [abnormal, normal].map((p) => {
    const cell = make("td");
    cell.append(data(p));
    return cell;
  });
  row.append(head, bar, ...cells);
  return row;
}

/** The radiograph, and over it the part of the map that lies on it. */
export function showImage({ bitmap, width, height }, found, facts) {
  const scale = Math.min(SHOWN_SIDE / Math.max(width, height), 1);
  const canvas = element("radiograph");
  [canvas.width, canvas.height] = [width, height].map((n) => Math.max(Math.round(n * scale), 1));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  element("stage").style.setProperty("--ratio", width / height);
  showHeat(found, facts);
  for (const id of PARTS) element(id).hidden = false;
  element("intro").hidden = true;
  element("drop").classList.add("small");
}

function showHeat({ map, grid, bodyPart, box }, facts) {
  const attention = facts.map === "attention";
  const [rows, columns] = grid;
  const heat = heatOf(map, grid, bodyPart, facts);
  const most = Math.max(...heat);
  const full = attention ? most : Math.max(most, LEAST_FULL);
  const pixels = enlarged(heat, rows, columns, HEAT_SIDE);
  const image = new ImageData(HEAT_SIDE, HEAT_SIDE);
  pixels.forEach((value, n) => image.data.set(colorOf(full > 0 ? value / full : 0), 4 * n));
  const canvas = element("heat");
  const cut = box.map((side) => (side * HEAT_SIDE) / facts.image_size);
  [canvas.width, canvas.height] = [Math.ceil(cut[2]), Math.ceil(cut[3])];
  canvas.getContext("2d").putImageData(image, -Math.round(cut[0]), -Math.round(cut[1]));
  element("map-most").textContent = attention ? percent(full) : full.toFixed(1);
  element("map-note").textContent = attention
    ? `Attention, taught by masks: where the network looks for a finding. ${percent(most)} of it is ` +
      "in the hottest cell."
    : `Occlusion: what speaks for “abnormal”. How far the log-odds of abnormal against normal ` +
      `${bodyPart ? `(${words(bodyPart)}) ` : ""}fall where a cell of the last feature map is ` +
      `blanked. ${most > 0 ? `At most ${most.toFixed(2)} here.` : "Nothing does here."}`;
  showOpacity();
}

/** Magma, more opaque the hotter: RGBA of a value in 0..1. */
function colorOf(value) {
  const at = value * (MAGMA.length - 1);
  const low = Math.min(Math.floor(at), MAGMA.length - 2);
  const mixed = MAGMA[low].map((from, n) => from + (MAGMA[low + 1][n] - from) * (at - low));
  return [...mixed, 255 * HOTTEST * value];
}

/** A probability, rounded to the eye. */
function data(p) {
  const made = make("data", number(p));
  made.value = p;
  return made;
}

function make(name, text = "") {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

const number = (p) => p.toFixed(3);
const percent = (p) => `${(100 * p).toFixed(0)} %`;

/** "XR_WRIST" or "WRIST" as a word. */
function words(name) {
  return name.toLowerCase().replaceAll("_", " ");
}
