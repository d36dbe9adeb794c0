// The view in which a picture is explained: what is asked on the left, the maps in the middle, how they are looked at on the right.
import { announce, Busy, Fault, html, number, percent, Select, useEffect, useMemo, useRef, useState, whole } from "./ui.js"
import * as api from "./api.js"
import { bitmapOf, fetchPicture, Picker } from "./input.js"
import { clearMask, Regions } from "./regions.js"
import { Look, optionsOf } from "./look.js"
import { MapView } from "./map.js"
import { Methods, requestOf, useCost } from "./methods.js"
import { Metrics } from "./metrics.js"
import { Predictions, targetOf } from "./predictions.js"
import { SaveMap, ShareView } from "./export.js"
import { asked, change, handed, opened, state } from "./state.js"
import { bounds, decode, decodeLabels, reduce } from "./tiles.js"

/** What is laid out for a reader who has chosen nothing. */
const FIRST_METHODS = ["integrated_gradients", "grad_cam", "xrai"]
const TOP_K = 10

const planes = new WeakMap()
function planeOf(tile, layout, reduction) {
  if (!planes.has(tile)) planes.set(tile, {})
  return (planes.get(tile)[reduction] ??= reduce(tile, layout, reduction))
}

/** What is asked of POST /compare for one row of maps. */
function paramsOf({ model, methods, target, cards, takesImages }) {
  const ranks = methods.some(({ id }) => cards.find((card) => card.id === id)?.parameters.some(({ name }) => name === "segments"))
  return {
    model: model || undefined,
    methods: methods.map(asked),
    target,
    format: "json",
    include: ["attribution", ...(takesImages ? ["metrics"] : []), ...(ranks ? ["segments"] : [])],
  }
}

const titleOf = (answer, cards, methods, place) => {
  const title = cards.find((card) => card.id === answer.method)?.title ?? answer.method
  const own = methods[place]
  const told = own && methods.filter(({ id }) => id === own.id).length > 1 ? Object.entries(own.params).map(([name, value]) => `${name} ${value}`).join(", ") || "defaults" : ""
  return told ? `${title} (${told})` : title
}

const contrast = ({ target }) => `${target.label ?? `class ${target.index}`}${target.against ? ` − ${target.against.label ?? target.against.index}` : ""}`

function Details({ answer }) {
  const rows = [
    ["f(x)", answer.input_value], ["f(x′)", answer.baseline_value], ["Σ − (f(x) − f(x′))", answer.convergence_delta], ["error", answer.approximation_error],
  ].filter(([, value]) => value !== undefined && value !== null)
  return html`<details class="about"><summary>Numbers${answer.warnings.length > 0 && html`<span class="warns"> · ${answer.warnings.length} warning${answer.warnings.length > 1 ? "s" : ""}</span>`}</summary>
    <dl class="pairs">${rows.map(([name, value]) => html`<dt key=${name}>${name}</dt><dd>${number(value)}</dd>`)}
      <dt>evaluations</dt><dd>${whole(answer.evaluations)}</dd><dt>time</dt><dd>${Math.round(answer.timing_ms.total)} ms</dd>
      ${answer.grid && html`<dt>read at</dt><dd>${answer.grid.of.join(", ")}, ${answer.grid.height} × ${answer.grid.width}</dd>`}</dl>
    <dl class="pairs small">${Object.entries(answer.parameters).filter(([name]) => name !== "method").map(([name, value]) => html`<dt key=${name}>${name}</dt><dd>${String(value)}</dd>`)}</dl>
    ${answer.warnings.length > 0 && html`<ul class="warnings">${answer.warnings.map((warning) => html`<li key=${warning}>${warning}</li>`)}</ul>`}
  </details>`
}

function Card({ cell, picture }) {
  const { answer } = cell
  return html`<article class="card" aria-label=${cell.title}>
    <header><h3 title=${cell.title}>${cell.name}</h3><span class="hint">${contrast(answer)}</span></header>
    <${MapView} ...${cell} />
    <footer><${Details} answer=${answer} /><${SaveMap} cell=${cell} picture=${picture} /></footer>
  </article>`
}

/** A panel that can be folded. */
function Panel({ title, open, children }) {
  return html`<details class="panel" open=${open}><summary><h2>${title}</h2></summary>${children}</details>`
}

export function Explain({ hidden, models, cards, catalogue }) {
  const view = state.use()
  const { model, beside, methods, target, against, classes, look } = view
  const [picture, setPicture] = useState(null)
  const [predicted, setPredicted] = useState(null)
  const [predicting, setPredicting] = useState(false)
  const [rows, setRows] = useState([])
  const [running, setRunning] = useState(null)
  const [ran, setRan] = useState("")
  const [about, setAbout] = useState({})
  const [problem, setProblem] = useState(null)
  const stop = useRef(null)
  const narrow = useMemo(() => matchMedia("(max-width: 760px)").matches, [])

  const modelId = model || models.find((one) => one.default)?.id || models[0]?.id || ""
  const summary = models.find((one) => one.id === modelId)
  const takesImages = summary?.takes_images ?? true
  const card = about[modelId]
  const labels = card?.labels ?? []

  useEffect(() => {
    for (const id of [modelId, beside].filter((own) => own && !about[own])) {
      api.json(`models/${encodeURIComponent(id)}`).then((found) => setAbout((before) => ({ ...before, [id]: found })), setProblem)
    }
  }, [modelId, beside])

  // A first choice of methods, once it is known which apply.
  useEffect(() => {
    if (!card || state.get().methods.length || opened) return
    const applies = (id) => card.methods.some((one) => one.id === id && one.applies)
    change({ methods: FIRST_METHODS.filter(applies).map((id) => ({ id, params: {} })) })
  }, [card])

  const predict = async (blob) => {
    const query = { model: modelId, top_k: TOP_K }
    const headers = blob.type ? { "content-type": blob.type } : {}
    const { results } = await api.json("predict", { method: "POST", query, body: blob, headers })
    return results[0]
  }

  const take = async (blob, told) => {
    setPredicting(true)
    try {
      const [found, bitmap] = await Promise.all([predict(blob), bitmapOf(blob)])
      stop.current?.abort()
      setPicture({ blob, bitmap, name: told.name, width: found.image?.width, height: found.image?.height })
      setPredicted(found)
      setRows([])
      setRan("")
      clearMask()
      if (!told.again) change({ image: told.reference, target: "", against: "", classes: state.get().classes.length ? found.predictions.slice(0, 3).map(({ index }) => `index:${index}`) : [] })
      return found
    } finally {
      setPredicting(false)
    }
  }

  // Another model predicts otherwise.
  const first = useRef(true)
  useEffect(() => {
    if (first.current || !picture) {
      first.current = false
      return
    }
    setPredicting(true)
    predict(picture.blob).then((found) => setPredicted(found), setProblem).finally(() => setPredicting(false))
  }, [modelId])

  const open = async (reference) => {
    setProblem(null)
    setPredicting(true)
    try {
      const found = await fetchPicture(reference)
      await take(found.blob, { ...found, again: reference === state.get().image })
      return true
    } catch (error) {
      setProblem(error)
      return false
    } finally {
      setPredicting(false)
    }
  }

  // The picture of the address, and then the maps.
  const given = handed.use()
  useEffect(() => {
    if (opened) handed.set(view.image)
  }, [])
  useEffect(() => {
    if (!given || !modelId) return
    handed.set("")
    open(given).then((isThere) => isThere && state.get().methods.length && setWanted((count) => count + 1))
  }, [given, modelId])

  const request = methods.length && modelId ? requestOf({ model: modelId, methods, target, against }) : null
  const told = useCost(request)
  const targets = classes.length ? classes : [targetOf({ target, against })]
  const asks = useMemo(() => [modelId, beside].filter(Boolean).flatMap((id) => targets.map((own) => ({ model: id, target: own }))), [modelId, beside, JSON.stringify(targets)])
  const wantedNow = JSON.stringify([asks, methods, picture?.name, picture?.blob.size])

  const run = async () => {
    if (!picture || !methods.length) return
    stop.current?.abort()
    const own = new AbortController()
    stop.current = own
    setRunning(Date.now())
    setProblem(null)
    setRan(wantedNow)
    const blob = new File([picture.blob], picture.name, { type: picture.blob.type })
    const started = performance.now()
    try {
      const found = await Promise.all(asks.map(async (ask) => {
        const params = paramsOf({ ...ask, methods, cards, takesImages })
        const [answered, cost] = await Promise.all([
          api.json("compare", { method: "POST", body: api.form(blob, params), signal: own.signal }),
          api.json("cost", { method: "POST", json: { model: ask.model, methods: params.methods, target: ask.target }, signal: own.signal }),
        ])
        const maps = answered.explanations.map((answer, place) => ({
          answer,
          tile: decode(answer.attribution),
          defaults: cost.methods[place].picture,
          segments: answer.segments ? decodeLabels(answer.segments.ranks) : null,
          name: titleOf(answer, cards, methods, place),
        }))
        return { ...ask, key: `${ask.model} ${ask.target}`, params, maps, evaluations: answered.evaluations }
      }))
      if (own.signal.aborted) return
      setRows(found)
      if (narrow) requestAnimationFrame(() => document.querySelector(".maps").scrollIntoView({ behavior: "smooth" }))
      announce(`${found.reduce((sum, row) => sum + row.maps.length, 0)} maps after ${Math.round(performance.now() - started)} milliseconds`)
    } catch (error) {
      if (error.name !== "AbortError") setProblem(error)
      if (stop.current === own) setRan("")
    } finally {
      if (stop.current === own) setRunning(null)
    }
  }
  const [wanted, setWanted] = useState(0)
  useEffect(() => {
    if (wanted) run()
  }, [wanted])
  // Another class of maps that are there is explained at once.
  const classKey = JSON.stringify(targets)
  const seen = useRef(classKey)
  useEffect(() => {
    if (seen.current !== classKey && rows.length && picture) run()
    seen.current = classKey
  }, [classKey])

  const several = rows.length > 1
  const cells = useMemo(() => {
    const all = rows.flatMap((row) => row.maps.map((map, place) => {
      const layout = about[row.model]?.manifest.input.preprocess?.layout ?? "nchw"
      const options = optionsOf(look, map.defaults)
      const parts = [map.name, contrast(map.answer), ...(beside ? [row.model] : [])]
      return { ...map, key: `${row.key} ${place}`, title: several ? parts.join(", ") : `${map.name}, ${contrast(map.answer)}`, short: several ? parts.join(", ") : map.name, options, plane: planeOf(map.tile, layout, options.reduction), bitmap: picture?.bitmap, row: row.key }
    }))
    // Maps that share a scale: all, those of a method, or none with another.
    const groups = Object.groupBy(all, (cell) => (look.scale === "shared" ? "" : look.scale === "by_method" ? cell.name : cell.key))
    const found = new Map(Object.values(groups).flatMap((cells) => {
      const own = bounds(cells.map(({ plane }) => plane), cells.map(({ options }) => options))
      return cells.map((cell, at) => [cell.key, own[at]])
    }))
    return all.map((cell) => ({ ...cell, bound: found.get(cell.key) }))
  }, [rows, look, about, picture])

  const watched = [target, against, ...classes].filter(Boolean).map((name) => Number(name.slice(6)))
  const stale = rows.length > 0 && ran !== wantedNow && !running
  const firstDefaults = rows[0]?.maps[0]?.defaults ?? told.cost?.methods[0]?.picture

  return html`<div class="explain" hidden=${hidden}>
    <div class="ask">
      <${Picker} picture=${picture} take=${take} busy=${predicting} />
      <section class="model" aria-label="Model">
        <${Select} label="Model" value=${modelId} onChange=${(id) => change({ model: id, target: "", against: "", classes: [] })} options=${models.map(({ id }) => id)} />
        ${models.length > 1 && html`<${Select} label="Beside it" value=${beside} onChange=${(id) => change({ beside: id })} options=${[{ value: "", label: "none" }, ...models.filter(({ id }) => id !== modelId).map(({ id }) => ({ value: id, label: id }))]} />`}
        ${summary?.warnings.length > 0 && html`<details class="warned"><summary>${summary.warnings.length} note${summary.warnings.length > 1 ? "s" : ""} on this model</summary><ul>${summary.warnings.map((warning) => html`<li key=${warning}>${warning}</li>`)}</ul></details>`}
      </section>
      ${predicted && html`<${Predictions} predictions=${predicted.predictions} labels=${labels} />`}
      <${Methods} cards=${cards} applicable=${card?.methods} layers=${card?.layers} told=${told} runs=${asks.length} running=${running} onRun=${run} onStop=${() => stop.current?.abort()} hasPicture=${Boolean(picture)} />
    </div>
    <section class="maps" aria-label="Maps" aria-busy=${Boolean(running)}>
      <${Fault} problem=${problem} onClose=${() => setProblem(null)} />
      ${running && html`<${Busy}>Explaining… <button type="button" class="link" onClick=${() => stop.current?.abort()}>Stop</button></${Busy}>`}
      ${stale && html`<p class="stale" role="status">These maps are of an earlier choice. <button type="button" class="link" onClick=${run}>Explain again</button></p>`}
      ${!rows.length && !running && html`<div class="empty"><p>${picture ? "Choose methods, then press Explain." : "Drop a photo anywhere on this page."}</p>
        <p class="hint">A map says where the network found evidence for a class (red) or against it (blue), and for methods without a sign, how much a place mattered.</p></div>`}
      ${rows.map((row) => html`<section key=${row.key} class="row">
        ${several && html`<h2 class="row-title">${beside ? html`<span class="badge">${row.model}</span> ` : ""}${row.maps[0] ? contrast(row.maps[0].answer) : row.target} ${row.maps[0]?.answer.target.score !== undefined ? html`<span class="hint">${percent(row.maps[0].answer.target.score)}</span>` : ""}</h2>`}
        <div class="grid">${cells.filter((cell) => cell.row === row.key).map((cell) => html`<${Card} key=${cell.key} cell=${cell} picture=${picture} />`)}</div>
      </section>`)}
    </section>
    <aside class="see" aria-label="Display and tools">
      ${firstDefaults && html`<${Panel} title="Display" open=${!narrow}><${Look} defaults=${firstDefaults} /></${Panel}>`}
      ${rows.length > 0 && html`
        <${Panel} title="Metrics"><${Metrics} cells=${cells} picture=${picture} catalogue=${catalogue} /></${Panel}>
        <${Panel} title="Regions"><${Regions} picture=${picture} model=${modelId} cells=${cells} watched=${watched} /></${Panel}>
        <${Panel} title="Share and repeat"><${ShareView} picture=${picture} params=${rows[0].params} /></${Panel}>`}
    </aside>
  </div>`
}
