// Methods to explain by, and the form of each, generated from GET /methods; their cost is asked from the server while the form is filled in.
import { Check, Fault, Field, html, Select, useEffect, useMemo, useSettled, useState, whole, words } from "./ui.js"
import * as api from "./api.js"
import { asked, change, state } from "./state.js"
import { targetOf } from "./predictions.js"

const GROUPS = [
  ["Gradients", ["gradient", "input_x_gradient", "guided_backprop", "deconvnet", "smooth_grad", "smooth_grad_sq", "var_grad"]],
  ["Paths from a baseline", ["integrated_gradients", "expected_gradients", "smooth_grad_ig", "pgig"]],
  ["Patterns and relevance", ["pattern_attribution", "pattern_net", "lrp", "gad"]],
  ["Layers and attention", ["grad_cam", "guided_grad_cam", "layer_cam", "hires_cam", "eigen_cam", "score_cam", "attention_rollout", "gradient_rollout"]],
  ["Regions and hiding", ["xrai", "feature_ablation", "lime", "kernel_shap", "shapley_sampling", "rise", "occlusion"]],
]
const OTHERS = "Others"

/** Names of parameters that another part of the page sets. */
const ELSEWHERE = ["target"]

const isWord = (text) => /^[A-Za-z0-9_-]+$/.test(text)

function Parameter({ card, value, onChange, fault, known = [] }) {
  const fallback = card.default === null || card.default === undefined ? (card.default_from_model ? "the model's" : "off") : String(card.default)
  const label = words(card.name)
  const set = (text) => onChange(text === "" ? undefined : text)
  if (card.type === "boolean") {
    return html`<${Select} label=${label} fault=${fault} value=${value === undefined ? "" : String(value)} onChange=${(text) => onChange(text === "" ? undefined : text === "true")}
      options=${[{ value: "", label: `${fallback === "true" ? "yes" : "no"} · default` }, { value: "true", label: "yes" }, { value: "false", label: "no" }]} />`
  }
  if (card.type === "string" && card.allowed.length && card.allowed.every(isWord)) {
    return html`<${Select} label=${label} fault=${fault} value=${value ?? ""} onChange=${set}
      options=${[{ value: "", label: `${fallback} · default` }, ...card.allowed.map((own) => ({ value: own, label: own }))]} />`
  }
  const numeric = card.type === "integer" || card.type === "number"
  const list = [...known, ...card.allowed.filter((own) => !numeric && isWord(own))]
  const id = `list-${card.name}`
  return html`<${Field} label=${label} fault=${fault}>
    <input value=${value ?? ""} placeholder=${fallback} inputmode=${numeric ? "decimal" : "text"} title=${`${card.doc} Allowed: ${card.allowed.join(", ")}`} list=${list.length ? id : undefined} autocomplete="off"
      onInput=${(event) => {
        const text = event.target.value.trim()
        set(numeric && text !== "" && Number.isFinite(Number(text)) ? Number(text) : text)
      }} />
    ${list.length > 0 && html`<datalist id=${id}>${list.map((own) => html`<option key=${own} value=${own} />`)}</datalist>`}
  </${Field}>`
}

function Form({ card, method, faults, layers, onChange }) {
  const cards = card.parameters.filter(({ name }) => !ELSEWHERE.includes(name))
  return html`<div class="form">
    <p class="hint formula">${card.formula}<br />${card.paper}</p>
    ${cards.map((parameter) => html`<${Parameter} key=${parameter.name} card=${parameter} value=${method.params[parameter.name]} fault=${faults[parameter.name]}
      known=${parameter.name === "layer" ? layers?.map(({ name }) => name) : []} onChange=${(value) => {
        const params = { ...method.params, [parameter.name]: value }
        if (value === undefined) delete params[parameter.name]
        onChange({ ...method, params })
      }} />`)}
    <details class="docs"><summary>What they mean</summary><dl>${cards.map((parameter) => html`<dt key=${parameter.name}>${words(parameter.name)}</dt><dd>${parameter.doc} <span class="hint">${parameter.allowed.join(", ")}</span></dd>`)}</dl></details>
  </div>`
}

/** The cost of what is asked for, or why it is refused: `{ cost, problem }`. */
export function useCost(request) {
  const settled = useSettled(JSON.stringify(request), 200)
  const [told, tell] = useState({ cost: null, problem: null })
  useEffect(() => {
    const wanted = JSON.parse(settled)
    if (!wanted?.methods.length) return tell({ cost: null, problem: null })
    const stop = new AbortController()
    api.json("cost", { method: "POST", json: wanted, signal: stop.signal }).then(
      (cost) => tell({ cost, problem: null }),
      (problem) => problem.name === "AbortError" || tell({ cost: null, problem }),
    )
    return () => stop.abort()
  }, [settled])
  return told
}

export function requestOf({ model, methods, target, against }) {
  return { model: model || undefined, methods: methods.map(asked), target: targetOf({ target, against }) }
}

function faultsOf(problem, place) {
  const found = {}
  for (const { param, message } of problem?.errors ?? []) {
    const [, at, name] = /^methods\[(\d+)\]\.(.+)$/.exec(param) ?? []
    if (Number(at) === place) found[name] = message
  }
  return found
}

export function Methods({ cards, applicable, layers, told, runs, running, onRun, onStop, hasPicture }) {
  const { methods } = state.use()
  const [sought, seek] = useState("")
  const [open, setOpen] = useState(-1)
  const [choosing, choose] = useState(false)
  const byId = useMemo(() => new Map(cards.map((card) => [card.id, card])), [cards])
  const groups = useMemo(() => {
    const placed = new Set(GROUPS.flatMap(([, ids]) => ids))
    return [...GROUPS, [OTHERS, cards.map(({ id }) => id).filter((id) => !placed.has(id))]]
  }, [cards])
  const reason = (id) => applicable?.find((one) => one.id === id && !one.applies)?.reason
  const set = (place, method) => change({ methods: methods.map((own, at) => (at === place ? method : own)) })
  const toggle = (id, on) => change({ methods: on ? [...methods, { id, params: {} }] : methods.filter((own) => own.id !== id) })
  const { cost, problem } = told
  const shown = methods.filter(({ id }) => byId.has(id))
  const evaluations = cost ? cost.evaluations * runs : null
  const tooMuch = cost && cost.evaluations > cost.max_interactive_evaluations
  const general = problem?.errors?.filter(({ param }) => !param.startsWith("methods[")) ?? []
  const fits = (id) => !sought || `${id} ${byId.get(id)?.title}`.toLowerCase().includes(sought.toLowerCase().replace(/ /g, "_")) || byId.get(id)?.title.toLowerCase().includes(sought.toLowerCase())

  return html`<section class="methods" aria-label="Methods">
    <h2>Methods</h2>
    <ol class="chosen">${shown.map((method, place) => {
      const faults = faultsOf(problem, place)
      const count = Object.keys(method.params).length
      const isOpen = open === place
      const own = cost?.methods[place]
      return html`<li key=${`${method.id}-${place}`} class=${Object.keys(faults).length ? "faulty" : ""}>
        <div class="head"><button type="button" class="name" aria-expanded=${isOpen} onClick=${() => setOpen(isOpen ? -1 : place)}><span class="chevron" aria-hidden="true">${isOpen ? "▾" : "▸"}</span> ${byId.get(method.id).title}${count ? html` <span class="badge">${count} set</span>` : ""}</button>
          <span class="cost" title=${`${byId.get(method.id).cost} evaluations`}>${own ? whole(own.evaluations) : ""}</span>
          <button type="button" class="quiet" title="The same method again, with other parameters" aria-label=${`${byId.get(method.id).title} again, with other parameters`} onClick=${() => {
            change({ methods: [...methods.slice(0, place + 1), { ...method, params: { ...method.params } }, ...methods.slice(place + 1)] })
            setOpen(place + 1)
          }}>+</button>
          <button type="button" class="quiet" aria-label=${`Remove ${byId.get(method.id).title}`} onClick=${() => {
            change({ methods: methods.filter((_, at) => at !== place) })
            setOpen(-1)
          }}>✕</button></div>
        ${reason(method.id) && html`<p class="fault">${reason(method.id)}</p>`}
        ${isOpen && html`<${Form} card=${byId.get(method.id)} method=${method} faults=${faults} layers=${layers} onChange=${(changed) => set(place, changed)} />`}
        ${!isOpen && Object.entries(faults).map(([name, message]) => html`<p class="fault" key=${name}><code>${name}</code> ${message}</p>`)}
      </li>`
    })}</ol>
    <details class="more" open=${choosing} onToggle=${(event) => choose(event.target.open)}>
      <summary>${shown.length ? "More methods" : "Choose methods"}</summary>
      <label class="unseen" for="seek-method">Search methods</label>
      <input id="seek-method" type="search" placeholder="search methods" value=${sought} onInput=${(event) => seek(event.target.value)} />
      ${groups.map(([title, ids]) => {
        const found = ids.filter((id) => byId.has(id) && fits(id))
        return found.length ? html`<fieldset key=${title} class="group"><legend>${title}</legend>${found.map((id) => html`<${Check} key=${id} label=${byId.get(id).title} title=${reason(id) ?? byId.get(id).formula}
          checked=${methods.some((own) => own.id === id)} disabled=${Boolean(reason(id))} onChange=${(on) => toggle(id, on)} />`)}</fieldset>` : null
      })}
    </details>
    <div class="run">
      ${general.length > 0 && html`<${Fault} problem=${{ title: problem.title, errors: general }} />`}
      ${problem && !problem.errors && html`<${Fault} problem=${problem} />`}
      <p class="total" aria-live="polite">${evaluations !== null && shown.length ? html`${whole(evaluations)} evaluation${evaluations === 1 ? "" : "s"}${runs > 1 ? ` in ${runs} requests` : ""}` : ""}
        ${tooMuch ? html`<span class="fault">One request may cost ${whole(cost.max_interactive_evaluations)}: lower it, or run it as a job.</span>` : ""}</p>
      ${running
        ? html`<button type="button" class="primary" onClick=${onStop}>Stop</button>`
        : html`<button type="button" class="primary" id="run" disabled=${!hasPicture || !shown.length || Boolean(problem) || tooMuch} onClick=${onRun}>Explain</button>`}
      ${!hasPicture && shown.length > 0 && html`<span class="hint">Choose a picture first.</span>`}
    </div>
  </section>`
}
