// The page: its views, its key, and whether the server answers.
import { announced, Busy, Dialog, Fault, Field, html, render, useAsked, useEffect, useState } from "./ui.js"
import * as api from "./api.js"
import { Datasets } from "./datasets.js"
import { Explain } from "./explain.js"
import { Jobs } from "./jobs.js"
import { Models } from "./models.js"
import { change, followAddress, state } from "./state.js"

const TITLES = { explain: "Explain", datasets: "Data sets", jobs: "Jobs", models: "Models" }

function Key({ onEntered }) {
  const [text, setText] = useState(api.key.get())
  const enter = (event) => {
    event.preventDefault()
    api.key.set(text.trim())
    api.asksKey.set(false)
    onEntered()
  }
  return html`<${Dialog} title="This server asks for a key" onClose=${() => api.asksKey.set(false)}>
    <form onSubmit=${enter}><${Field} label="Key"><input type="password" value=${text} autocomplete="current-password" onInput=${(event) => setText(event.target.value)} /></${Field}>
    <p class="hint">It is kept until this tab is closed, and sent to this server alone.</p>
    <p class="buttons"><button type="submit" class="primary" disabled=${!text.trim()}>Use the key</button></p></form>
  </${Dialog}>`
}

function Page() {
  const { view } = state.use()
  const isReachable = api.reachable.use()
  const asksKey = api.asksKey.use()
  const said = announced.use()
  const [round, again] = useState(0)
  const loaded = useAsked(
    async (signal) => {
      const [models, methods, metrics] = await Promise.all([
        api.json("models", { signal }),
        api.json("methods", { signal }),
        api.json("metrics-catalogue", { signal }).catch(() => ({ metrics: [] })),
      ])
      return { models: models.models, broken: models.broken_models, cards: methods.methods, catalogue: metrics.metrics }
    },
    [round, isReachable],
  )
  useEffect(() => {
    document.title = view === "explain" ? "explaind" : `${TITLES[view]} · explaind`
  }, [view])
  const reload = () => again((count) => count + 1)
  const { value, problem } = loaded
  return html`
    <a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault()
      document.getElementById("main").focus()
    }}>To the content</a>
    <header class="top"><a class="brand" href="./" onClick=${(event) => {
      event.preventDefault()
      change({ view: "explain" })
    }}><img src=${api.address("assets/icon.svg")} alt="" width="22" height="22" />explaind</a>
      <nav aria-label="Views">${Object.entries(TITLES).map(([id, title]) => html`<a key=${id} href=${`#view=${id}`} aria-current=${view === id ? "page" : undefined} onClick=${(event) => {
        event.preventDefault()
        change({ view: id, open: "" })
      }}>${title}</a>`)}</nav>
      <a class="docs" href="docs/">API</a></header>
    ${!isReachable && html`<p class="banner" role="alert">The server does not answer. Nothing here is lost; it is tried again every two seconds.</p>`}
    <main id="main" tabindex="-1">
      ${!value && !problem && html`<${Busy}>Loading…</${Busy}>`}
      ${problem && !value && html`<div class="alone"><${Fault} problem=${problem} /><button type="button" onClick=${reload}>Try again</button></div>`}
      ${value && html`
        <${Explain} hidden=${view !== "explain"} models=${value.models} cards=${value.cards} catalogue=${value.catalogue} />
        ${view === "datasets" && html`<${Datasets} models=${value.models} />`}
        ${view === "jobs" && html`<${Jobs} models=${value.models} cards=${value.cards} catalogue=${value.catalogue} />`}
        ${view === "models" && html`<${Models} models=${value.models} broken=${value.broken} onChange=${reload} />`}`}
    </main>
    <p class="unseen" role="status" aria-live="polite">${said}</p>
    ${asksKey && html`<${Key} onEntered=${reload} />`}`
}

followAddress()
const place = document.getElementById("page")
place.textContent = ""
render(html`<${Page} />`, place)
