"""A client from openapi-generator explains a photo: generator.py URL."""
import base64
import sys

from shared import CATS, PHOTO, SIZE, floats, is_picture, tool

url = sys.argv[1]
tool("openapi-generator-cli", "generate", "-i", f"{url}/openapi.json", "-g", "python", "-o", "client")
sys.path.insert(0, "client")

import openapi_client
from openapi_client.models import CompareRequest, ExplainRequest, Method, PredictRequest, ShapedData, Tensor

client = openapi_client.ApiClient(openapi_client.Configuration(host=url))
api = openapi_client.ExplainApi(client)
photo = PHOTO.read_bytes()
text = base64.b64encode(photo).decode()


def check(answer, method):
    [one] = answer.explanations
    assert (one.method, one.target.label in CATS) == (method, True), one
    crop = one.image.crop
    assert ((one.image.width, one.image.height), crop.left, crop.top) == (SIZE, 94, 19), one.image
    return one


# JSON: base64, and parameters beside it or in the query.
one = check(api.explain(ExplainRequest(image=text, method=Method.GRADIENT)), "gradient")
scores = floats(base64.b64decode(one.attribution.data.actual_instance))
assert one.attribution.shape == [3, 224, 224] and len(scores) == 3 * 224 * 224 and any(scores)
steps = api.explain(ExplainRequest(image=text, method=Method.INTEGRATED_GRADIENTS, n_steps=3), channels="sum")
assert check(steps, "integrated_gradients").parameters["n_steps"] == 3
assert steps.explanations[0].attribution.shape == [1, 224, 224]
# A tensor, with its shape and as nested lists.
shaped = ShapedData(shape=[3, 224, 224], data=[0.25] * (3 * 224 * 224))
nested = [[[0.25] * 224] * 224] * 3
for tensor in [shaped, nested]:
    answer = api.explain(ExplainRequest(tensor=Tensor(tensor), method=Method.GRADIENT))
    assert answer.explanations[0].attribution.shape == [3, 224, 224]

# The picture: in JSON, and as it is.
one = check(api.explain(ExplainRequest(image=text, method=Method.GRAD_CAM), include=["heatmap"]), "grad_cam")
assert is_picture(base64.b64decode(one.heatmap)) and one.attribution is None
drawn = api.explain_without_preload_content(ExplainRequest(image=text, method=Method.GRADIENT), format="png")
assert drawn.status == 200 and is_picture(drawn.read())

# The rest of the contract, as far as it needs no data set.
compared = api.compare(CompareRequest.from_dict({"image": text, "methods": ["gradient", {"id": "random", "seed": 3}]}))
assert [one.method for one in compared.explanations] == ["gradient", "random"]
assert compared.explanations[1].parameters["seed"] == 3
[result] = api.predict(PredictRequest(image=text, top_k=2)).results
assert len(result.predictions) == 2 and result.predictions[0].label in CATS
catalogue = openapi_client.CatalogueApi(client)
assert len(catalogue.list_methods().methods) > 10
metrics = catalogue.list_evaluation_metrics(model="squeezenet1_1").metrics
assert any(metric.id == "sparseness" and metric.in_answers for metric in metrics)
one = check(api.explain(ExplainRequest(image=text, method=Method.GRADIENT), include=["metrics"]), "gradient")
assert 0 < one.metrics["sparseness"] < 1
assert catalogue.get_model("squeezenet1_1").default
assert openapi_client.JobsApi(client).list_jobs().jobs == []
try:
    api.explain(ExplainRequest(image=text, n_samples=5, method=Method.PGIG))
except openapi_client.exceptions.UnprocessableEntityException as refused:
    assert refused.data.errors[0].param == "n_samples", refused
else:
    sys.exit("a parameter of another method was taken")
