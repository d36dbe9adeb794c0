// Every call to the server. Addresses are relative to the page, so that it works behind a proxy's prefix.
import { shared } from "./ui.js"

const KEY = "explaind.key"
const PROBE_MS = 2000

/** Whether the last call reached the server. */
export const reachable = shared(true)
/** Whether the server asked for a key that it was not given. */
export const asksKey = shared(false)

export class Problem extends Error {
  constructor({ status = 0, code = "", title, detail, errors, cost }) {
    super(detail || title)
    Object.assign(this, { status, code, title, errors, cost })
  }
}

export const address = (path) => new URL(`./${path}`, document.baseURI).href

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
}

let probing = false
async function probe() {
  if (probing) return
  probing = true
  while (!reachable.get()) {
    await new Promise((resolve) => setTimeout(resolve, PROBE_MS))
    try {
      await fetch(address("healthz"), { cache: "no-store" })
      reachable.set(true)
    } catch {
      // Tried again.
    }
  }
  probing = false
}

async function problemOf(response) {
  const text = await response.text()
  try {
    return new Problem({ ...JSON.parse(text), status: response.status })
  } catch {
    return new Problem({ status: response.status, title: `The server answered ${response.status}`, detail: text.slice(0, 400) })
  }
}

/** The response of a call that succeeded; a Problem otherwise. */
export async function send(path, { method = "GET", query, body, json, signal, headers = {} } = {}) {
  const url = new URL(address(path))
  for (const [name, value] of Object.entries(query ?? {})) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== undefined && one !== null && one !== "") url.searchParams.append(name, one)
  }
  const given = { ...headers }
  if (json !== undefined) given["content-type"] = "application/json"
  if (key.get()) given.authorization = `Bearer ${key.get()}`
  let response
  try {
    response = await fetch(url, { method, body: json === undefined ? body : JSON.stringify(json), signal, headers: given })
  } catch (error) {
    if (error.name === "AbortError") throw error
    reachable.set(false)
    probe()
    throw new Problem({ code: "unreachable", title: "The server does not answer", detail: "Nothing here is lost: try again when it is back." })
  }
  if (!reachable.get()) reachable.set(true)
  if (response.status === 401) asksKey.set(true)
  if (!response.ok) throw await problemOf(response)
  return response
}

export const json = async (path, options) => (await send(path, options)).json()
export const blob = async (path, options) => (await send(path, options)).blob()
export const text = async (path, options) => (await send(path, options)).text()

/** Server-sent events, until the stream ends. An EventSource could not send a key. */
export async function events(path, onEvent, signal) {
  const response = await send(path, { signal, headers: { accept: "text/event-stream" } })
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let waiting = ""
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    waiting += value.replace(/\r/g, "")
    let end
    while ((end = waiting.indexOf("\n\n")) >= 0) {
      const lines = waiting.slice(0, end).split("\n")
      waiting = waiting.slice(end + 2)
      const field = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trim()).join("\n")
      if (field("data")) onEvent({ event: field("event"), id: field("id"), data: JSON.parse(field("data")) })
    }
  }
}

/** The form of an input with its parameters. */
export function form(image, params) {
  const form = new FormData()
  form.append("image", image, image.name ?? "image")
  form.append("params", JSON.stringify(params))
  return form
}
