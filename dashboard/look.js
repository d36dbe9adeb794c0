// How maps are looked at: changed here alone, without asking the server.
import { Check, Choice, html, Select, Slider } from "./ui.js"
import { COLOUR_MAP_OPTIONS } from "./colours.js"
import { change, changeLook, LOOK, state } from "./state.js"

/** The options of one map: the reader's, and where there are none, those of the method's pictures. */
export function optionsOf(look, defaults) {
  const options = { ...look }
  for (const [name, value] of Object.entries(look)) if (value === null) options[name] = defaults[name]
  return options
}

const OWN = { value: "", label: "as the method's maps are" }
const text = (value) => value ?? ""
const orOwn = (value) => (value === "" ? null : value)

/** `defaults`: of the first map, where sliders stand before they are moved. */
export function Look({ defaults }) {
  const { look } = state.use()
  const shown = optionsOf(look, defaults)
  const isOwn = JSON.stringify(look) === JSON.stringify({ ...LOOK, scale: look.scale })
  return html`<div class="look">
    <${Choice} label="Scale" value=${look.scale} onChange=${(scale) => changeLook({ scale })} options=${[{ value: "per_image", label: "each its own" }, { value: "by_method", label: "by method" }, { value: "shared", label: "all" }]} />
    <${Slider} label="Opacity" min=${0} max=${1} step=${0.01} value=${shown.alpha} onInput=${(alpha) => changeLook({ alpha })} format=${(value) => `${Math.round(100 * value)} %`} />
    <${Select} label="Colour map" value=${text(look.color_map)} onChange=${(value) => changeLook({ color_map: orOwn(value) })} options=${[OWN, ...COLOUR_MAP_OPTIONS]} />
    <${Select} label="Sign" value=${text(look.polarity)} onChange=${(value) => changeLook({ polarity: orOwn(value) })} options=${[OWN, { value: "both", label: "both" }, { value: "positive", label: "for the class" }, { value: "negative", label: "against the class" }]} />
    <${Select} label="Picture below" value=${text(look.overlay_type)} onChange=${(value) => changeLook({ overlay_type: orOwn(value) })} options=${[
      OWN, { value: "original", label: "in colour" }, { value: "grayscale", label: "grey" }, { value: "faded", label: "faded" }, { value: "none", label: "none" }, { value: "mask_black", label: "only where there is attribution" },
    ]} />
    <${Select} label="Channels" value=${text(look.reduction)} onChange=${(value) => changeLook({ reduction: orOwn(value) })} options=${[
      OWN, { value: "sum", label: "signed sum" }, { value: "abs_sum", label: "sum of magnitudes" }, { value: "l2", label: "root of the sum of squares" }, { value: "max", label: "largest" },
    ]} />
    <${Slider} label="Hide below percentile" min=${0} max=${99} step=${1} value=${shown.clip_percent_lowerbound} onInput=${(value) => changeLook({ clip_percent_lowerbound: value, ...(value >= shown.clip_percent_upperbound ? { clip_percent_upperbound: Math.min(100, value + 1) } : {}) })} />
    <${Slider} label="Full strength from percentile" min=${1} max=${100} step=${0.5} value=${shown.clip_percent_upperbound} onInput=${(value) => changeLook({ clip_percent_upperbound: value, ...(value <= shown.clip_percent_lowerbound ? { clip_percent_lowerbound: Math.max(0, value - 1) } : {}) })} />
    <${Slider} label="Only the strongest" min=${1} max=${100} step=${1} value=${look.top_percent} onInput=${(top_percent) => changeLook({ top_percent })} format=${(value) => (value === 100 ? "all" : `${value} %`)} />
    <${Choice} label="Show" value=${look.view} onChange=${(view) => changeLook({ view })} options=${[{ value: "photo", label: "whole picture" }, { value: "crop", label: "what it saw" }]} />
    <${Check} label="Smooth between pixels" checked=${look.smooth} onChange=${(smooth) => changeLook({ smooth })} />
    <button type="button" class="link" disabled=${isOwn} onClick=${() => change({ look: { ...LOOK, scale: look.scale } })}>Reset</button>
  </div>`
}
