// Runs a file of `explaind derive --method` on onnxruntime-web: web.mjs PACKAGE FILE INPUT SIDE OUTPUT.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [pack, file, input, shape, output] = process.argv.slice(2);
const ort = await import(pathToFileURL(`${pack}/dist/ort.wasm.bundle.min.mjs`).href);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(file));
const bytes = readFileSync(input);
const x = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const [name] = session.inputNames;
const { saliency_map: map } = await session.run({ [name]: new ort.Tensor("float32", x, JSON.parse(shape)) });
writeFileSync(output, new Uint8Array(map.data.buffer, map.data.byteOffset, map.data.byteLength));
