// What every part of the page is made with: Preact, htm, and small controls with labels.
import { cloneElement, h, render, Fragment, toChildArray } from "./vendor/preact.js"
import { useCallback, useEffect, useId, useLayoutEffect, useMemo, useReducer, useRef, useState } from "./vendor/hooks.js"
import htm from "./vendor/htm.js"

export const html = htm.bind(h)
export { Fragment, render, useCallback, useEffect, useId, useLayoutEffect, useMemo, useReducer, useRef, useState }

/** A value that several components share: `get`, `set`, and `use` inside a component. */
export function shared(initial) {
  let value = initial
  const listeners = new Set()
  const set = (next) => {
    value = typeof next === "function" ? next(value) : next
    for (const listener of listeners) listener(value)
  }
  const use = () => {
    const [seen, see] = useState(value)
    useLayoutEffect(() => {
      see(() => value)
      const listener = (next) => see(() => next)
      listeners.add(listener)
      return () => listeners.delete(listener)
    }, [])
    return seen
  }
  return { get: () => value, set, use }
}

/** What screen readers say of what happened. */
export const announced = shared("")
export const announce = (text) => announced.set(text)

/** The value, once it has not changed for `ms`. */
export function useSettled(value, ms) {
  const [settled, settle] = useState(value)
  useEffect(() => {
    const timer = setTimeout(() => settle(value), ms)
    return () => clearTimeout(timer)
  }, [value, ms])
  return settled
}

/** A promise's value, problem and whether it is under way; asked again when `inputs` change. */
export function useAsked(ask, inputs) {
  const [state, set] = useState({ value: null, problem: null, busy: true })
  useEffect(() => {
    const stop = new AbortController()
    set((before) => ({ ...before, busy: true }))
    Promise.resolve(ask(stop.signal)).then(
      (value) => stop.signal.aborted || set({ value, problem: null, busy: false }),
      (problem) => stop.signal.aborted || set((before) => ({ value: before.value, problem, busy: false })),
    )
    return () => stop.abort()
  }, inputs)
  return state
}

/** A control with its label, a hint and what is wrong with its value. The first child is the control. */
export function Field({ label, hint, fault, children }) {
  const id = useId()
  const [control, ...rest] = toChildArray(children)
  const told = [hint && `${id}-hint`, fault && `${id}-fault`].filter(Boolean).join(" ")
  return html`<div class=${`field${fault ? " faulty" : ""}`}>
    <label class="label" for=${id}>${label}</label>${cloneElement(control, { id, "aria-describedby": told || undefined, "aria-invalid": fault ? "true" : undefined })}${rest}
    ${hint && html`<span class="hint" id=${`${id}-hint`}>${hint}</span>`}
    ${fault && html`<span class="fault" role="alert" id=${`${id}-fault`}>${fault}</span>`}
  </div>`
}

export function Select({ label, value, options, onChange, hint, fault, disabled }) {
  const entries = options.map((option) => (typeof option === "object" ? option : { value: option, label: option }))
  return html`<${Field} label=${label} hint=${hint} fault=${fault}>
    <select value=${value} disabled=${disabled} onChange=${(event) => onChange(event.target.value)}>
      ${entries.map(({ value: own, label: name }) => html`<option key=${own} value=${own} selected=${own === value}>${name}</option>`)}
    </select>
  </${Field}>`
}

export function Slider({ label, value, min, max, step, onInput, format = String }) {
  return html`<${Field} label=${label}><input type="range" min=${min} max=${max} step=${step} value=${value} aria-valuetext=${format(value)}
    onInput=${(event) => onInput(Number(event.target.value))} /><output>${format(value)}</output></${Field}>`
}

export function Choice({ label, value, options, onChange }) {
  const name = useId()
  return html`<fieldset class="choice"><legend>${label}</legend>
    <span class="segments">${options.map(
      ({ value: own, label: text }) => html`<label key=${own}><input type="radio" name=${name} value=${own} checked=${own === value}
        onChange=${() => onChange(own)} /><span>${text}</span></label>`,
    )}</span>
  </fieldset>`
}

export function Check({ label, checked, onChange, disabled, title }) {
  return html`<label class="check" title=${title}><input type="checkbox" checked=${checked} disabled=${disabled}
    onChange=${(event) => onChange(event.target.checked)} /><span>${label}</span></label>`
}

/** A problem in the server's words, with each refused parameter. */
export function Fault({ problem, onClose }) {
  if (!problem) return null
  const errors = problem.errors ?? []
  return html`<div class="problem" role="alert">
    <strong>${problem.title ?? "Something went wrong"}</strong>
    ${errors.length
      ? html`<ul>${errors.map((error) => html`<li key=${error.param}><code>${error.param}</code> ${error.message}${
          error.allowed?.length ? html`<span class="hint"> Allowed: ${error.allowed.slice(0, 12).join(", ")}${error.allowed.length > 12 ? ", …" : ""}</span>` : null
        }</li>`)}</ul>`
      : html`<p>${problem.message}</p>`}
    ${onClose && html`<button type="button" class="quiet" onClick=${onClose}>Close</button>`}
  </div>`
}

export const Busy = ({ children }) => html`<p class="busy" role="status"><span class="spinner" aria-hidden="true"></span>${children}</p>`

/** A dialog that takes the focus and gives it back. */
export function Dialog({ title, onClose, children, wide }) {
  const own = useRef(null)
  const id = useId()
  useEffect(() => {
    own.current.showModal()
  }, [])
  return html`<dialog ref=${own} class=${wide ? "wide" : ""} aria-labelledby=${id} onClose=${onClose}
    onClick=${(event) => event.target === own.current && own.current.close()}>
    <div class="inside"><header><h2 id=${id}>${title}</h2>
      <button type="button" class="quiet" aria-label="Close" onClick=${() => own.current.close()}>✕</button></header>${children}</div>
  </dialog>`
}

const compact = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, notation: "standard" })
/** Three significant digits; powers of ten where there would be many zeros. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–"
  const size = Math.abs(value)
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1).replace("+", "").replace(/-/g, "−")
  return compact.format(value).replace(/^-/, "−")
}
export const whole = (value) => new Intl.NumberFormat("en").format(value)
export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`
export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"]
  let at = 0
  while (bytes >= 1024 && at < units.length - 1) {
    bytes /= 1024
    at += 1
  }
  return `${at === 0 ? bytes : bytes.toFixed(1)} ${units[at]}`
}
export function ago(text) {
  const seconds = (Date.now() - Date.parse(text)) / 1000
  if (seconds < 60) return "just now"
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h ago`
  return new Date(text).toLocaleDateString()
}
export const duration = (seconds) => (seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`)

/** `pattern_attribution` as a reader says it. */
export const words = (id) => id.replace(/_/g, " ")
