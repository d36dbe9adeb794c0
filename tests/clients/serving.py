"""Clients of other model servers ask explaind what they ask those: KServe's, Triton's, and curl as TorchServe's pages call it: serving.py URL."""
import asyncio
import base64
import json
import subprocess
import sys

import numpy
import requests
import tritonclient.http
from kserve import InferInput, InferRequest, InferenceRESTClient, RESTConfig
from shared import CATS, PHOTO
from tritonclient.utils import InferenceServerException

url, model = sys.argv[1], "squeezenet1_1"
photo = PHOTO.read_bytes()
text = base64.b64encode(photo).decode()


def ask(path, **parameters):
    """What explaind's own routes answer."""
    answer = requests.post(f"{url}/{path}", params=parameters, data=photo)
    answer.raise_for_status()
    return answer.json()


[predicted] = ask("predict", top_k=1000)["results"]
scores = numpy.zeros(1000, numpy.float32)
for one in predicted["predictions"]:
    scores[one["index"]] = one["score"]
[explained] = ask("explain", method="gradient", format="json")["explanations"]
gradient = numpy.frombuffer(base64.b64decode(explained["attribution"]["data"]), "<f4").reshape(3, 224, 224)
target = explained["target"]["index"]


def same(found, expected):
    numpy.testing.assert_allclose(numpy.asarray(found, numpy.float32), expected, rtol=1e-5, atol=1e-7)


async def kserve():
    v1 = InferenceRESTClient(RESTConfig(protocol="v1"))
    assert await v1.is_server_live(url) and await v1.is_model_ready(url, model)
    same((await v1.infer(url, {"instances": [{"b64": text}]}, model))["predictions"], scores[None])
    answer = await v1.explain(url, model, {"instances": [{"b64": text}], "parameters": {"method": "gradient"}})
    [one] = answer["explanations"]
    assert (one["method"], one["target"]["label"] in CATS) == ("gradient", True)
    same(one["attribution"]["data"], gradient)
    v2 = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await v2.is_server_live(url) and await v2.is_server_ready(url) and await v2.is_model_ready(url, model)
    image = InferInput("input", [1], "BYTES")
    image.set_data_from_numpy(numpy.array([photo], object), binary_data=True)
    answer = await v2.infer(url, InferRequest(model_name=model, infer_inputs=[image], parameters={"method": "gradient"}), model)
    found = {output.name: output.as_numpy() for output in answer.outputs}
    same(found["scores"], scores[None])
    same(found["attribution"], gradient[None])
    assert found["target"].tolist() == [target]
    await v1.close()
    await v2.close()


def triton():
    client = tritonclient.http.InferenceServerClient(url.removeprefix("http://"))
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(model)
    assert not client.is_model_ready("none")
    assert client.get_server_metadata()["name"] == "explaind"
    described = client.get_model_metadata(model)
    assert described["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 3, 224, 224]}], described
    image = tritonclient.http.InferInput("input", [1], "BYTES")
    image.set_data_from_numpy(numpy.array([photo], object))
    # All outputs as bytes: without a method the scores.
    same(client.infer(model, [image]).as_numpy("scores"), scores[None])
    wanted = [tritonclient.http.InferRequestedOutput(name, binary_data=name == "attribution") for name in ("attribution", "target")]
    answer = client.infer(model, [image], outputs=wanted, parameters={"method": "gradient"}, request_id="7")
    same(answer.as_numpy("attribution"), gradient[None])
    assert (answer.as_numpy("target").tolist(), answer.get_response()["id"]) == ([target], "7")
    # A tensor that the client preprocessed, a batch of two.
    tensor = numpy.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(numpy.float32)
    batch = tritonclient.http.InferInput("input", tensor.shape, "FP32")
    found = {}
    for binary in [True, False]:
        batch.set_data_from_numpy(tensor, binary_data=binary)
        found[binary] = client.infer(model, [batch]).as_numpy("scores")
        assert found[binary].shape == (2, 1000)
    same(found[True], found[False])
    try:
        client.infer("none", [image])
    except InferenceServerException as error:
        assert "none" in error.message(), error
    else:
        sys.exit("a model that is not there answered")


def curl(*arguments):
    done = subprocess.run(["curl", "--silent", "--fail-with-body", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def torchserve():
    assert curl(f"{url}/ping") == {"status": "Healthy"}
    best = {one["label"]: one["score"] for one in predicted["predictions"][:5]}
    for arguments in [["-T", PHOTO], ["-X", "POST", "-T", PHOTO], ["-F", f"data=@{PHOTO}"]]:
        answer = curl(f"{url}/predictions/{model}", *arguments)
        assert list(answer) == list(best), answer
        same(list(answer.values()), list(best.values()))
        same(curl(f"{url}/explanations/{model}?method=gradient", *arguments), gradient)


asyncio.run(kserve())
triton()
torchserve()
