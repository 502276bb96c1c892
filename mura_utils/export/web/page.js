// The page: a file in, an answer out. The network runs here, on one thread, in WebAssembly.

import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";
import { answer } from "./answer.js";
import { decode } from "./decode.js";
import { ImageFault, toSquare } from "./image.js";
import { element, say, sentence, showAnswer, showImage, showNothing, showOpacity } from "./show.js";

const { facts, session } = await start();

let latest; // file: one that was still waiting before it is dropped
let busy = Promise.resolve(); // a session answers one image at a time

element("run").textContent =
  `Run ${facts.run}; images are ${facts.resize === "pad" ? "padded" : "stretched"} to ` +
  `${facts.image_size} × ${facts.image_size} pixels. ${facts.notice}`;
element("file").disabled = false;
element("file").addEventListener("change", () => read(element("file").files[0]));
element("opacity").addEventListener("input", showOpacity);
for (const event of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(event, (drag) => {
    drag.preventDefault();
    element("drop").classList.toggle("over", event === "dragenter" || event === "dragover");
    if (event === "drop") read(drag.dataTransfer.files[0]);
  });
}
say("Ready.");

/** What the run is, and its network. */
async function start() {
  try {
    const response = await fetch("run.json");
    if (!response.ok) throw new Error("run.json is missing: export the run again");
    ort.env.wasm.numThreads = 1;
    const options = { executionProviders: ["wasm"] };
    const loading = ort.InferenceSession.create("model.onnx", options);
    return { facts: await response.json(), session: await loading };
  } catch (error) {
    say(`The page cannot start: ${error.message}.`);
    throw error;
  }
}

async function read(file) {
  if (!file) return;
  latest = file;
  say(`Reading ${file.name} …`);
  busy = busy.then(() => file === latest && respond(file));
  await busy;
}

/** Answer one file; what is wrong with it is a sentence. */
async function respond(file) {
  try {
    await new Promise((done) => setTimeout(done, 20)); // the browser shows what was said
    const start = performance.now();
    const image = await decode(file, facts.checks);
    const found = await run(image);
    const seconds = (performance.now() - start) / 1000;
    showImage(image, found, facts);
    showAnswer(found, image.remarks, seconds, facts);
    say(file.name, `: ${sentence(found, facts)}`);
  } catch (error) {
    showNothing();
    if (!(error instanceof ImageFault)) console.error(error);
    say(`${file.name} cannot be used. ${error.message}`);
  } finally {
    element("file").value = ""; // the same file can be chosen again
  }
}

/** The network's answer to an image, its map (h, w, channels), and where it lies in the square. */
async function run({ gray, width, height }) {
  const size = facts.image_size;
  const { square, box } = toSquare(gray, width, height, size, facts.resize);
  const input = new ort.Tensor("float32", Float32Array.from(square), [1, size, size, 1]);
  const results = await session.run({ [session.inputNames[0]]: input });
  const [probabilities, map, unfamiliar] = session.outputNames.map((name) => results[name]);
  const found = answer([...probabilities.data], unfamiliar?.data[0] ?? null, facts);
  return { ...found, map: map.data, grid: map.dims.slice(1), box };
}
