// Data sets page by page: thumbnails, filters, and the images in the order of a metric of a finished job.
import { announce, Busy, Fault, Field, html, number, Select, useAsked, useEffect, useMemo, useRef, useState, whole, words } from "./ui.js"
import * as api from "./api.js"
import { change, handed, state } from "./state.js"

const PAGE = 48
const THUMBNAIL = 192

/** An image that is fetched when it comes into view, with the key where there is one. */
function Small({ id, index, file }) {
  const own = useRef(null)
  const [url, setUrl] = useState("")
  useEffect(() => {
    let made
    const stop = new AbortController()
    const look = new IntersectionObserver(([entry]) => {
      if (!entry.isIntersecting) return
      look.disconnect()
      api.blob(`datasets/${encodeURIComponent(id)}/images/${index}`, { query: { size: THUMBNAIL }, signal: stop.signal }).then((blob) => setUrl((made = URL.createObjectURL(blob))), () => setUrl("none"))
    }, { rootMargin: "200px" })
    look.observe(own.current)
    return () => {
      look.disconnect()
      stop.abort()
      if (made) URL.revokeObjectURL(made)
    }
  }, [id, index])
  return html`<span ref=${own} class="small">${url === "none" ? html`<span class="hint">no preview</span>` : url && html`<img src=${url} alt=${file} />`}</span>`
}

/** What a finished job says of single images: `{ rows: [{ file, value }], measures, methods, wrong }`. */
function useMeasured(job) {
  const lines = useAsked(async (signal) => {
    if (!job) return null
    const text = await api.text(`jobs/${job.id}/report`, { query: { format: "tidy.jsonl" }, signal })
    const result = (await api.json(`jobs/${job.id}`, { signal })).result
    return { rows: text.trim().split("\n").filter(Boolean).map((line) => JSON.parse(line)), skipped: result?.skipped_images ?? [] }
  }, [job?.id])
  return lines
}

function Browser({ set }) {
  const [page, setPage] = useState(0)
  const [label, setLabel] = useState("")
  const [jobId, setJobId] = useState("")
  const [measure, setMeasure] = useState("")
  const [row, setRow] = useState("")
  const [order, setOrder] = useState("descending")
  const [shown, setShown] = useState("all")
  const jobs = useAsked(async (signal) => {
    const { jobs: found } = await api.json("jobs", { signal, query: { state: "succeeded", kind: "evaluate", limit: 200 } })
    return found.filter(({ parameters }) => parameters.dataset === set.id && parameters.dataset_hash === set.hash)
  }, [set.id, set.hash])
  const job = jobs.value?.find(({ id }) => id === jobId)
  const measured = useMeasured(job)
  const measures = useMemo(() => [...new Set(measured.value?.rows.map((one) => one.measure) ?? [])], [measured.value])
  const rows = useMemo(() => [...new Set(measured.value?.rows.map((one) => one.row) ?? [])], [measured.value])
  const chosenMeasure = measures.includes(measure) ? measure : measures[0] ?? ""
  const chosenRow = rows.includes(row) ? row : rows[0] ?? ""
  const wrong = useMemo(() => new Map((measured.value?.skipped ?? []).filter(({ reason }) => reason === "misclassified").map(({ file, detail }) => [file, detail])), [measured.value])
  const listed = useMemo(() => {
    if (!job || !measured.value) return null
    if (shown === "wrong") return [...wrong.keys()].map((file) => ({ file, value: null }))
    const found = measured.value.rows.filter((one) => one.measure === chosenMeasure && one.row === chosenRow)
    return found.sort((one, other) => (order === "descending" ? other.value - one.value : one.value - other.value))
  }, [job, measured.value, chosenMeasure, chosenRow, order, shown, wrong])
  useEffect(() => setPage(0), [label, jobId, chosenMeasure, chosenRow, order, shown, set.id])

  const files = listed?.slice(page * PAGE, (page + 1) * PAGE)
  const images = useAsked(async (signal) => {
    if (listed && !files.length) return { total: 0, images: [] }
    const query = listed ? { file: files.map(({ file }) => file), limit: PAGE } : { offset: page * PAGE, limit: PAGE, label }
    return api.json(`datasets/${encodeURIComponent(set.id)}/images`, { signal, query })
  }, [set.id, set.hash, page, label, listed])
  const total = listed ? listed.length : images.value?.total ?? 0
  const pages = Math.max(1, Math.ceil(total / PAGE))
  const valueOf = (file) => files?.find((one) => one.file === file)?.value
  const open = ({ index }) => {
    const image = `dataset:${set.id}/${index}`
    handed.set(image)
    change({ view: "explain", image, target: "", against: "", classes: [], open: "" })
  }
  const labels = Object.entries(set.labels ?? {})

  return html`<div class="browser">
    <div class="filters">
      ${!listed && html`<${Select} label="Label" value=${label} onChange=${setLabel} options=${[{ value: "", label: `all (${whole(set.images)})` }, ...labels.map(([name, count]) => ({ value: name, label: `${name} (${count})` }))]} />`}
      <${Select} label="In the order of" value=${jobId} onChange=${setJobId} options=${[{ value: "", label: "their names" }, ...(jobs.value ?? []).map(({ id, finished_at: at, model, parameters }) => ({ value: id, label: `${model}: ${parameters.metrics.map((metric) => words(metric.id)).join(", ")} (${new Date(at).toLocaleString()})` }))]}
        hint=${jobs.value && !jobs.value.length ? "An evaluate job of this set gives an order." : ""} />
      ${job && measured.value && html`
        <${Select} label="Metric" value=${chosenMeasure} onChange=${setMeasure} options=${measures} />
        <${Select} label="Method" value=${chosenRow} onChange=${setRow} options=${rows} />
        <${Select} label="Order" value=${order} onChange=${setOrder} options=${[{ value: "descending", label: "highest first" }, { value: "ascending", label: "lowest first" }]} />
        <${Select} label="Images" value=${shown} onChange=${setShown} options=${[{ value: "all", label: `measured (${whole(measured.value.rows.filter((one) => one.measure === chosenMeasure && one.row === chosenRow).length)})` }, { value: "wrong", label: `taken for another class (${whole(wrong.size)})` }]} />`}
    </div>
    <${Fault} problem=${images.problem ?? measured.problem} />
    <p class="pager"><button type="button" disabled=${page === 0} onClick=${() => setPage(page - 1)}>Previous</button>
      <span role="status">${total ? `${whole(page * PAGE + 1)} to ${whole(Math.min(total, (page + 1) * PAGE))} of ${whole(total)}` : images.busy ? "…" : "no image"}</span>
      <button type="button" disabled=${page + 1 >= pages} onClick=${() => setPage(page + 1)}>Next</button></p>
    <ul class="thumbs" aria-busy=${images.busy}>${(images.value?.images ?? []).map((image) => html`<li key=${image.index}><button type="button" onClick=${() => open(image)} title=${`Explain ${image.file}${image.fault ? `: ${image.fault}` : ""}`} disabled=${Boolean(image.fault)}>
      <${Small} id=${set.id} index=${image.index} file=${image.file} />
      <span class="name">${image.labels.join(" | ") || image.file}</span>
      <span class="hint">${listed ? (wrong.get(image.file) ?? (valueOf(image.file) !== null ? number(valueOf(image.file)) : "")) : image.file}${image.mask || image.boxes.length ? " · object marked" : ""}</span>
    </button></li>`)}</ul>
  </div>`
}

function Upload({ onDone }) {
  const [id, setId] = useState("")
  const [file, setFile] = useState(null)
  const [busy, setBusy] = useState(false)
  const [problem, setProblem] = useState(null)
  const send = async (event) => {
    event.preventDefault()
    setBusy(true)
    setProblem(null)
    try {
      const card = await api.json(`datasets/${encodeURIComponent(id)}`, { method: "PUT", body: file })
      announce(`Data set ${card.id} uploaded: ${card.images} images`)
      onDone(card.id)
    } catch (error) {
      setProblem(error)
    }
    setBusy(false)
  }
  return html`<form class="upload" onSubmit=${send}><div class="fields">
      <${Field} label="Name"><input required pattern="[A-Za-z0-9_\\-][A-Za-z0-9._\\-]*" maxlength="64" value=${id} onInput=${(event) => setId(event.target.value)} /></${Field}>
      <${Field} label="Archive" hint="zip, tar or tar.gz of images; labels by folder, or a labels.csv"><input type="file" required accept=".zip,.tar,.tar.gz,.tgz" onChange=${(event) => {
        const found = event.target.files[0]
        setFile(found)
        if (found && !id) setId(found.name.replace(/\.(zip|tar|tgz|tar\.gz)$/i, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^\.+/, ""))
      }} /></${Field}></div>
    <${Fault} problem=${problem} onClose=${() => setProblem(null)} />
    ${busy && html`<${Busy}>Uploading and reading every image…</${Busy}>`}
    <p class="buttons"><button type="submit" class="primary" disabled=${busy || !file || !id}>Upload</button></p></form>`
}

export function Datasets() {
  const { open } = state.use()
  const [round, again] = useState(0)
  const [uploading, setUploading] = useState(false)
  const list = useAsked((signal) => api.json("datasets", { signal }), [round])
  const set = useAsked((signal) => (open ? api.json(`datasets/${encodeURIComponent(open)}`, { signal }) : null), [open, round])
  const [problem, setProblem] = useState(null)
  const reload = () => again((count) => count + 1)
  const remove = async () => {
    if (!confirm(`Delete the data set ${open}, for everyone who uses this server?`)) return
    try {
      await api.send(`datasets/${encodeURIComponent(open)}`, { method: "DELETE" })
      change({ open: "" })
      reload()
    } catch (error) {
      setProblem(error)
    }
  }
  const sets = list.value?.datasets ?? []
  const card = set.value?.id === open ? set.value : null
  return html`<div class="two datasets">
    <div class="list">
      <header><h1>Data sets</h1><button type="button" class="primary" aria-expanded=${uploading} onClick=${() => setUploading(!uploading)}>${uploading ? "Close" : "Upload"}</button></header>
      ${uploading && html`<${Upload} onDone=${(id) => {
        setUploading(false)
        reload()
        change({ open: id })
      }} />`}
      <${Fault} problem=${list.value ? null : list.problem} />
      ${list.busy && !list.value && html`<${Busy}>Reading the data sets…</${Busy}>`}
      ${list.value && !sets.length && !uploading && html`<p class="empty">No data set yet. Upload an archive of images to browse them, and to compare methods on them.</p>`}
      <ul class="cards">${sets.map((one) => html`<li key=${one.id}><button type="button" class="item" aria-current=${open === one.id} onClick=${() => change({ open: one.id })}>
        <span class="name">${one.id}</span><span class="hint">${whole(one.images)} image${one.images === 1 ? "" : "s"}${one.labelled ? `, ${whole(one.labelled)} labelled` : ""}${one.masks + one.boxed ? ", objects marked" : ""}${one.uploaded ? "" : " · a folder of the server"}</span></button></li>`)}
      ${(list.value?.broken_datasets ?? []).map((one) => html`<li key=${one.id} class="broken"><span class="name">${one.id}</span><p class="fault">${one.reason}</p></li>`)}</ul>
    </div>
    ${open ? html`<section class="detail" aria-label="Data set">
      <${Fault} problem=${problem ?? (card ? null : set.problem)} onClose=${() => setProblem(null)} />
      ${!card && !set.problem && html`<${Busy}>Reading the data set…</${Busy}>`}
      ${card && html`<header><h2>${card.id}</h2><p class="buttons">${card.uploaded && html`<button type="button" onClick=${remove}>Delete</button>`}</p></header>
        ${card.problems > 0 && html`<details class="warned"><summary>${whole(card.problems)} problem${card.problems > 1 ? "s" : ""}</summary><ul>${card.problem_list.slice(0, 100).map((one) => html`<li key=${one.file + one.message}><code>${one.file}</code> ${one.message}</li>`)}</ul></details>`}
        <${Browser} key=${card.id} set=${card} />`}
    </section>` : html`<p class="detail empty">${sets.length ? "Choose a data set to see its images; an image opens in Explain." : ""}</p>`}
  </div>`
}
