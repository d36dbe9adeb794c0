// Maps as float tiles: decoded once, reduced, bounded and scaled here as the server's pictures are (src/render/plane.rs).

export function decode({ data, shape }) {
  const text = atob(data)
  const bytes = new Uint8Array(text.length)
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at)
  return { values: new Float32Array(bytes.buffer), shape }
}

export function decodeLabels({ data, shape }) {
  const { values } = decode({ data, shape })
  return { values: new Int32Array(values.buffer), shape }
}

/** One value a pixel: `{ values, width, height }`. */
export function reduce({ values, shape }, layout, reduction) {
  const nhwc = layout === "nhwc"
  const [channels, height, width] = shape.length === 2 ? [1, ...shape] : nhwc ? [shape[2], shape[0], shape[1]] : shape
  const pixels = height * width
  const plane = new Float32Array(pixels)
  for (let pixel = 0; pixel < pixels; pixel++) {
    let found = reduction === "max" ? -Infinity : 0
    for (let channel = 0; channel < channels; channel++) {
      const value = values[nhwc ? pixel * channels + channel : channel * pixels + pixel]
      if (reduction === "abs_sum") found += Math.abs(value)
      else if (reduction === "max") found = Math.max(found, value)
      else if (reduction === "l2") found += value * value
      else found += value
    }
    plane[pixel] = reduction === "l2" ? Math.sqrt(found) : found
  }
  return { values: plane, width, height }
}

const shown = (value, polarity) => (polarity === "positive" ? Math.max(value, 0) : polarity === "negative" ? Math.min(value, 0) : value)

function sorted(planes, polarity) {
  const all = []
  for (const { values } of planes) for (const value of values) all.push(Math.abs(shown(value, polarity)))
  return Float32Array.from(all).sort()
}
const magnitudes = new WeakMap()
function sortedOf(plane, polarity) {
  if (!magnitudes.has(plane)) magnitudes.set(plane, {})
  const known = magnitudes.get(plane)
  return (known[polarity] ??= sorted([plane], polarity))
}

/** The magnitudes of strength 0 and 1 of a sorted list; null where there is nothing to show. */
function measure(list, { clip_percent_lowerbound: low, clip_percent_upperbound: high, top_percent: top }) {
  if (!list.length || list.at(-1) === 0 || !Number.isFinite(list.at(-1))) return null
  if (top < 100) {
    const weakest = list[list.length - Math.max(1, Math.ceil((top / 100) * list.length))]
    return { lower: weakest, upper: weakest }
  }
  const first = list.findIndex((value) => value > 0)
  const count = list.length - first
  const at = (percent) => list[first + Math.min(Math.max(Math.ceil((percent / 100) * count) - 1, 0), count - 1)]
  return { lower: low > 0 ? at(low) : 0, upper: at(high) }
}

/** The bounds of planes that share a scale: those of all together, by the percentiles of the first. Only the strongest are each plane's own. */
export function bounds(planes, options) {
  const own = planes.map((plane, at) => measure(sortedOf(plane, options[at].polarity), options[at]))
  if (planes.length === 1 || options[0].top_percent < 100) return own
  const lists = planes.map((plane, at) => sortedOf(plane, options[at].polarity))
  const all = new Float32Array(lists.reduce((sum, list) => sum + list.length, 0))
  let place = 0
  for (const list of lists) {
    all.set(list, place)
    place += list.length
  }
  const common = measure(all.sort(), options[0])
  return planes.map(() => common)
}

/** RGBA pixels of a plane by a table of colours. */
export function paint(plane, bound, polarity, table) {
  const pixels = new ImageData(plane.width, plane.height)
  const { data } = pixels
  const words = new Uint32Array(data.buffer)
  const colours = new Uint32Array(table.buffer)
  const { lower, upper } = bound ?? { lower: Infinity, upper: Infinity }
  const scale = upper > lower ? 1 / (upper - lower) : 0
  for (let at = 0; at < words.length; at++) {
    const value = shown(plane.values[at], polarity)
    const magnitude = Math.abs(value)
    let strength = magnitude >= upper ? 1 : Math.max((magnitude - lower) * scale, 0)
    if (value === 0 || !(magnitude >= 0)) strength = 0
    words[at] = colours[Math.round(255 + 255 * (value < 0 ? -strength : strength))]
  }
  return pixels
}

/** Where the largest and smallest values are, and how much lies in a region. */
export function extremes({ values, width }) {
  let [most, least] = [0, 0]
  for (let at = 1; at < values.length; at++) {
    if (values[at] > values[most]) most = at
    if (values[at] < values[least]) least = at
  }
  const place = (at) => ({ x: at % width, y: Math.floor(at / width), value: values[at] })
  return { most: place(most), least: place(least) }
}
