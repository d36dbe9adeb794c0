// Models: what each takes, uploads, versions, and two versions next to one another.
import { ago, announce, Busy, Fault, Field, html, size, useAsked, useState, whole } from "./ui.js"
import * as api from "./api.js"
import { save, untar } from "./files.js"
import { change, state } from "./state.js"

/** Fields of a manifest that people set most; the rest goes into a file. */
const PREPROCESSING = [
  { name: "mean", label: "Mean", placeholder: "0.485, 0.456, 0.406" },
  { name: "std", label: "Standard deviation", placeholder: "0.229, 0.224, 0.225" },
  { name: "short_side", label: "Resize the short side to", placeholder: "256" },
]
const PARTS = { "model.onnx": "model", "model.toml": "manifest", "labels.txt": "labels", "patterns.safetensors": "patterns" }

function manifestOf(values) {
  const input = {}
  const numbers = (text) => text.split(/[\s,;]+/).filter(Boolean).map(Number)
  for (const name of ["mean", "std"]) if (values[name]) input[name] = numbers(values[name])
  if (values.short_side) input.resize = { short_side: Number(values.short_side) }
  return Object.keys(input).length ? { input } : null
}

function Upload({ onDone, initial = "" }) {
  const [id, setId] = useState(initial)
  const [files, setFiles] = useState({})
  const [values, setValues] = useState({})
  const [busy, setBusy] = useState(false)
  const [problem, setProblem] = useState(null)
  const choose = (part) => (event) => setFiles((before) => ({ ...before, [part]: [...event.target.files] }))
  const send = async (event) => {
    event.preventDefault()
    setBusy(true)
    setProblem(null)
    const form = new FormData()
    for (const [part, chosen] of Object.entries(files)) for (const file of chosen) form.append(part, file, file.name)
    const manifest = files.manifest?.length ? null : manifestOf(values)
    if (manifest) form.append("manifest", new Blob([JSON.stringify(manifest)], { type: "application/json" }), "model.json")
    try {
      const card = await api.json(`models/${encodeURIComponent(id)}`, { method: "PUT", body: form })
      announce(`Model ${card.id} is served`)
      onDone(card.id)
    } catch (error) {
      setProblem(error)
    }
    setBusy(false)
  }
  const file = (part, label, accept, hint, more) => html`<${Field} label=${label} hint=${hint}><input type="file" accept=${accept} ...${more} onChange=${choose(part)} /></${Field}>`
  return html`<form class="upload" onSubmit=${send}>
    <div class="fields">
      <${Field} label="Name" hint="that of an uploaded model makes its next version"><input required pattern="[A-Za-z0-9_\\-][A-Za-z0-9._\\-]*" title="letters, digits, dots, hyphens and underscores" maxlength="64" value=${id} onInput=${(event) => setId(event.target.value)} /></${Field}>
      ${file("model", "ONNX file", ".onnx", "", { required: true })}
      ${file("labels", "Labels", ".txt,text/plain", "one class a line")}
      ${file("data", "External data", "", "the files beside the ONNX file, where it has any", { multiple: true })}
      ${file("manifest", "Manifest", ".toml,.json", "model.toml, or the same as JSON")}
      ${file("patterns", "Patterns", ".safetensors", "of fit-patterns, where there are any")}
    </div>
    <fieldset class="group" disabled=${Boolean(files.manifest?.length)}><legend>Preprocessing, without a manifest</legend>
      <p class="hint">What is left empty is assumed to be ImageNet's, and told with every answer.</p>
      <div class="fields">${PREPROCESSING.map(({ name, label, placeholder }) => html`<${Field} key=${name} label=${label}><input value=${values[name] ?? ""} placeholder=${placeholder} onInput=${(event) => setValues((before) => ({ ...before, [name]: event.target.value }))} /></${Field}>`)}</div></fieldset>
    <${Fault} problem=${problem} onClose=${() => setProblem(null)} />
    ${busy && html`<${Busy}>Uploading; the model is loaded and run before it counts…</${Busy}>`}
    <p class="buttons"><button type="submit" class="primary" disabled=${busy || !id || !files.model?.length}>Upload</button></p>
  </form>`
}

function Versions({ model, models, onChange }) {
  const [round, again] = useState(0)
  const found = useAsked((signal) => api.json(`models/${encodeURIComponent(model.id)}/versions`, { signal }), [model.id, models, round])
  const [problem, setProblem] = useState(null)
  const [busy, setBusy] = useState("")
  const work = (told, task) => async () => {
    setBusy(told)
    setProblem(null)
    try {
      await task()
    } catch (error) {
      setProblem(error)
    }
    setBusy("")
  }
  const serve = (version) => work(`Putting version ${version} to use…`, async () => {
    await api.json(`models/${encodeURIComponent(model.id)}/rollback`, { method: "POST", query: { version } })
    announce(`Version ${version} of ${model.id} is in use`)
    again((count) => count + 1)
    onChange()
  })
  // The version becomes a model of its own, which can be explained at the same time.
  const beside = (version) => confirm(`This uploads version ${version} again, as a model of its own called ${model.id}.v${version}. It stays until somebody deletes it.`) && work(`Copying version ${version} into a model of its own…`, async () => {
    const tar = await (await api.send(`models/${encodeURIComponent(model.id)}/archive`, { query: { version } })).arrayBuffer()
    const form = new FormData()
    for (const [path, bytes] of untar(tar)) {
      const name = path.split("/").pop()
      if (name === "upload.json") continue
      form.append(PARTS[name] ?? "data", new Blob([bytes]), name)
    }
    const id = `${model.id}.v${version}`
    await api.json(`models/${encodeURIComponent(id)}`, { method: "PUT", body: form })
    onChange()
    change({ view: "explain", model: model.id, beside: id })
  })
  const versions = found.value?.versions ?? []
  return html`<section aria-label="Versions"><h3>Versions</h3>
    <${Fault} problem=${problem ?? found.problem} onClose=${() => setProblem(null)} />
    ${busy && html`<${Busy}>${busy}</${Busy}>`}
    <div class="scroll"><table class="numbers"><thead><tr><th scope="col">Version</th><th scope="col">Uploaded</th><th scope="col">Size</th><th scope="col"><span class="unseen">What to do</span></th></tr></thead>
      <tbody>${versions.map((one) => html`<tr key=${one.version}><th scope="row">${one.version} ${one.version === found.value.in_use ? html`<span class="badge">in use</span>` : ""}</th><td>${ago(one.created)}</td><td>${size(one.bytes)}</td>
        <td class="actions">${one.version === found.value.in_use ? "" : html`<button type="button" disabled=${Boolean(busy)} onClick=${serve(one.version)}>Use it</button> <button type="button" disabled=${Boolean(busy)} onClick=${beside(one.version)}>Compare with the one in use</button>`}</td></tr>`)}</tbody></table></div>
  </section>`
}

function Model({ id, models, onChange, onGone }) {
  const summary = models.find((one) => one.id === id)
  const found = useAsked((signal) => api.json(`models/${encodeURIComponent(id)}`, { signal }), [id, models])
  const [problem, setProblem] = useState(null)
  const [uploading, setUploading] = useState(false)
  const card = found.value?.id === id ? found.value : null
  const remove = async () => {
    if (!confirm(`Delete the model ${id} with all its versions, for everyone who uses this server?`)) return
    try {
      await api.send(`models/${encodeURIComponent(id)}`, { method: "DELETE" })
      onGone()
    } catch (error) {
      setProblem(error)
    }
  }
  const archive = async () => {
    try {
      save(`${id}.tar`, await api.blob(`models/${encodeURIComponent(id)}/archive`))
    } catch (error) {
      setProblem(error)
    }
  }
  if (!card) return html`<section class="detail"><${Fault} problem=${found.problem} />${!found.problem && html`<${Busy}>Reading the model…</${Busy}>`}</section>`
  const changeable = card.uploaded || card.trained
  const refused = card.methods.filter(({ applies }) => !applies)
  return html`<section class="detail" aria-label="Model">
    <header><h2>${card.id}</h2><p class="buttons"><button type="button" class="primary" onClick=${() => change({ view: "explain", model: id, target: "", against: "", classes: [] })}>Explain with it</button>
      ${card.uploaded && html`<button type="button" aria-expanded=${uploading} onClick=${() => setUploading(!uploading)}>New version</button>`}
      ${changeable && html`<button type="button" onClick=${archive}>Download</button><button type="button" class="danger" onClick=${remove}>Delete</button>`}</p></header>
    <${Fault} problem=${problem} onClose=${() => setProblem(null)} />
    ${uploading && html`<${Upload} initial=${id} onDone=${() => {
      setUploading(false)
      onChange()
    }} />`}
    ${card.warnings.length > 0 && html`<ul class="warnings">${card.warnings.map((warning) => html`<li key=${warning}>${warning}</li>`)}</ul>`}
    <dl class="pairs"><dt>input</dt><dd>${card.shape.join(" × ")}${card.takes_images ? "" : ", ready tensors"}</dd>
      <dt>classes</dt><dd>${card.classes === null ? "as many as an evaluation shows" : whole(card.classes)}${card.labels.length ? ", named" : ", without names"}</dd>
      <dt>origin</dt><dd>${summary?.uploaded ? "uploaded" : summary?.trained ? `trained from ${card.parent?.id ?? "another"}` : "a folder of the server"}</dd>
      <dt>methods</dt><dd>${card.methods.length - refused.length} of ${card.methods.length}</dd><dt>SHA-256</dt><dd><code class="hash">${card.hash}</code></dd></dl>
    ${card.uploaded && html`<${Versions} model=${card} models=${models} onChange=${onChange} />`}
    <details><summary>Preprocessing and head</summary><pre tabindex="0">${JSON.stringify(card.manifest, null, 2)}</pre></details>
    ${refused.length > 0 && html`<details><summary>${refused.length} method${refused.length > 1 ? "s do" : " does"} not apply</summary><ul>${refused.map((one) => html`<li key=${one.id}><code>${one.id}</code> ${one.reason}</li>`)}</ul></details>`}
  </section>`
}

export function Models({ models, broken, onChange }) {
  const { open } = state.use()
  const [uploading, setUploading] = useState(false)
  const [problem, setProblem] = useState(null)
  const reload = async () => {
    setProblem(null)
    try {
      await api.json("models:reload", { method: "POST" })
      announce("The models folder was read again")
      onChange()
    } catch (error) {
      setProblem(error)
    }
  }
  return html`<div class="two models">
    <div class="list">
      <header><h1>Models</h1><button type="button" class="primary" aria-expanded=${uploading} onClick=${() => setUploading(!uploading)}>${uploading ? "Close" : "Upload"}</button></header>
      ${uploading && html`<${Upload} onDone=${(id) => {
        setUploading(false)
        onChange()
        change({ open: id })
      }} />`}
      <${Fault} problem=${problem} onClose=${() => setProblem(null)} />
      <ul class="cards">${models.map((one) => html`<li key=${one.id}><button type="button" class="item" aria-current=${open === one.id} onClick=${() => change({ open: one.id })}>
        <span class="name">${one.id}</span>${one.default && html`<span class="badge">default</span>`}
        <span class="hint">${one.classes ?? "?"} classes · ${one.shape.join(" × ")}${one.uploaded ? " · uploaded" : one.trained ? " · trained" : ""}${one.warnings.length ? ` · ${one.warnings.length} note${one.warnings.length > 1 ? "s" : ""}` : ""}</span></button></li>`)}
      ${broken.map((one) => html`<li key=${one.id} class="broken"><span class="name">${one.id}</span> cannot be served<ul>${one.faults.map((fault) => html`<li key=${fault} class="fault">${fault}</li>`)}</ul></li>`)}</ul>
      <p><button type="button" onClick=${reload}>Read the models folder again</button></p>
    </div>
    ${open && models.some(({ id }) => id === open) ? html`<${Model} key=${open} id=${open} models=${models} onChange=${onChange} onGone=${() => {
      change({ open: "" })
      onChange()
    }} />` : html`<p class="detail empty">Choose a model to see what it takes.</p>`}
  </div>`
}
