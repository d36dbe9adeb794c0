// Curves as SVG, each with a table of its ends for who does not see them.
import { html, number, useId, useState } from "./ui.js"

// Okabe and Ito's colours, which the colour-blind tell apart, and dashes for when there are more.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"]
const DASHES = ["", "6 3", "2 3"]
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [420, 230, 46, 34, 8, 10]

function ticks(low, high, count = 4) {
  const raw = (high - low) / count || 1
  const power = 10 ** Math.floor(Math.log10(raw))
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((own) => own >= raw)
  const found = []
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Math.abs(at) < step * 1e-9 ? 0 : at)
  return found
}

/** `series`: `[{ title, points: [[x, y]], band?: [[low, high]] }]`. */
export function Lines({ title, x, y, series }) {
  const [only, see] = useState(null)
  const id = useId()
  const all = series.flatMap(({ points }) => points).filter((point) => point.every(Number.isFinite))
  if (!all.length) return null
  const span = (values, least) => {
    const [low, high] = [Math.min(...values, least ?? Infinity), Math.max(...values)]
    return low === high ? [low - 0.5, high + 0.5] : [low, high]
  }
  const [x0, x1] = span(all.map(([at]) => at))
  const [y0, y1] = span([...all.map(([, value]) => value), ...series.flatMap(({ band }) => (band ?? []).flat())], all.every(([, value]) => value >= 0) ? 0 : undefined)
  const px = (value) => LEFT + ((value - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT)
  const py = (value) => HEIGHT - BOTTOM - ((value - y0) / (y1 - y0)) * (HEIGHT - BOTTOM - TOP)
  const path = (points) => points.map(([at, value], index) => `${index ? "L" : "M"}${px(at).toFixed(1)} ${py(value).toFixed(1)}`).join("")
  const colour = (at) => COLOURS[at % COLOURS.length]
  return html`<figure class="chart"><figcaption id=${id}>${title}</figcaption>
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-labelledby=${id}>
      ${ticks(y0, y1).map((value) => html`<g key=${`y${value}`}><line class="rule" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${py(value)} y2=${py(value)} /><text x=${LEFT - 6} y=${py(value) + 3.5} text-anchor="end">${number(value)}</text></g>`)}
      ${ticks(x0, x1, 5).map((value) => html`<text key=${`x${value}`} x=${px(value)} y=${HEIGHT - BOTTOM + 15} text-anchor="middle">${number(value)}</text>`)}
      <text class="axis" x=${(LEFT + WIDTH) / 2} y=${HEIGHT - 4} text-anchor="middle">${x}</text>
      <text class="axis" transform=${`translate(11 ${(HEIGHT - BOTTOM) / 2}) rotate(-90)`} text-anchor="middle">${y}</text>
      ${series.map(({ points, band }, at) => html`<g key=${at} class=${only !== null && only !== at ? "faint" : ""}>
        ${band && html`<path fill=${colour(at)} opacity="0.12" d=${`${path(points.map(([place], index) => [place, band[index][0]]))}${path(points.map(([place], index) => [place, band[index][1]]).reverse()).replace("M", "L")}Z`} />`}
        <path fill="none" stroke=${colour(at)} stroke-width="2" stroke-dasharray=${DASHES[Math.floor(at / COLOURS.length) % DASHES.length]} d=${path(points)} />
        ${points.length === 1 && html`<circle cx=${px(points[0][0])} cy=${py(points[0][1])} r="3" fill=${colour(at)} />`}</g>`)}
    </svg>
    <ul class="key">${series.map(({ title: name, points }, at) => html`<li key=${at} onPointerEnter=${() => see(at)} onPointerLeave=${() => see(null)}><svg width="22" height="8" aria-hidden="true"><line x1="0" x2="22" y1="4" y2="4" stroke=${colour(at)} stroke-width="2.5" stroke-dasharray=${DASHES[Math.floor(at / COLOURS.length) % DASHES.length]} /></svg>${name}<span class="unseen">: from ${number(points[0]?.[1])} to ${number(points.at(-1)?.[1])}</span></li>`)}</ul>
  </figure>`
}
