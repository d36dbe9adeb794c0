// What a job found, as tables and curves.
import { html, number, useAsked } from "./ui.js"
import * as api from "./api.js"
import { Lines } from "./charts.js"

// Counted from 0 where the axis says a number, else shares of all.
const points = (curve, axis) => curve.map((value, at) => [axis.startsWith("number") ? at : at / Math.max(curve.length - 1, 1), value])

function Metric({ metric, axes }) {
  const curves = metric.rows.filter(({ mean_curve }) => mean_curve?.length)
  return html`<section class="finding"><h4>${metric.title} <span class="hint">${metric.better === "neither" ? "" : `${metric.better} is better`}</span></h4>
    ${curves.length > 0 && html`<${Lines} title=${`${metric.title}: mean curve`} x=${axes?.x ?? "share"} y=${axes?.y ?? "score"} series=${curves.map(({ title, mean_curve, band }) => ({ title, points: points(mean_curve, axes?.x ?? "share"), band }))} />`}
    <table class="numbers"><thead><tr><th scope="col">Method</th><th scope="col">value</th><th scope="col">95 %</th></tr></thead>
      <tbody>${metric.rows.map(({ title, value, interval }) => html`<tr key=${title}><th scope="row">${title}</th><td>${number(value)}</td><td>${interval && interval[0] !== interval[1] ? `${number(interval[0])} to ${number(interval[1])}` : "–"}</td></tr>`)}</tbody></table>
  </section>`
}

/** Of kinds `evaluate` and `degradation`, whose rows stand in the result itself. */
export function Findings({ result }) {
  const catalogue = useAsked((signal) => api.json("metrics-catalogue", { signal }), [])
  const axes = (id) => catalogue.value?.metrics.find((metric) => metric.id === id)?.curve
  if (Array.isArray(result?.metrics)) return html`${result.metrics.map((metric) => html`<${Metric} key=${metric.title} metric=${metric} axes=${axes(metric.id)} />`)}`
  if (!Array.isArray(result?.rows)) return null
  const rows = result.rows.map((row) => ({ ...row, value: row.area }))
  return html`<${Metric} metric=${{ title: result.metric, better: result.better, rows }} axes=${axes("degradation")} />`
}

const CURVES = [
  ["Loss", [["loss", "training"], ["validation_loss", "validation"]]],
  ["Accuracy", [["accuracy", "training"], ["validation_accuracy", "validation"]]],
]

/** Of a training. */
export function TrainingCurves({ epochs }) {
  const of = (name) => epochs.filter((epoch) => Number.isFinite(epoch[name])).map((epoch) => [epoch.epoch, epoch[name]])
  return html`${CURVES.map(([title, fields]) => {
    const series = fields.map(([name, label]) => ({ title: label, points: of(name) })).filter(({ points: found }) => found.length)
    return series.length ? html`<${Lines} key=${title} title=${title} x="epoch" y=${title.toLowerCase()} series=${series} />` : null
  })}`
}
