"""A client from openapi-python-client explains a photo: python_client.py URL."""
import base64
import io
import sys

from shared import CATS, PHOTO, SIZE, floats, is_picture, tool

url = sys.argv[1]
made = tool("openapi-python-client", "generate", "--url", f"{url}/openapi.json", "--output-path", "client")
# What it cannot make: bodies and answers of types that it does not know. An image goes as application/octet-stream.
unmade = [line for line in made.splitlines() if line and not line[0].isspace() and line[0] not in "{}"]
known = (
    "Generating", "WARNING parsing P", "WARNING parsing GET /models/{id}/archive", "Unsupported content type", "Cannot parse response",
    "If you believe", "Warning(s)", "Skipping",
)
assert all(line.startswith(known) for line in unmade), made
sys.path.insert(0, "client")

from explaind_client import Client
from explaind_client.api.catalogue import get_model, list_evaluation_metrics, list_methods
from explaind_client.api.explain import compare, explain, predict
from explaind_client.api.jobs import list_jobs
from explaind_client.models import (
    AnswerChannels, AnswerFormat, AnswerInclude, CompareRequest, Explanations, ExplainForm, ExplainRequest, Method, PredictRequest,
    Problem, ShapedData,
)
from explaind_client.types import File

client = Client(base_url=url, raise_on_unexpected_status=True)
photo = PHOTO.read_bytes()
text = base64.b64encode(photo).decode()


def file():
    return File(payload=io.BytesIO(photo), file_name="chelsea.png", mime_type="image/png")


def check(answer, method):
    assert isinstance(answer, Explanations), answer
    [one] = answer.explanations
    assert (one.method, one.target.label in CATS) == (method, True), one
    crop = one.image.crop
    assert ((one.image.width, one.image.height), crop.left, crop.top) == (SIZE, 94, 19), one.image
    return one


# JSON: base64, and parameters beside it or in the query.
one = check(explain.sync(client=client, body=ExplainRequest(image=text, method=Method.GRADIENT)), "gradient")
scores = floats(base64.b64decode(one.attribution.data))
assert one.attribution.shape == [3, 224, 224] and len(scores) == 3 * 224 * 224 and any(scores)
body = ExplainRequest(image=text, method=Method.INTEGRATED_GRADIENTS, n_steps=3)
steps = explain.sync(client=client, body=body, channels=AnswerChannels.SUM)
assert check(steps, "integrated_gradients").parameters["n_steps"] == 3
assert steps.explanations[0].attribution.shape == [1, 224, 224]

# The bytes of the file, with parameters in the query.
check(explain.sync(client=client, body=file(), method=Method.GRAD_CAM), "grad_cam")
# A form.
include = [AnswerInclude.HEATMAP, AnswerInclude.ATTRIBUTION]
form = ExplainForm(image=[file()], method=Method.GRADIENT, legend=True, include=include)
one = check(explain.sync(client=client, body=form), "gradient")
assert is_picture(base64.b64decode(one.heatmap)) and len(one.attribution.data) > 0
# A tensor, with its shape and as nested lists.
shaped = ShapedData(shape=[3, 224, 224], data=[0.25] * (3 * 224 * 224))
nested = [[[0.25] * 224] * 224] * 3
for tensor in [shaped, nested]:
    answer = explain.sync(client=client, body=ExplainRequest(tensor=tensor), method=Method.GRADIENT)
    assert answer.explanations[0].attribution.shape == [3, 224, 224]

# The picture: in JSON, and as it is, which the client hands over by its bytes.
one = check(explain.sync(client=client, body=file(), include=[AnswerInclude.HEATMAP]), "pgig")
assert is_picture(base64.b64decode(one.heatmap)) and not one.attribution
drawn = client.get_httpx_client().request(**explain._get_kwargs(body=file(), format_=AnswerFormat.PNG))
assert drawn.status_code == 200 and is_picture(drawn.content)

# The rest of the contract, as far as it needs no data set.
body = CompareRequest.from_dict({"image": text, "methods": ["gradient", {"id": "random", "seed": 3}]})
compared = compare.sync(client=client, body=body)
assert [one.method for one in compared.explanations] == ["gradient", "random"]
assert compared.explanations[1].parameters["seed"] == 3
[result] = predict.sync(client=client, body=PredictRequest(image=text, top_k=2)).results
assert len(result.predictions) == 2 and result.predictions[0].label in CATS
assert len(list_methods.sync(client=client).methods) > 10
metrics = list_evaluation_metrics.sync(client=client, model="squeezenet1_1").metrics
assert any(metric.id == "sparseness" and metric.in_answers for metric in metrics)
one = check(explain.sync(client=client, body=file(), include=[AnswerInclude.METRICS], method=Method.GRADIENT), "gradient")
assert 0 < one.metrics["sparseness"] < 1
assert get_model.sync("squeezenet1_1", client=client).default
assert list_jobs.sync(client=client).jobs == []
refused = explain.sync(client=client, body=ExplainRequest(image=text, n_steps=0, method=Method.PGIG))
assert isinstance(refused, Problem) and refused.errors[0].param == "n_steps", refused
