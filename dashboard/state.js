// What the page shows, kept in the address after `#`: the same address opens the same view, also after a restart of the server.
import { shared } from "./ui.js"

const VIEWS = ["explain", "datasets", "jobs", "models"]

/** How maps are looked at. `null`: as the method's pictures are by default. */
export const LOOK = {
  view: "photo",
  overlay_type: null,
  color_map: null,
  polarity: null,
  reduction: null,
  alpha: null,
  clip_percent_lowerbound: null,
  clip_percent_upperbound: null,
  top_percent: 100,
  scale: "per_image",
  smooth: true,
}

const START = {
  view: "explain",
  /** Of a job or a data set that is open in its view. */
  open: "",
  /** `dataset:ID/INDEX` or `example:NAME`; empty for a picture that only this page has. */
  image: "",
  model: "",
  /** A second model beside it. */
  beside: "",
  methods: [],
  target: "",
  against: "",
  /** Classes next to one another; empty to explain the target alone. */
  classes: [],
  look: LOOK,
}

function read(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""))
  const view = VIEWS.includes(given.get("view")) ? given.get("view") : "explain"
  const list = (name) => {
    try {
      const value = JSON.parse(given.get(name) ?? "[]")
      return Array.isArray(value) ? value : []
    } catch {
      return []
    }
  }
  const look = { ...LOOK }
  for (const name of Object.keys(LOOK)) {
    const text = given.get(`look.${name}`)
    if (text === null) continue
    look[name] = name === "smooth" ? text === "true" : Number.isFinite(Number(text)) && text !== "" ? Number(text) : text
  }
  const methods = list("methods")
    .map((method) => (typeof method === "string" ? { id: method, params: {} } : { id: method.id, params: { ...method, id: undefined } }))
    .filter((method) => typeof method.id === "string")
  for (const method of methods) delete method.params.id
  const text = (name) => given.get(name) ?? ""
  return {
    view, look, methods,
    open: text("open"), image: text("image"), model: text("model"), beside: text("beside"), target: text("target"), against: text("against"),
    classes: list("classes").map(String),
  }
}

function write(state) {
  const given = new URLSearchParams()
  given.set("view", state.view)
  for (const name of ["open", "image", "model", "beside", "target", "against"]) if (state[name]) given.set(name, state[name])
  if (state.methods.length) given.set("methods", JSON.stringify(state.methods.map(asked)))
  if (state.classes.length) given.set("classes", JSON.stringify(state.classes))
  for (const [name, value] of Object.entries(state.look)) if (value !== LOOK[name]) given.set(`look.${name}`, value)
  return `#${given}`
}

/** A method as the API names it. */
export const asked = ({ id, params }) => (Object.keys(params).length ? { id, ...params } : id)

export const state = shared({ ...START, ...read(location.hash) })

/** A picture that the Explain view is to open: `dataset:ID/INDEX` or `example:NAME`. */
export const handed = shared("")

/** Whether the address named a picture when the page was opened, which is then shown at once. */
export const opened = Boolean(state.get().image)

export function change(patch) {
  state.set((before) => ({ ...before, ...(typeof patch === "function" ? patch(before) : patch) }))
}
export const changeLook = (patch) => change(({ look }) => ({ look: { ...look, ...patch } }))

let waiting = 0
let written = location.hash
export function followAddress() {
  const { set } = state
  state.set = (next) => {
    const view = state.get().view
    set(next)
    clearTimeout(waiting)
    const now = () => {
      written = write(state.get())
      // Another view is a step that Back goes back from.
      history[view === state.get().view ? "replaceState" : "pushState"](null, "", written)
    }
    if (view === state.get().view) waiting = setTimeout(now, 150)
    else now()
  }
  addEventListener("popstate", () => {
    if (location.hash === written) return
    written = location.hash
    const before = state.get().image
    set((own) => ({ ...own, ...read(location.hash) }))
    if (state.get().image !== before) handed.set(state.get().image)
  })
}

/** The address of this view, for others. */
export const link = () => new URL(write(state.get()), document.baseURI).href
