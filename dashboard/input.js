// The picture: dropped, pasted, chosen, of a data set or an example. A file that the server does not take changes nothing.
import { announce, Busy, Fault, html, size, useEffect, useRef, useState } from "./ui.js"
import * as api from "./api.js"
import { change } from "./state.js"

const EXAMPLES = [
  { name: "jaguar.webp", title: "Two jaguars" },
  { name: "polar_bear.webp", title: "Polar bear" },
  { name: "scarlet_macaw.webp", title: "Scarlet macaw" },
]
const TYPES = "image/png,image/jpeg,image/webp,image/bmp,image/gif,image/tiff,.npy,.tif,.tiff"

/** A picture that a permalink names. */
export async function fetchPicture(reference, signal) {
  const [kind, rest] = [reference.slice(0, reference.indexOf(":")), reference.slice(reference.indexOf(":") + 1)]
  if (kind === "example") {
    const blob = await api.blob(`assets/${encodeURIComponent(rest)}`, { signal })
    return { blob, name: rest, reference }
  }
  const [id, index] = [rest.slice(0, rest.lastIndexOf("/")), rest.slice(rest.lastIndexOf("/") + 1)]
  const blob = await api.blob(`datasets/${encodeURIComponent(id)}/images/${index}`, { signal })
  return { blob, name: `${id}-${index}`, reference, dataset: id, index: Number(index) }
}

/** What the browser can show of it: TIFF and npy it cannot. */
export async function bitmapOf(blob) {
  try {
    return await createImageBitmap(blob)
  } catch {
    return null
  }
}

function Thumbnail({ bitmap }) {
  const canvas = useRef(null)
  useEffect(() => {
    if (!bitmap) return
    const scale = Math.min(1, 480 / Math.max(bitmap.width, bitmap.height))
    canvas.current.width = Math.max(1, Math.round(bitmap.width * scale))
    canvas.current.height = Math.max(1, Math.round(bitmap.height * scale))
    canvas.current.getContext("2d").drawImage(bitmap, 0, 0, canvas.current.width, canvas.current.height)
  }, [bitmap])
  return bitmap ? html`<canvas ref=${canvas} class="thumbnail" role="img" aria-label="The picture"></canvas>` : html`<p class="hint">This type has no preview here; the server reads it.</p>`
}

/** `take(blob, about)` resolves when the server took the picture, and throws a Problem otherwise. */
export function Picker({ picture, take, busy }) {
  const [problem, setProblem] = useState(null)
  const [over, setOver] = useState(false)
  const chooser = useRef(null)

  const offer = async (blob, about) => {
    setProblem(null)
    try {
      await take(blob, about)
      announce(`Picture ${about.name} loaded`)
    } catch (error) {
      if (error.name !== "AbortError") setProblem(error)
    }
  }
  const file = (found) => found && offer(found, { name: found.name || "pasted picture", reference: "" })

  useEffect(() => {
    const paste = (event) => {
      const found = [...(event.clipboardData?.files ?? [])][0]
      if (found && !event.target.closest?.("input, textarea")) {
        event.preventDefault()
        file(found)
      }
    }
    const drag = (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return
      event.preventDefault()
      setOver(event.type === "dragover")
    }
    const drop = (event) => {
      if (!event.dataTransfer.files.length) return
      event.preventDefault()
      setOver(false)
      change({ view: "explain" })
      file(event.dataTransfer.files[0])
    }
    addEventListener("paste", paste)
    addEventListener("dragover", drag)
    addEventListener("dragleave", drag)
    addEventListener("drop", drop)
    return () => {
      removeEventListener("paste", paste)
      removeEventListener("dragover", drag)
      removeEventListener("dragleave", drag)
      removeEventListener("drop", drop)
    }
  }, [take])

  const example = async (name) => {
    setProblem(null)
    try {
      const found = await fetchPicture(`example:${name}`)
      await offer(found.blob, found)
    } catch (error) {
      setProblem(error)
    }
  }

  return html`<section class=${`picker${over ? " over" : ""}`} aria-label="Picture">
    ${picture && html`<figure><${Thumbnail} bitmap=${picture.bitmap} />
      <figcaption title=${picture.name}><span class="name">${picture.name}</span> <span class="hint">${picture.width ? `${picture.width} × ${picture.height} · ` : ""}${size(picture.blob.size)}</span></figcaption></figure>`}
    <div class="drop">
      <button type="button" class=${picture ? "" : "primary"} onClick=${() => chooser.current.click()}>Choose a picture…</button>
      <span class="hint">or drop or paste one</span>
      <input ref=${chooser} type="file" accept=${TYPES} class="unseen" tabindex="-1" aria-label="Picture file" onChange=${(event) => {
        file(event.target.files[0])
        event.target.value = ""
      }} />
    </div>
    ${busy && html`<${Busy}>Predicting…</${Busy}>`}
    <${Fault} problem=${problem} onClose=${() => setProblem(null)} />
    ${!picture && html`<div class="examples"><span class="hint">Or try one of these:</span>
      <div>${EXAMPLES.map(({ name, title }) => html`<button type="button" key=${name} class="example" title=${title} onClick=${() => example(name)}><img src=${api.address(`assets/${name}`)} alt=${title} width="80" height="60" /></button>`)}</div></div>`}
  </section>`
}
