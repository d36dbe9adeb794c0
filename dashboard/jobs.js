// Jobs: started by a form that GET /job-kinds describes, followed as they run, cancelled, and their reports read.
import { ago, announce, Busy, Check, duration, Fault, Field, html, percent, Select, useAsked, useEffect, useState, whole, words } from "./ui.js"
import * as api from "./api.js"
import { save } from "./files.js"
import { Findings, TrainingCurves } from "./findings.js"
import { asked, change, state } from "./state.js"

const POLL_MS = 5000
const PAGE = 50
const ENDED = ["succeeded", "failed", "cancelled"]
/** Parameters that have a control of their own. */
const OWN = ["model", "dataset", "methods", "metrics"]
/** Those that are asked for first: what has no default, and how much work it is. */
const isFirst = ({ name, doc }) => name === "limit" || !doc.includes("default")

const State = ({ state: name }) => html`<span class=${`state ${name}`}>${name}</span>`

function Progress({ done, total, label }) {
  return html`<span class="progress"><progress value=${done} max=${total || 1} aria-label=${label}></progress><span class="hint">${whole(done)} of ${whole(total)}</span></span>`
}

/** A text as the request holds it: JSON where it is some, else the text. */
function valueOf(text) {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

function Several({ label, options, chosen, onChange }) {
  const [sought, seek] = useState("")
  const found = options.filter(({ value, label: name }) => chosen.includes(value) || `${value} ${name}`.toLowerCase().includes(sought.toLowerCase()))
  return html`<fieldset class="several"><legend>${label} <span class="hint">${chosen.length} chosen</span></legend>
    <input type="search" aria-label=${`Search ${label.toLowerCase()}`} placeholder="search" value=${sought} onInput=${(event) => seek(event.target.value)} />
    <div class="options">${found.map(({ value, label: name, title }) => html`<${Check} key=${value} label=${name} title=${title} checked=${chosen.includes(value)}
      onChange=${(on) => onChange(on ? [...chosen, value] : chosen.filter((own) => own !== value))} />`)}</div></fieldset>`
}

function Start({ kinds, models, cards, catalogue, onStarted }) {
  const view = state.get()
  const datasets = useAsked((signal) => api.json("datasets", { signal }), [])
  const [kind, setKind] = useState("degradation")
  const [model, setModel] = useState(view.model || models.find((one) => one.default)?.id || models[0]?.id || "")
  const [dataset, setDataset] = useState("")
  const [methods, setMethods] = useState(view.methods.length ? [...new Set(view.methods.map(({ id }) => id))] : ["gradient", "integrated_gradients", "random"])
  const [metrics, setMetrics] = useState(["deletion", "insertion"])
  const [others, setOthers] = useState({ limit: "10" })
  const [problem, setProblem] = useState(null)
  const [busy, setBusy] = useState(false)
  const card = kinds.find((one) => one.id === kind)
  const takes = (name) => card?.parameters.some((parameter) => parameter.name === name)
  const ids = datasets.value?.datasets.map(({ id }) => id) ?? []
  const chosen = dataset || ids[0] || ""
  const parametersOf = (id) => {
    const own = view.methods.find((method) => method.id === id)
    return own ? asked(own) : id
  }
  const faults = Object.fromEntries((problem?.errors ?? []).map(({ param, message }) => [param, message]))

  const start = async (event) => {
    event.preventDefault()
    setBusy(true)
    setProblem(null)
    const request = { kind }
    if (takes("model") && model) request.model = model
    if (takes("dataset") && chosen) request.dataset = chosen
    if (takes("methods")) request.methods = methods.map(parametersOf)
    if (takes("metrics")) request.metrics = metrics
    for (const [name, text] of Object.entries(others)) if (takes(name) && text.trim() !== "") request[name] = valueOf(text.trim())
    try {
      onStarted(await api.json("jobs", { method: "POST", json: request }))
    } catch (error) {
      setProblem(error)
    }
    setBusy(false)
  }
  const own = card?.parameters.filter(({ name }) => !OWN.includes(name)) ?? []
  const field = ({ name, doc }) => html`<${Field} key=${name} label=${words(name)} hint=${doc.replace(/`/g, "")} fault=${faults[name]}>
    <input value=${others[name] ?? ""} autocomplete="off" onInput=${(event) => setOthers((before) => ({ ...before, [name]: event.target.value }))} /></${Field}>`
  return html`<form class="start-job" onSubmit=${start}>
    <div class="fields">
      <${Select} label="Kind" value=${kind} onChange=${setKind} options=${kinds.map(({ id }) => ({ value: id, label: words(id) }))} />
      ${takes("model") && html`<${Select} label="Model" value=${model} onChange=${setModel} options=${models.map(({ id }) => id)} fault=${faults.model} />`}
      ${takes("dataset") && html`<${Select} label="Data set" value=${chosen} onChange=${setDataset} options=${ids.length ? ids : [{ value: "", label: "none on this server" }]} fault=${faults.dataset} />`}
    </div>
    <p class="hint">${card?.doc}.</p>
    ${takes("dataset") && datasets.value && !ids.length && html`<p class="fault">There is no data set: upload one on the Data sets page.</p>`}
    ${takes("methods") && html`<${Several} label="Methods" options=${cards.map(({ id, title }) => ({ value: id, label: title }))} chosen=${methods} onChange=${setMethods} />`}
    ${takes("metrics") && html`<${Several} label="Metrics" options=${catalogue.map(({ id, title, value, reason }) => ({ value: id, label: title, title: reason ?? value }))} chosen=${metrics} onChange=${setMetrics} />`}
    <div class="fields">${own.filter(isFirst).map(field)}</div>
    ${own.some((one) => !isFirst(one)) && html`<details><summary>More parameters</summary><div class="fields">${own.filter((one) => !isFirst(one)).map(field)}</div></details>`}
    <${Fault} problem=${problem} onClose=${() => setProblem(null)} />
    <p class="buttons"><button type="submit" class="primary" disabled=${busy || (takes("dataset") && !chosen)}>${busy ? "Starting…" : "Start the job"}</button></p>
  </form>`
}

const READ = { html: "page (HTML)", json: "JSON", csv: "CSV", svg: "figure (SVG)", png: "figure (PNG)", zip: "archive (zip)", "tidy.csv": "single images (CSV)", "tidy.jsonl": "single images (JSON Lines)" }

function Report({ job }) {
  const [figure, setFigure] = useState(null)
  const [problem, setProblem] = useState(null)
  const has = (format) => job.formats.includes(format)
  const partial = job.state !== "succeeded"
  useEffect(() => {
    if (!has("svg") || !job.done) return
    let url
    api.blob(`jobs/${job.id}/report`, { query: { format: "svg" } }).then((blob) => setFigure((url = URL.createObjectURL(blob))), () => {})
    return () => url && URL.revokeObjectURL(url)
  }, [job.id, job.state])
  const fetchReport = async (format) => {
    try {
      save(`${job.kind}-${job.id}.${format}`, await api.blob(`jobs/${job.id}/report`, { query: { format } }))
    } catch (error) {
      setProblem(error)
    }
  }
  const formats = job.formats.filter((format) => !partial || !["tidy.csv", "tidy.jsonl", "zip"].includes(format))
  if (partial && !job.done) return null
  const isTraining = job.kind === "train" || job.kind === "gad_train" || job.kind === "bam_models"
  const epochs = job.result?.epochs
  return html`<section class="report" aria-label="Report"><h3>${partial ? "Report so far" : "Report"}</h3>
    <p class="buttons">${has("html") && !api.key.get() ? html`<a class="button primary" href=${api.address(`jobs/${job.id}/report?format=html`)} target="_blank" rel="noopener">Open the page</a>` : ""}
      ${formats.map((format) => html`<button type="button" key=${format} onClick=${() => fetchReport(format)}>${READ[format] ?? format}</button>`)}</p>
    <${Fault} problem=${problem} onClose=${() => setProblem(null)} />
    ${Array.isArray(epochs) && html`<${TrainingCurves} epochs=${epochs} />`}
    ${job.result && html`<${Findings} result=${job.result} />`}
    ${figure && (isTraining ? !Array.isArray(epochs) : !["evaluate", "degradation"].includes(job.kind)) && html`<img class="figure" src=${figure} alt="The report's figure" />`}
  </section>`
}

function Job({ id, onGone, onEnded }) {
  const [job, setJob] = useState(null)
  const [problem, setProblem] = useState(null)
  useEffect(() => {
    setJob(null)
    setProblem(null)
    const stop = new AbortController()
    const look = async () => {
      const found = await api.json(`jobs/${id}`, { signal: stop.signal })
      setJob(found)
      return found
    }
    const follow = async () => {
      try {
        const found = await look()
        if (ENDED.includes(found.state)) return
        let due = 0
        await api.events(`jobs/${id}/events`, ({ event, data }) => {
          setJob((before) => before && { ...before, ...(data.state ? { state: data.state } : {}), ...(data.done !== undefined ? { done: data.done } : {}) })
          // The rate and the result so far, at most once a second.
          if (event === "progress" && Date.now() > due) {
            due = Date.now() + 1000
            look().catch(() => {})
          }
        }, stop.signal)
        const ended = await look()
        onEnded()
        if (ENDED.includes(ended.state)) announce(`Job ${words(ended.kind)} ${ended.state}`)
        else setTimeout(() => stop.signal.aborted || follow(), 500)
      } catch (error) {
        if (error.name === "AbortError") return
        if (error.code === "unknown_job") onGone()
        setProblem(error)
        if (error.code === "unreachable") setTimeout(() => stop.signal.aborted || follow(), POLL_MS)
      }
    }
    follow()
    return () => stop.abort()
  }, [id])
  const cancel = async () => {
    try {
      const card = await api.json(`jobs/${id}/cancel`, { method: "POST" })
      setJob((before) => ({ ...before, ...card }))
      onEnded()
      announce("Job cancelled")
    } catch (error) {
      setProblem(error)
    }
  }
  const remove = async () => {
    if (!confirm("Delete this job and its report?")) return
    try {
      await api.send(`jobs/${id}`, { method: "DELETE" })
      onGone()
    } catch (error) {
      setProblem(error)
    }
  }
  if (!job) return html`<section class="detail"><${Fault} problem=${problem} />${!problem && html`<${Busy}>Loading the job…</${Busy}>`}</section>`
  const isOver = ENDED.includes(job.state)
  return html`<section class="detail" aria-label="Job">
    <header><h2>${words(job.kind)} <${State} state=${job.state} /></h2>
      <p class="buttons">${isOver ? html`<button type="button" onClick=${remove}>Delete</button>` : html`<button type="button" class="danger" onClick=${cancel}>Cancel the job</button>`}</p></header>
    <p class="hint"><code>${job.id}</code> · ${job.model ?? ""} · started ${ago(job.created_at)}</p>
    <${Progress} done=${job.done} total=${job.total} label="Progress of the job" />
    ${!isOver && job.eta_s ? html`<p class="hint">about ${duration(job.eta_s)} left</p>` : ""}
    ${job.error && html`<p class="problem" role="alert">${job.error}</p>`}
    ${job.errors.length > 0 && html`<details><summary>${job.errors.length} part${job.errors.length > 1 ? "s" : ""} failed at least once</summary><ul>${job.errors.map((one) => html`<li key=${one.shard}>part ${one.shard}, ${one.state}: ${one.error}</li>`)}</ul></details>`}
    <${Fault} problem=${problem} onClose=${() => setProblem(null)} />
    <${Report} job=${job} />
    <details><summary>Parameters</summary><pre tabindex="0">${JSON.stringify(job.parameters, null, 2)}</pre></details>
  </section>`
}

export function Jobs({ models, cards, catalogue }) {
  const { open } = state.use()
  const [tick, setTick] = useState(0)
  const [starting, setStarting] = useState(false)
  const [limit, setLimit] = useState(PAGE)
  const kinds = useAsked((signal) => api.json("job-kinds", { signal }), [])
  const list = useAsked((signal) => api.json("jobs", { signal, query: { limit } }), [tick, limit])
  useEffect(() => {
    const timer = setInterval(() => document.hidden || setTick((count) => count + 1), POLL_MS)
    return () => clearInterval(timer)
  }, [])
  const jobs = list.value?.jobs ?? []
  const select = (id) => change({ open: id })
  return html`<div class="two jobs">
    <div class="list">
      <header><h1>Jobs</h1><button type="button" class="primary" aria-expanded=${starting} onClick=${() => setStarting(!starting)}>${starting ? "Close" : "New job"}</button></header>
      ${starting && kinds.value && html`<${Start} kinds=${kinds.value.kinds} models=${models} cards=${cards} catalogue=${catalogue} onStarted=${(job) => {
        setStarting(false)
        setTick((count) => count + 1)
        select(job.id)
        announce("Job started")
      }} />`}
      <${Fault} problem=${kinds.problem ?? (list.value ? null : list.problem)} />
      ${!jobs.length && list.value && !starting && html`<p class="empty">No job yet. Benchmarks, training and explanations of whole data sets run here, and survive a restart.</p>`}
      <ul class="cards">${jobs.map((job) => html`<li key=${job.id}><button type="button" class="item" aria-current=${open === job.id} onClick=${() => select(job.id)}>
        <span class="name">${words(job.kind)}</span><${State} state=${job.state} />
        <span class="hint">${job.model ?? ""}${job.parameters.dataset ? ` · ${job.parameters.dataset}` : ""} · ${ago(job.created_at)}${ENDED.includes(job.state) ? "" : ` · ${percent(job.total ? job.done / job.total : 0, 0)}`}</span></button></li>`)}</ul>
      ${list.value?.next && limit < 200 && html`<button type="button" onClick=${() => setLimit(200)}>More</button>`}
    </div>
    ${open ? html`<${Job} key=${open} id=${open} onEnded=${() => setTick((count) => count + 1)} onGone=${() => {
      change({ open: "" })
      setTick((count) => count + 1)
    }} />` : html`<p class="detail empty">${jobs.length ? "Choose a job to see its progress and its report." : ""}</p>`}
  </div>`
}
