// Metrics of the maps that are shown: those that answers state, and on request deletion and insertion curves, measured by a job on this picture.
import { announce, Busy, Fault, html, number, useEffect, useRef, useState } from "./ui.js"
import * as api from "./api.js"
import { keep } from "./export.js"
import { mask } from "./regions.js"
import { asked, change, state } from "./state.js"
import { Findings } from "./findings.js"

/** Follows a job to its end; its last state. */
async function followJob(id, onProgress, signal) {
  await api.events(`jobs/${id}/events`, ({ data }) => onProgress(data), signal)
  return api.json(`jobs/${id}`, { signal })
}

function Measured({ cells, picture }) {
  const { image, methods, model } = state.use()
  const painted = mask.use()
  const [progress, setProgress] = useState(null)
  const [found, setFound] = useState(null)
  const [problem, setProblem] = useState(null)
  const running = useRef(null)
  useEffect(() => () => running.current?.abort(), [])

  const measure = async () => {
    const stop = new AbortController()
    running.current = stop
    setProblem(null)
    setFound(null)
    setProgress("Keeping the picture on the server…")
    try {
      // The region has to be in the set, so a painted picture is kept anew.
      let id = image.startsWith("dataset:kept-") && !painted ? image.slice("dataset:".length).split("/")[0] : null
      if (!id) {
        id = await keep(picture)
        if (!image) change({ image: `dataset:${id}/0` })
      }
      const metrics = ["deletion", "insertion", ...(painted ? ["pointing_game", "energy_pointing", "relevance_rank"] : [])]
      const job = await api.json("jobs", { method: "POST", json: { kind: "evaluate", dataset: id, labels: "ignore", model: model || cells[0].answer.model, methods: methods.map(asked), metrics } })
      setProgress("Measuring…")
      const end = await followJob(job.id, () => {}, stop.signal)
      if (end.state !== "succeeded") throw new api.Problem({ title: `The job ${end.state}`, detail: end.error ?? "" })
      setFound({ id: job.id, result: end.result })
      announce("Metrics measured")
    } catch (error) {
      if (error.name !== "AbortError") setProblem(error)
    }
    setProgress(null)
  }

  return html`<div class="measured">
    <p class="buttons"><button type="button" onClick=${measure} disabled=${Boolean(progress) || !methods.length}>Measure deletion and insertion</button></p>
    <p class="hint">A job on this picture, for the predicted class${painted ? "; the painted region is taken as the object" : ""}. The picture is kept on the server for it.</p>
    ${progress && html`<${Busy}>${progress}</${Busy}>`}
    <${Fault} problem=${problem} onClose=${() => setProblem(null)} />
    ${found && html`<${Findings} result=${found.result} />
      <p><a href="#" onClick=${(event) => {
        event.preventDefault()
        change({ view: "jobs", open: found.id })
      }}>The job and its report</a></p>`}
  </div>`
}

export function Metrics({ cells, picture, catalogue }) {
  const ids = [...new Set(cells.flatMap(({ answer }) => Object.keys(answer.metrics ?? {})))]
  const about = (id) => catalogue?.find((metric) => metric.id === id)
  const complete = cells.some(({ answer }) => answer.convergence_delta !== undefined)
  const errors = complete && cells.some(({ answer }) => answer.approximation_error !== undefined)
  return html`<div class="metrics">
    ${(ids.length > 0 || complete) && html`<div class="scroll"><table class="numbers"><thead><tr><th scope="col">Map</th>
      ${complete && html`<th scope="col" title="Sum of the attribution minus f(x) − f(x′): 0 where the map is complete">Δ complete</th>`}
      ${errors && html`<th scope="col" title="|Δ| / |f(x) − f(x′)|">error</th>`}
      ${ids.map((id) => html`<th scope="col" key=${id} title=${`${about(id)?.value ?? id}: ${about(id)?.better ?? ""} is better`}>${about(id)?.title ?? id}</th>`)}</tr></thead>
      <tbody>${cells.map(({ key, short, answer }) => html`<tr key=${key}><th scope="row">${short}</th>
        ${complete && html`<td>${number(answer.convergence_delta)}</td>`}${errors && html`<td>${number(answer.approximation_error)}</td>`}
        ${ids.map((id) => html`<td key=${id}>${number(answer.metrics?.[id])}</td>`)}</tr>`)}</tbody></table></div>`}
    <${Measured} cells=${cells} picture=${picture} />
  </div>`
}
