// What is taken away: PNG, npy, a bundle that can be made again, the address of the view, and the same request for curl and Python.
import { announce, Busy, Dialog, Fault, Field, html, number, useState } from "./ui.js"
import * as api from "./api.js"
import { npy, save, zip } from "./files.js"
import { barColour, COLOUR_MAPS } from "./colours.js"
import { draw } from "./map.js"
import { change, link, state } from "./state.js"
import { mask, maskPng } from "./regions.js"

const STRIP = 44
const EXTENSIONS = { "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/bmp": "bmp", "image/gif": "gif", "image/tiff": "tif" }
/** The options of the server's pictures that the page has, too. */
const PICTURE = ["overlay_type", "color_map", "polarity", "reduction", "alpha", "clip_percent_lowerbound", "clip_percent_upperbound", "top_percent", "view"]

const fileName = ({ answer }, ending) => `${answer.method}-${(answer.target.label ?? `class-${answer.target.index}`).replace(/[^A-Za-z0-9]+/g, "_")}.${ending}`

/** The map as it is looked at, with its title and colour bar. */
async function png(cell) {
  const drawn = document.createElement("canvas")
  draw(drawn, { ...cell, painted: null })
  const canvas = new OffscreenCanvas(drawn.width, drawn.height + 2 * STRIP)
  const context = canvas.getContext("2d")
  context.fillStyle = "white"
  context.fillRect(0, 0, canvas.width, canvas.height)
  context.drawImage(drawn, 0, STRIP)
  context.fillStyle = "black"
  context.textBaseline = "middle"
  context.font = "600 17px system-ui, sans-serif"
  context.fillText(cell.title, 12, STRIP / 2, canvas.width - 24)
  if (cell.bound) {
    const { polarity, color_map } = cell.options
    const [from, to] = polarity === "positive" ? [0, 1] : polarity === "negative" ? [-1, 0] : COLOUR_MAPS[color_map]?.signed ? [-1, 1] : [0, 1]
    const [left, width, top] = [90, canvas.width - 180, STRIP + drawn.height + 14]
    for (let x = 0; x < width; x++) {
      context.fillStyle = barColour(color_map, from + ((to - from) * x) / width)
      context.fillRect(left + x, top, 1, 16)
    }
    context.fillStyle = "black"
    context.font = "14px system-ui, sans-serif"
    context.textAlign = "right"
    context.fillText(number(from * cell.bound.upper), left - 8, top + 8)
    context.textAlign = "left"
    context.fillText(number(to * cell.bound.upper), left + width + 8, top + 8)
  }
  save(fileName(cell, "png"), await canvas.convertToBlob({ type: "image/png" }))
}

/** What makes this map again by POST /explain. */
function requestOf(cell, look) {
  const { method, ...parameters } = cell.answer.parameters
  const picture = {}
  for (const name of PICTURE) if (look[name] !== null) picture[name] = look[name]
  return { model: cell.answer.model, method, ...parameters, ...picture }
}

async function bundle(cell, picture, look) {
  const params = { ...requestOf(cell, look), format: "bundle" }
  save(fileName(cell, "zip"), await api.blob("explain", { method: "POST", body: api.form(named(picture), params) }))
}

const named = ({ blob, name }) => new File([blob], name, { type: blob.type })

/** Keeps a picture on the server, as a data set of one image, so that links to it last; with the painted region as its mask. */
export async function keep(picture) {
  const ending = EXTENSIONS[picture.blob.type] ?? (/\.([a-z]+)$/i.exec(picture.name)?.[1] ?? "png").toLowerCase()
  const id = `kept-${[...crypto.getRandomValues(new Uint8Array(6))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`
  const bytes = async (blob) => new Uint8Array(await blob.arrayBuffer())
  const entries = [[`picture.${ending}`, await bytes(picture.blob)]]
  if (mask.get() && picture.width) {
    entries.push(["masks/picture.png", await bytes(await maskPng(picture))])
    entries.push(["labels.csv", new TextEncoder().encode(`file,mask\npicture.${ending},masks/picture.png\n`)])
  }
  await api.send(`datasets/${id}`, { method: "PUT", body: zip(entries) })
  return id
}

const quoted = (text) => `'${text.replace(/'/g, "'\\''")}'`

function curl(picture, params) {
  const authorised = api.key.get() ? ` -H "authorization: Bearer $EXPLAIND_KEY"` : ""
  return `curl --fail-with-body${authorised} -o maps.json \\
  -F image=@${quoted(picture.name)} \\
  -F params=${quoted(JSON.stringify(params))} \\
  ${api.address("compare")}`
}

const literal = (value) => JSON.stringify(value, null, 4).replace(/\btrue\b/g, "True").replace(/\bfalse\b/g, "False").replace(/\bnull\b/g, "None")

function python(picture, params) {
  const authorised = api.key.get() ? `, headers={"authorization": "Bearer " + os.environ["EXPLAIND_KEY"]}` : ""
  return `import base64, json${authorised ? ", os" : ""}

import numpy as np
import requests

params = ${literal(params)}
with open(${JSON.stringify(picture.name)}, "rb") as image:
    response = requests.post(${JSON.stringify(api.address("compare"))}, files={"image": image}, data={"params": json.dumps(params)}${authorised})
response.raise_for_status()
for one in response.json()["explanations"]:
    attribution = one["attribution"]
    values = np.frombuffer(base64.b64decode(attribution["data"]), "<f4").reshape(attribution["shape"])
    print(one["method"], one["target"]["label"], values.shape, values.sum())
`
}

function Code({ title, children }) {
  const [copied, setCopied] = useState(false)
  return html`<section class="code"><h3>${title} <button type="button" onClick=${async () => {
    await copy(children)
    setCopied(true)
  }}>${copied ? "Copied" : "Copy"}</button></h3><pre tabindex="0">${children}</pre></section>`
}

/** Clipboards are for secure pages that are allowed to use them; elsewhere the text is selected and copied, if the browser lets us. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text)
    return
  } catch {
    // The older way.
  }
  const field = document.createElement("textarea")
  field.value = text
  ;(document.querySelector("dialog[open]") ?? document.body).append(field)
  field.select()
  document.execCommand("copy")
  field.remove()
}

function SameElsewhere({ picture, params, onClose }) {
  return html`<${Dialog} title="The same from a terminal" wide=${true} onClose=${onClose}>
    <${Code} title="curl">${curl(picture, params)}</${Code}>
    <${Code} title="Python">${python(picture, params)}</${Code}>
  </${Dialog}>`
}

/** Of the whole view. */
export function ShareView({ picture, params }) {
  const { image } = state.use()
  const [open, setOpen] = useState(false)
  const [busy, setBusy] = useState(false)
  const [problem, setProblem] = useState(null)
  const [told, tell] = useState("")
  const share = async () => {
    setProblem(null)
    try {
      if (!image) {
        setBusy(true)
        const id = await keep(picture)
        change({ image: `dataset:${id}/0` })
      }
      await copy(link())
      tell(link())
      announce("Address copied")
    } catch (error) {
      setProblem(error)
    }
    setBusy(false)
  }
  return html`<div class="share">
    <p class="buttons"><button type="button" onClick=${share} disabled=${busy}>${image ? "Copy the address of this view" : "Keep the picture and copy the address"}</button>
    <button type="button" onClick=${() => setOpen(true)}>The same as curl or Python</button></p>
    ${!image && html`<p class="hint">This picture is in this page alone. Keeping it puts it on the server as a data set of one image, which the Data sets page can delete.</p>`}
    ${told && html`<${Field} label="Address" hint="Copied. It opens this view, also after a restart of the server."><input readonly value=${told} onFocus=${(event) => event.target.select()} /></${Field}>`}
    ${busy && html`<${Busy}>Keeping the picture…</${Busy}>`}
    <${Fault} problem=${problem} onClose=${() => setProblem(null)} />
    ${open && html`<${SameElsewhere} picture=${picture} params=${params} onClose=${() => setOpen(false)} />`}
  </div>`
}

/** Of one map. */
export function SaveMap({ cell, picture }) {
  const { look } = state.use()
  const [problem, setProblem] = useState(null)
  const [busy, setBusy] = useState(false)
  const run = async (work) => {
    setBusy(true)
    setProblem(null)
    try {
      await work()
    } catch (error) {
      setProblem(error)
    }
    setBusy(false)
  }
  const { tile } = cell
  return html`<details class="menu"><summary aria-label=${`Save ${cell.title}`}>Save${busy ? "…" : ""}</summary><div>
    <button type="button" onClick=${() => run(() => png(cell))}>PNG, as shown</button>
    <button type="button" onClick=${() => run(() => save(fileName(cell, "npy"), npy(tile.values, tile.shape)))}>npy, float32 ${tile.shape.join(" × ")}</button>
    <button type="button" onClick=${() => run(() => bundle(cell, picture, look))}>Evidence bundle (zip)</button>
    <p class="hint"><code>explaind rerun</code> makes a bundle again, or says what differs.</p>
    <${Fault} problem=${problem} onClose=${() => setProblem(null)} />
  </div></details>`
}
