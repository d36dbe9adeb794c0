// One map on its picture: a canvas, its colour bar, and the value under the cursor, which all maps of the page share.
import { html, number, shared, useEffect, useLayoutEffect, useMemo, useRef } from "./ui.js"
import { barColour, COLOUR_MAPS, table } from "./colours.js"
import { extremes, paint } from "./tiles.js"
import { applyTool, mask, tool } from "./regions.js"

/** The longest side of a canvas, in pixels. */
const SIDES = [480, 960]
const DIMMED = 0.55
const BAR_STOPS = 33

/** In pixels of the picture, where maps are compared. */
const cursor = shared(null)

/** What the network saw of the picture, and the part that is drawn. */
function placement(answer, plane, view) {
  const own = { left: 0, top: 0, width: plane.width, height: plane.height }
  const crop = answer.image?.crop ?? own
  const whole = answer.image ? { left: 0, top: 0, width: answer.image.width, height: answer.image.height } : own
  return { crop, region: view === "crop" ? crop : whole }
}

function canvasSize({ width, height }) {
  const longest = Math.max(width, height)
  const scale = Math.min(Math.max(longest, SIDES[0]), SIDES[1]) / longest
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) }
}

const grounds = new WeakMap()

/** The picture below the colours. */
function ground(bitmap, region, size, type) {
  const name = `${type} ${region.left} ${region.top} ${region.width} ${region.height} ${size.width} ${size.height}`
  if (!grounds.has(bitmap)) grounds.set(bitmap, new Map())
  const known = grounds.get(bitmap)
  if (!known.has(name)) {
    if (known.size > 16) known.clear()
    const canvas = new OffscreenCanvas(size.width, size.height)
    const context = canvas.getContext("2d", { willReadFrequently: true })
    context.fillStyle = "white"
    context.fillRect(0, 0, size.width, size.height)
    context.drawImage(bitmap, region.left, region.top, region.width, region.height, 0, 0, size.width, size.height)
    if (type === "grayscale" || type === "faded") {
      const pixels = context.getImageData(0, 0, size.width, size.height)
      const { data } = pixels
      for (let at = 0; at < data.length; at += 4) {
        const luma = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2]
        data[at] = data[at + 1] = data[at + 2] = type === "faded" ? 255 - (255 - luma) / 4 : luma
      }
      context.putImageData(pixels, 0, 0)
    }
    known.set(name, canvas)
  }
  return known.get(name)
}

/** Draws a map as it is looked at; for the page and for its PNG. */
export function draw(canvas, { answer, plane, bound, options, bitmap, painted }) {
  const { crop, region } = placement(answer, plane, options.view)
  const size = canvasSize(region)
  if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size)
  const context = canvas.getContext("2d", { willReadFrequently: true })
  const type = options.overlay_type
  context.clearRect(0, 0, size.width, size.height)
  context.fillStyle = type === "mask_black" ? "black" : "white"
  context.fillRect(0, 0, size.width, size.height)
  if (bitmap && type !== "none") context.drawImage(ground(bitmap, region, size, type), 0, 0)
  const scale = size.width / region.width
  const place = [(crop.left - region.left) * scale, (crop.top - region.top) * scale, crop.width * scale, crop.height * scale]
  const [left, top, width, height] = place
  const outside = (style) => {
    context.fillStyle = style
    context.beginPath()
    context.rect(0, 0, size.width, size.height)
    context.rect(left, top, width, height)
    context.fill("evenodd")
  }
  if (type === "mask_black") outside("black")
  else if (bound && !(COLOUR_MAPS[options.color_map]?.fades ?? true)) outside(`rgb(0 0 0 / ${DIMMED})`)
  if (bound || type === "mask_black") {
    const tile = new OffscreenCanvas(plane.width, plane.height)
    tile.getContext("2d").putImageData(paint(plane, bound, options.polarity, table(options)), 0, 0)
    context.imageSmoothingEnabled = options.smooth
    context.imageSmoothingQuality = "medium"
    context.drawImage(tile, ...place)
  }
  if (width < size.width - 1 || height < size.height - 1) {
    for (const [style, far] of [["black", 0.5], ["white", 1.5]]) {
      context.strokeStyle = style
      context.lineWidth = 1
      context.strokeRect(left - far, top - far, width + 2 * far, height + 2 * far)
    }
  }
  if (painted?.count) {
    const share = painted.canvas.width / (answer.image?.width ?? plane.width)
    hatch(context, (layer) => layer.drawImage(painted.canvas, region.left * share, region.top * share, region.width * share, region.height * share, 0, 0, size.width, size.height))
  }
}

/** Stripes where `shape` draws: no colour map has them. */
function hatch(context, shape) {
  const { width, height } = context.canvas
  const layer = new OffscreenCanvas(width, height).getContext("2d")
  layer.imageSmoothingEnabled = false
  shape(layer)
  layer.globalCompositeOperation = "source-in"
  layer.fillStyle = "rgb(255 255 255 / 35%)"
  layer.fillRect(0, 0, width, height)
  layer.globalCompositeOperation = "source-atop"
  layer.lineWidth = 2.5
  for (const [style, shift] of [["white", 0], ["black", 3.5]]) {
    layer.strokeStyle = style
    layer.beginPath()
    for (let x = -height; x < width; x += 12) {
      layer.moveTo(x + shift, height)
      layer.lineTo(x + shift + height, 0)
    }
    layer.stroke()
  }
  context.drawImage(layer.canvas, 0, 0)
}

/** The pixel of the map under a place of the picture; null outside of it. */
function pixelAt(place, { crop }, plane) {
  const x = Math.floor(((place.x - crop.left) / crop.width) * plane.width)
  const y = Math.floor(((place.y - crop.top) / crop.height) * plane.height)
  return x >= 0 && y >= 0 && x < plane.width && y < plane.height ? { x, y, value: plane.values[y * plane.width + x] } : null
}

function Bar({ options, bound, value }) {
  if (!bound) return html`<p class="hint">Nothing to show: no value of this sign.</p>`
  const [from, to] = options.polarity === "positive" ? [0, 1] : options.polarity === "negative" ? [-1, 0] : COLOUR_MAPS[options.color_map]?.signed ? [-1, 1] : [0, 1]
  const stops = Array.from({ length: BAR_STOPS }, (_, at) => barColour(options.color_map, from + ((to - from) * at) / (BAR_STOPS - 1)))
  const at = (share) => number(share * bound.upper)
  const span = (bound.upper - bound.lower) || bound.upper
  const strength = value === null ? null : Math.sign(value) * Math.min(Math.max((Math.abs(value) - bound.lower) / span, 0), 1)
  const place = strength === null ? null : (Math.min(Math.max(from === 0 && to === 1 && options.polarity === "both" ? Math.abs(strength) : strength, from), to) - from) / (to - from)
  const ends = from < 0 && to > 0 ? [at(-1), bound.lower ? `±${number(bound.lower)}` : "0", at(1)] : from < 0 ? [at(-1), bound.lower ? number(-bound.lower) : "0"] : [bound.lower ? number(bound.lower) : "0", at(1)]
  return html`<div class="bar-box"><div class="colour-bar" style=${{ background: `linear-gradient(to right, ${stops.join(",")})` }} role="img" aria-label=${`Colours from ${ends[0]} to ${ends.at(-1)}`}>
    ${place !== null && html`<i style=${{ left: `${100 * place}%` }}></i>`}</div>
    <div class="ticks" aria-hidden="true">${ends.map((text, index) => html`<span key=${index}>${text}</span>`)}</div></div>`
}

const side = (at, of, names) => names[Math.min(2, Math.floor((3 * at) / of))]
const where = ({ x, y }, { width, height }) => `${side(y, height, ["upper", "middle", "lower"])} ${side(x, width, ["left", "centre", "right"])}`

/** What a reader who does not see the map is told of it. */
function told(title, plane) {
  const { most, least } = extremes(plane)
  const lowest = least.value < 0 ? ` The lowest, ${number(least.value)}, is in the ${where(least, plane)}.` : ""
  return `${title}. The highest value, ${number(most.value)}, is in the ${where(most, plane)}, column ${most.x}, row ${most.y} of ${plane.width} by ${plane.height}.${lowest} Arrow keys move the cursor.`
}

function Readout({ answer, plane, options, bound, title }) {
  const place = cursor.use()
  const pixel = place && pixelAt(place, placement(answer, plane, options.view), plane)
  return html`<${Bar} options=${options} bound=${bound} value=${pixel ? pixel.value : null} />
    <p class="readout" aria-label=${`Value of ${title} under the cursor`}>${pixel ? html`<b>${number(pixel.value)}</b> <span class="hint">at ${pixel.x}, ${pixel.y}</span>` : html`<span class="hint">${place ? "outside of what the network saw" : "point at the map for a value"}</span>`}</p>`
}

function Cross({ answer, plane, options }) {
  const place = cursor.use()
  if (!place) return null
  const { region } = placement(answer, plane, options.view)
  const [x, y] = [(place.x - region.left) / region.width, (place.y - region.top) / region.height]
  if (x < 0 || y < 0 || x > 1 || y > 1) return null
  return html`<i class="cross across" style=${{ top: `${100 * y}%` }}></i><i class="cross down" style=${{ left: `${100 * x}%` }}></i>`
}

export function MapView({ answer, plane, bound, options, bitmap, title, segments }) {
  const canvas = useRef(null)
  const painted = mask.use()
  const active = tool.use()
  const { region } = placement(answer, plane, options.view)
  useLayoutEffect(() => {
    draw(canvas.current, { answer, plane, bound, options, bitmap, painted })
  }, [answer, plane, bound?.lower, bound?.upper, JSON.stringify(options), bitmap, painted])
  const label = useMemo(() => told(title, plane), [title, plane])

  const placeOf = (event) => {
    const box = canvas.current.getBoundingClientRect()
    return { x: region.left + ((event.clientX - box.left) / box.width) * region.width, y: region.top + ((event.clientY - box.top) / box.height) * region.height }
  }
  const use = (event) => {
    const place = placeOf(event)
    cursor.set(place)
    if (active.kind !== "look" && event.buttons & 1) applyTool(place, { answer, plane, segments, first: event.type === "pointerdown" })
  }
  const keys = (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key]
    const from = cursor.get() ?? { x: region.left + region.width / 2, y: region.top + region.height / 2 }
    if (steps) {
      const far = (event.shiftKey ? 20 : 2) * (region.width / plane.width)
      cursor.set({ x: Math.min(Math.max(from.x + steps[0] * far, 0), region.left + region.width - 1), y: Math.min(Math.max(from.y + steps[1] * far, 0), region.top + region.height - 1) })
    } else if ((event.key === "Enter" || event.key === " ") && active.kind !== "look") applyTool(from, { answer, plane, segments, first: true })
    else if (event.key === "Escape") cursor.set(null)
    else return
    event.preventDefault()
  }
  // A touch that paints does not scroll.
  useEffect(() => {
    canvas.current.style.touchAction = active.kind === "look" ? "auto" : "none"
  }, [active.kind])

  return html`<div class="map">
    <div class="frame" onPointerLeave=${() => cursor.set(null)}>
      <canvas ref=${canvas} tabindex="0" role="img" aria-label=${label} class=${active.kind === "look" ? "" : "tool"}
        onPointerMove=${use} onPointerDown=${(event) => {
          if (active.kind !== "look") event.target.setPointerCapture(event.pointerId)
          use(event)
        }} onKeyDown=${keys}></canvas>
      <${Cross} answer=${answer} plane=${plane} options=${options} />
    </div>
    <${Readout} answer=${answer} plane=${plane} options=${options} bound=${bound} title=${title} />
  </div>`
}
