// A region of the picture, painted or made of a method's regions: what of each map lies in it, and what the network predicts without it.
import { announce, Busy, Choice, Fault, html, percent, Select, shared, Slider, useState } from "./ui.js"
import * as api from "./api.js"

/** The longest side of the mask, in pixels. */
const MASK_SIDE = 1024
/** The longest side of the picture that is sent with the region erased. */
const SENT_SIDE = 2048
const INK = "#00b386"

/** `{ canvas, count }` in the shape of the picture. */
export const mask = shared(null)
export const tool = shared({ kind: "look", radius: 0.04 })

let stroke = null

function blank({ width, height }) {
  const scale = Math.min(1, MASK_SIDE / Math.max(width, height))
  const canvas = document.createElement("canvas")
  canvas.width = Math.max(1, Math.round(width * scale))
  canvas.height = Math.max(1, Math.round(height * scale))
  canvas.getContext("2d", { willReadFrequently: true })
  return canvas
}

const sizeOf = (answer, plane) => answer.image ?? plane

function changed(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
  let count = 0
  for (let at = 3; at < data.length; at += 4) if (data[at] > 127) count += 1
  mask.set(count ? { canvas, count } : null)
}

export function clearMask() {
  mask.set(null)
}

/** Adds pixels of a map's plane to the mask. */
function addPixels(answer, plane, chosen) {
  const size = sizeOf(answer, plane)
  const canvas = mask.get()?.canvas ?? blank(size)
  const crop = answer.image?.crop ?? { left: 0, top: 0, width: plane.width, height: plane.height }
  const tile = new OffscreenCanvas(plane.width, plane.height)
  const pixels = new ImageData(plane.width, plane.height)
  for (let at = 0; at < plane.width * plane.height; at++) if (chosen(at)) pixels.data.set([0, 179, 134, 255], 4 * at)
  tile.getContext("2d").putImageData(pixels, 0, 0)
  const scale = canvas.width / size.width
  const context = canvas.getContext("2d")
  context.imageSmoothingEnabled = false
  context.drawImage(tile, crop.left * scale, crop.top * scale, crop.width * scale, crop.height * scale)
  changed(canvas)
}

export function applyTool(place, { answer, plane, segments, first }) {
  const { kind, radius } = tool.get()
  const size = sizeOf(answer, plane)
  if (kind === "segment") {
    if (!segments || !first) return
    const crop = answer.image?.crop ?? { left: 0, top: 0, width: plane.width, height: plane.height }
    const [x, y] = [Math.floor(((place.x - crop.left) / crop.width) * plane.width), Math.floor(((place.y - crop.top) / crop.height) * plane.height)]
    if (x < 0 || y < 0 || x >= plane.width || y >= plane.height) return
    const rank = segments.values[y * plane.width + x]
    return addPixels(answer, plane, (at) => segments.values[at] === rank)
  }
  const canvas = mask.get()?.canvas ?? blank(size)
  const context = canvas.getContext("2d")
  const scale = canvas.width / size.width
  const at = [place.x * scale, place.y * scale]
  context.globalCompositeOperation = kind === "wipe" ? "destination-out" : "source-over"
  context.strokeStyle = INK
  context.lineWidth = 2 * radius * Math.max(canvas.width, canvas.height)
  context.lineCap = "round"
  context.beginPath()
  context.moveTo(...(first || !stroke ? at : stroke))
  context.lineTo(at[0] + 0.01, at[1])
  context.stroke()
  context.globalCompositeOperation = "source-over"
  stroke = at
  changed(canvas)
}

/** The share of a map's positive values that lies in the mask, and of its pixels. */
function shareInside(answer, plane, painted) {
  const crop = answer.image?.crop ?? { left: 0, top: 0, width: plane.width, height: plane.height }
  const size = sizeOf(answer, plane)
  const scale = painted.canvas.width / size.width
  const tile = new OffscreenCanvas(plane.width, plane.height)
  const context = tile.getContext("2d", { willReadFrequently: true })
  context.imageSmoothingEnabled = false
  context.drawImage(painted.canvas, crop.left * scale, crop.top * scale, crop.width * scale, crop.height * scale, 0, 0, plane.width, plane.height)
  const { data } = context.getImageData(0, 0, plane.width, plane.height)
  let [inside, all, pixels, most, hit] = [0, 0, 0, -Infinity, false]
  plane.values.forEach((value, at) => {
    const isInside = data[4 * at + 3] > 127
    const weight = Math.max(value, 0)
    all += weight
    if (isInside) {
      inside += weight
      pixels += 1
    }
    if (value > most) [most, hit] = [value, isInside]
  })
  return { share: all > 0 ? inside / all : null, area: pixels / plane.values.length, hit }
}

/** The mask as a black and white PNG in the size of the picture, as data sets take it. */
export async function maskPng({ width, height }) {
  const canvas = new OffscreenCanvas(width, height)
  const context = canvas.getContext("2d")
  context.imageSmoothingEnabled = false
  context.drawImage(mask.get().canvas, 0, 0, width, height)
  const pixels = context.getImageData(0, 0, width, height)
  const { data } = pixels
  for (let at = 0; at < data.length; at += 4) {
    data[at] = data[at + 1] = data[at + 2] = data[at + 3] > 127 ? 255 : 0
    data[at + 3] = 255
  }
  context.putImageData(pixels, 0, 0)
  return canvas.convertToBlob({ type: "image/png" })
}

function meanColour(data) {
  const sums = [0, 0, 0]
  for (let at = 0; at < data.length; at += 4) for (let channel = 0; channel < 3; channel++) sums[channel] += data[at + channel]
  return sums.map((sum) => sum / (data.length / 4))
}

/** The picture as it is, and with the region, or all but it, filled. */
async function erased(bitmap, painted, fill, keep) {
  const scale = Math.min(1, SENT_SIDE / Math.max(bitmap.width, bitmap.height))
  const [width, height] = [Math.round(bitmap.width * scale), Math.round(bitmap.height * scale)]
  const canvas = new OffscreenCanvas(width, height)
  const context = canvas.getContext("2d", { willReadFrequently: true })
  context.fillStyle = "white"
  context.fillRect(0, 0, width, height)
  context.drawImage(bitmap, 0, 0, width, height)
  const before = await canvas.convertToBlob({ type: "image/png" })
  const pixels = context.getImageData(0, 0, width, height)
  let filled
  if (fill === "blur") {
    context.filter = `blur(${Math.round(Math.max(width, height) / 25)}px)`
    context.drawImage(canvas, 0, 0)
    context.filter = "none"
    filled = context.getImageData(0, 0, width, height).data
  }
  const colour = fill === "black" ? [0, 0, 0] : fill === "white" ? [255, 255, 255] : meanColour(pixels.data)
  context.clearRect(0, 0, width, height)
  context.imageSmoothingEnabled = false
  context.drawImage(painted.canvas, 0, 0, width, height)
  const chosen = context.getImageData(0, 0, width, height).data
  for (let at = 0; at < pixels.data.length; at += 4) {
    if (chosen[at + 3] > 127 === keep) continue
    for (let channel = 0; channel < 3; channel++) pixels.data[at + channel] = filled ? filled[at + channel] : colour[channel]
  }
  context.putImageData(pixels, 0, 0)
  return [before, await canvas.convertToBlob({ type: "image/png" })]
}

const SHOWN = 6

export function Regions({ picture, model, cells, watched }) {
  const painted = mask.use()
  const { kind, radius } = tool.use()
  const [fill, setFill] = useState("mean")
  const [result, setResult] = useState(null)
  const [problem, setProblem] = useState(null)
  const [busy, setBusy] = useState(false)
  const hasSegments = cells.some(({ segments }) => segments)
  const first = cells[0]
  const set = (patch) => tool.set((before) => ({ ...before, ...patch }))

  const predict = async (keep) => {
    setBusy(true)
    setProblem(null)
    try {
      const files = await erased(picture.bitmap, painted, fill, keep)
      const form = new FormData()
      files.forEach((file, at) => form.append("image", file, `${at}.png`))
      form.append("params", JSON.stringify({ model: model || undefined, top_k: 1000 }))
      const { results } = await api.json("predict", { method: "POST", body: form })
      const [before, after] = results.map(({ predictions }) => predictions)
      const scoreOf = (list, index) => list.find((one) => one.index === index)?.score ?? null
      const names = [...new Map([...before.slice(0, SHOWN), ...after.slice(0, 3), ...before.filter(({ index }) => watched.includes(index))].map((one) => [one.index, one])).values()]
      setResult({ keep, rows: names.map(({ index, label }) => ({ index, label, before: scoreOf(before, index), after: scoreOf(after, index) })) })
      announce(`Predicted ${keep ? "with the region alone" : "without the region"}: ${after[0].label ?? after[0].index}, ${percent(after[0].score)}`)
    } catch (error) {
      setProblem(error)
    }
    setBusy(false)
  }
  const strongest = () => {
    const { plane, answer } = first
    const list = Float32Array.from(plane.values).sort()
    const least = list[Math.floor(0.9 * list.length)]
    clearMask()
    addPixels(answer, plane, (at) => plane.values[at] > 0 && plane.values[at] >= least)
  }

  return html`<div class="regions">
    <${Choice} label="On the maps" value=${kind} onChange=${(value) => set({ kind: value })} options=${[
      { value: "look", label: "look" },
      { value: "paint", label: "paint" },
      { value: "wipe", label: "wipe" },
      ...(hasSegments ? [{ value: "segment", label: "pick region" }] : []),
    ]} />
    ${kind !== "look" && kind !== "segment" && html`<${Slider} label="Brush" min=${0.005} max=${0.15} step=${0.005} value=${radius} onInput=${(value) => set({ radius: value })} format=${(value) => percent(value)} />`}
    ${!hasSegments && html`<p class="hint">Regions can be picked when a method that ranks regions, such as XRAI, is among the maps.</p>`}
    <p class="buttons"><button type="button" onClick=${strongest} disabled=${!first}>Strongest tenth of the first map</button>
      <button type="button" onClick=${clearMask} disabled=${!painted}>Clear</button></p>
    ${painted && html`<table class="numbers"><caption>Positive attribution in the region</caption><thead><tr><th scope="col">Map</th><th scope="col">share</th><th scope="col">peak inside</th></tr></thead>
      <tbody>${cells.map((cell) => {
        const { share, hit } = shareInside(cell.answer, cell.plane, painted)
        return html`<tr key=${cell.key}><th scope="row">${cell.short}</th><td>${share === null ? "–" : percent(share)}</td><td>${hit ? "yes" : "no"}</td></tr>`
      })}</tbody><tfoot><tr><th scope="row">area</th><td>${first ? percent(shareInside(first.answer, first.plane, painted).area) : ""}</td><td></td></tr></tfoot></table>`}
    <${Select} label="Fill with" value=${fill} onChange=${setFill} options=${[
      { value: "mean", label: "the picture's mean colour" },
      { value: "blur", label: "the picture, blurred" },
      { value: "black", label: "black" },
      { value: "white", label: "white" },
    ]} />
    <p class="buttons"><button type="button" class="primary" disabled=${!painted || !picture?.bitmap || busy} onClick=${() => predict(false)}>Erase and predict</button>
      <button type="button" disabled=${!painted || !picture?.bitmap || busy} onClick=${() => predict(true)}>Keep only this</button></p>
    ${busy && html`<${Busy}>Predicting…</${Busy}>`}
    <${Fault} problem=${problem} onClose=${() => setProblem(null)} />
    ${result && html`<table class="numbers"><caption>${result.keep ? "With the region alone" : "Without the region"}</caption><thead><tr><th scope="col">Class</th><th scope="col">before</th><th scope="col">after</th></tr></thead>
      <tbody>${result.rows.map((row) => html`<tr key=${row.index}><th scope="row">${row.label ?? row.index}</th><td>${row.before === null ? "–" : percent(row.before)}</td><td class=${Math.abs(row.after - row.before) < 5e-4 ? "" : row.after < row.before ? "less" : "more"}>${row.after === null ? "–" : percent(row.after)}</td></tr>`)}</tbody></table>`}
  </div>`
}
