// Shows /openapi.json. Where an operation takes or gives a picture, the page offers that first: a file to choose, and the heat map.
const FIRST = "image/png"

function pictureFirst(described) {
  const content = described?.content
  if (content?.[FIRST]) described.content = { [FIRST]: content[FIRST], ...content }
}

async function show() {
  const spec = await (await fetch("../openapi.json")).json()
  spec.externalDocs.url = new URL(spec.externalDocs.url, location).href
  for (const operation of Object.values(spec.paths).flatMap(Object.values)) {
    pictureFirst(operation.requestBody)
    pictureFirst(operation.responses["200"])
  }
  SwaggerUIBundle({ spec, dom_id: "#swagger-ui", deepLinking: true, presets: [SwaggerUIBundle.presets.apis], validatorUrl: null })
}

show()
