// The colour maps of the server's pictures, as tables of 256 colours. Maps of hues fade where strength falls, sequential ones do not.

// 33 colours each, evenly spaced, of matplotlib's and ColorBrewer's maps.
const VIRIDIS =
  "440154470d6048186a482374472d7b4537814240863e49893b528b375b8d33638d2f6b8e2c728e297a8e26828e23898e21918c1f988b1fa08822a78528ae8032b67a3fbc734ec36b5ec96270cf5784d44b98d83eaddc30c2df23d8e219ece51bfde725"
const INFERNO =
  "0000040403120b0724150b37210c4a2f0a5b3d09654a0c6b57106e64156e71196e7d1e6d8a226a972766a32c61b0315bbc3754c73e4cd24644db503be45a31eb6628f1731df68013f98e09fb9d07fcac11fbbc21f9cb35f5db4cf2ea69f3f68afcffa4"
const MAGMA =
  "0000040303120a0822130d341d114729115a36106b440f7651127c5d177f6a1c81762181832681902a819c2e7faa337db73779c43c75d0416fdc4869e75263ef5d5ef56b5cf9795dfc8961fd9869fea772feb67cfec488fed395fde2a3fcf0b2fcfdbf"
const PLASMA =
  "0d08872206903105973f049c4c02a15901a56600a77201a87e03a88a09a59511a1a01a9caa2395b32c8ebc3587c43e7fcc4778d35171da5a6ae06363e66c5ceb7655f0804ef58b47f89540fba139fdac33feb82cfdc527fcd225f8df25f4ed27f0f921"
const TURBO =
  "23171b3e2a71493eae4a53d74569ee3c7ff83295f72ba9ef26bce125cdcf29dcbc32e9a73ff39350f98065fd6e7cfd5e95fb51adf545c5ec3cdae034ecd12efac029ffad24ff9821ff821dfd6c1af05616df4111cb2f0db61f07a31302950c00900c00"
const RED_BLUE =
  "67001f7e0823941127a81d2db82d35c6413fd1574bdb6d59e48268ec977af3aa8cf7bca0faccb4fbd9c7fae4d8f7ece5f2efeee9eff2deebf2d0e4efbfdcebadd2e598c7df82bad86bacd0569dc8448ec1367fb82a71ae2061a017518e0e4178053061"

const PINK = [240, 30, 150]
const GREEN = [40, 230, 60]
const RED = [240, 40, 40]

function gradient(text) {
  const at = (index) => [0, 2, 4].map((from) => parseInt(text.slice(6 * index + from, 6 * index + from + 2), 16))
  return (share) => {
    const place = Math.min(Math.max(share, 0), 1) * 32
    const index = Math.min(Math.floor(place), 31)
    const [one, other] = [at(index), at(index + 1)]
    return one.map((value, channel) => value + (other[channel] - value) * (place - index))
  }
}

const redBlue = gradient(RED_BLUE)
const sequential = (text) => ({ signed: false, fades: false, over: gradient(text), bare: gradient(text) })
const bySign = (negative, positive) => {
  const hue = (strength) => (strength < 0 ? negative : positive)
  return { signed: negative !== positive, fades: true, over: hue, bare: (strength) => hue(strength).map((value) => value * Math.abs(strength)) }
}

export const COLOUR_MAPS = {
  rd_bu: {
    signed: true,
    fades: true,
    // The middle, nearly white, is left out over a picture; blue stays lighter than red, also in grey.
    over: (strength) => redBlue(0.5 - 0.5 * (strength < 0 ? -(0.4 - 0.2 * strength) : 0.6 + 0.4 * strength)),
    bare: (strength) => redBlue(0.5 - 0.5 * strength),
  },
  pink_green: bySign(PINK, GREEN),
  red_green: bySign(RED, GREEN),
  red: bySign(RED, RED),
  green: bySign(GREEN, GREEN),
  viridis: sequential(VIRIDIS),
  inferno: sequential(INFERNO),
  magma: sequential(MAGMA),
  plasma: sequential(PLASMA),
  turbo: sequential(TURBO),
}

/** Those that a reader may choose, with what they are good for. */
export const COLOUR_MAP_OPTIONS = [
  { value: "rd_bu", label: "red–blue (signed)" },
  { value: "viridis", label: "viridis" },
  { value: "inferno", label: "inferno" },
  { value: "magma", label: "magma" },
  { value: "plasma", label: "plasma" },
  { value: "turbo", label: "turbo (not for the colour-blind)" },
  { value: "pink_green", label: "pink–green (signed)" },
  { value: "red_green", label: "red–green (not for the colour-blind)" },
  { value: "red", label: "red" },
  { value: "green", label: "green" },
]

const ENTRIES = 511
const tables = new Map()

/** 511 RGBA entries for strengths from -1 to 1, as they are laid over what is below. */
export function table({ color_map, overlay_type, alpha }) {
  const name = `${color_map} ${overlay_type} ${alpha}`
  if (!tables.has(name)) {
    const map = COLOUR_MAPS[color_map] ?? COLOUR_MAPS.rd_bu
    const entries = new Uint8ClampedArray(4 * ENTRIES)
    for (let at = 0; at < ENTRIES; at++) {
      const strength = at / 255 - 1
      const place = map.fades ? strength : Math.abs(strength)
      let colour = map.over(place)
      let opacity = map.fades ? alpha * Math.sqrt(Math.abs(strength)) : alpha
      if (overlay_type === "mask_black") [colour, opacity] = [[0, 0, 0], 1 - Math.sqrt(Math.abs(strength))]
      if (overlay_type === "none") [colour, opacity] = [map.bare(place), 1]
      entries.set([...colour, 255 * opacity], 4 * at)
    }
    if (tables.size > 200) tables.clear()
    tables.set(name, entries)
  }
  return tables.get(name)
}

/** The colour of a strength in the colour bar, as CSS has it. */
export function barColour(colorMap, strength) {
  const map = COLOUR_MAPS[colorMap] ?? COLOUR_MAPS.rd_bu
  const colour = map.fades ? map.bare(strength) : map.over(Math.abs(strength))
  return `rgb(${colour.map(Math.round).join(" ")})`
}
