// Files made and read in the browser: npy, zip without compression, tar, downloads.

export function save(name, data, type = "application/octet-stream") {
  const blob = data instanceof Blob ? data : new Blob([data], { type })
  const link = document.createElement("a")
  link.href = URL.createObjectURL(blob)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000)
}

/** The little-endian float32 array as NumPy stores it. */
export function npy(values, shape) {
  const shapeText = `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`
  const head = `{'descr': '<f4', 'fortran_order': False, 'shape': ${shapeText}, }`
  const length = Math.ceil((10 + head.length + 1) / 64) * 64 - 10
  const bytes = new Uint8Array(10 + length + values.byteLength)
  bytes.set([0x93, ...new TextEncoder().encode("NUMPY"), 1, 0, length & 255, length >> 8])
  bytes.set(new TextEncoder().encode(head.padEnd(length - 1) + "\n"), 10)
  bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), 10 + length)
  return bytes
}

const CRC = Uint32Array.from({ length: 256 }, (_, at) => {
  for (let bit = 0; bit < 8; bit++) at = at & 1 ? 0xedb88320 ^ (at >>> 1) : at >>> 1
  return at
})
function crc32(bytes) {
  let crc = ~0
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8)
  return ~crc >>> 0
}

/** A zip of stored files: `[[name, Uint8Array]]`. */
export function zip(entries) {
  const parts = []
  const directory = []
  let offset = 0
  for (const [name, bytes] of entries) {
    const path = new TextEncoder().encode(name)
    const common = new Uint8Array(26)
    const view = new DataView(common.buffer)
    view.setUint16(0, 20, true)
    view.setUint16(2, 0x800, true)
    view.setUint16(8, 0x21, true)
    view.setUint32(10, crc32(bytes), true)
    view.setUint32(14, bytes.length, true)
    view.setUint32(18, bytes.length, true)
    view.setUint16(22, path.length, true)
    parts.push(Uint8Array.of(0x50, 0x4b, 3, 4), common, path, bytes)
    const rest = new Uint8Array(14)
    new DataView(rest.buffer).setUint32(10, offset, true)
    directory.push(Uint8Array.of(0x50, 0x4b, 1, 2, 20, 0), common, rest, path)
    offset += 30 + path.length + bytes.length
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0)
  const end = new Uint8Array(22)
  const view = new DataView(end.buffer)
  view.setUint32(0, 0x06054b50, true)
  view.setUint16(8, entries.length, true)
  view.setUint16(10, entries.length, true)
  view.setUint32(12, length, true)
  view.setUint32(16, offset, true)
  return new Blob([...parts, ...directory, end], { type: "application/zip" })
}

/** The plain files of a tar: `[[name, Uint8Array]]`. */
export function untar(buffer) {
  const bytes = new Uint8Array(buffer)
  const text = (from, length) => new TextDecoder().decode(bytes.subarray(from, from + length)).replace(/\0.*$/s, "")
  const files = []
  for (let at = 0; at + 512 <= bytes.length && bytes[at] !== 0; ) {
    const length = parseInt(text(at + 124, 12).trim(), 8)
    const type = bytes[at + 156]
    if (type === 0 || type === 48) files.push([text(at, 100), bytes.slice(at + 512, at + 512 + length)])
    at += 512 + Math.ceil(length / 512) * 512
  }
  return files
}
