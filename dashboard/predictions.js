// The best classes: a click makes one the target, a second one the contrast.
import { Check, html, percent, useMemo, useState } from "./ui.js"
import { change, state } from "./state.js"

/** Classes that are listed before more are asked for. */
const FEW = 5

/** As requests name a class. */
const nameOf = ({ index }) => `index:${index}`
const titleOf = ({ label, index }) => label ?? `class ${index}`

/** The class that `index:N` names, with what is known of it. */
function classOf(name, predictions, labels) {
  const index = Number(name.slice("index:".length))
  return predictions?.find((one) => one.index === index) ?? { index, label: labels?.[index] ?? null, score: null }
}
const describe = (name, predictions, labels) => titleOf(classOf(name, predictions, labels))

/** The target in a request: a class, a contrast, or what is predicted. */
export const targetOf = ({ target, against }) => (!target ? "predicted" : against ? `${target}-${against}` : target)

export function Predictions({ predictions, labels }) {
  const { target, against, classes } = state.use()
  const [sought, seek] = useState("")
  const [all, showAll] = useState(false)
  const several = classes.length > 0
  const listed = useMemo(() => {
    const extra = [target, against, ...classes].filter((name) => name && !predictions.some((one) => nameOf(one) === name))
    const named = [target, against, ...classes]
    const best = predictions.filter((one, place) => all || place < FEW || named.includes(nameOf(one)))
    return [...best, ...[...new Set(extra)].map((name) => classOf(name, predictions, labels))]
  }, [predictions, target, against, classes, labels, all])

  const press = (one) => {
    const name = nameOf(one)
    if (several) {
      const next = classes.includes(name) ? classes.filter((own) => own !== name) : [...classes, name].slice(-8)
      change({ classes: next.length ? next : classes })
    } else if (target === name) change({ target: against, against: "" })
    else if (against === name) change({ against: "" })
    else if (target) change({ against: name })
    else change({ target: name })
  }
  const add = (event) => {
    event.preventDefault()
    const found = labels.findIndex((label) => label.toLowerCase() === sought.trim().toLowerCase())
    const index = found >= 0 ? found : /^\d+$/.test(sought.trim()) ? Number(sought) : -1
    if (index < 0) return
    press({ index })
    seek("")
  }
  const role = (name) => (several ? (classes.includes(name) ? "shown" : "") : target === name ? "target" : against === name ? "against" : "")
  const top = Math.max(...listed.map((one) => one.score ?? 0), 1e-9)
  const bounded = listed.every((one) => one.score === null || (one.score >= 0 && one.score <= 1))

  return html`<section class="predictions" aria-label="Predictions">
    <h2>Predictions</h2>
    <p class="asked">${several
      ? "Choose the classes to lay next to one another."
      : !target
        ? html`Explains <strong>the predicted class</strong>. Choose another, then one to contrast it with.`
        : html`Explains <strong>${describe(target, predictions, labels)}</strong>${against ? html` rather than <strong>${describe(against, predictions, labels)}</strong>` : ""}.
          <button type="button" class="link" onClick=${() => change({ target: "", against: "" })}>Clear</button>`}</p>
    <ul class="classes">${listed.map((one) => {
      const name = nameOf(one)
      return html`<li key=${name}><button type="button" class=${`class ${role(name)}`} aria-pressed=${role(name) !== ""} onClick=${() => press(one)}>
        <span class="bar" style=${{ width: `${(100 * Math.max(one.score ?? 0, 0)) / (bounded ? 1 : top)}%` }} aria-hidden="true"></span>
        <span class="name">${titleOf(one)}</span>
        ${role(name) && html`<span class="role">${role(name)}</span>`}
        <span class="score">${one.score === null ? "" : bounded ? percent(one.score) : one.score.toFixed(3)}</span>
      </button></li>`
    })}</ul>
    ${!all && predictions.length > FEW && html`<button type="button" class="link more" onClick=${() => showAll(true)}>More classes</button>`}
    ${labels.length > 0 && html`<form class="seek" onSubmit=${add}>
      <label class="unseen" for="seek-class">Another class</label>
      <input id="seek-class" list="labels" value=${sought} placeholder="another class…" onInput=${(event) => seek(event.target.value)} autocomplete="off" />
      <datalist id="labels">${(sought.length > 1 ? labels.filter((label) => label.toLowerCase().includes(sought.toLowerCase())).slice(0, 30) : []).map((label) => html`<option key=${label} value=${label} />`)}</datalist>
      <button type="submit" disabled=${!sought}>Add</button>
    </form>`}
    <${Check} label="Several classes side by side, on one scale" checked=${several}
      onChange=${(on) => change(({ look }) => ({ classes: on ? predictions.slice(0, 3).map(nameOf) : [], look: { ...look, scale: on ? "by_method" : "per_image" } }))} />
  </section>`
}
