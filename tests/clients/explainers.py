"""Files of `explaind derive --method` give the service's maps of a photo, in onnxruntime and in onnxruntime-web: explainers.py URL.

Maps of one derivative agree to float32. A path or noise is rounded to float32 once more in a file, and where a point lies at the kink of a ReLU
or of a maximum its derivative may be that of the other side, so against the service those are compared at 1e-2; that the file's own sum is right
is held to derivatives at the same points, also from a file.
"""
import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request

import numpy
import onnx
import onnxruntime
from PIL import Image
from shared import PHOTO, ROOT, tool

url = sys.argv[1]
# Without those of the tests, which are no settings.
settings = {name: value for name, value in os.environ.items() if name not in ("EXPLAIND_ROOT", "EXPLAIND_BIN")}
onnxruntime.set_default_logger_severity(3)
with Image.open(PHOTO) as photo:
    pixels = numpy.asarray(photo.convert("RGB").resize((224, 224)), numpy.float32) / 255
x = ((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(numpy.float32).transpose(2, 0, 1)[None].copy()
numpy.save("x.npy", x[0])
x.tofile("x.bin")


def derive(method, *arguments):
    command = [os.environ["EXPLAIND_BIN"], "derive", "--models", ROOT / "models", "--model", "squeezenet1_1", "--method", method]
    return subprocess.run([*command, *arguments, "-o", "file.onnx"], env=settings, capture_output=True, text=True)


def write(method, parameters=(), flags=()):
    """A checked file, opened; also by its session."""
    named = [part for name, value in dict(parameters).items() for part in ("-p", f"{name}={value}")]
    done = derive(method, *named, *flags)
    assert done.returncode == 0, done.stderr
    model = onnx.load("file.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)], model.opset_import
    assert all(node.domain == "" for node in model.graph.node)
    assert [value.name for value in model.graph.output] == ["logits", "probabilities", "saliency_map"]
    return model, onnxruntime.InferenceSession("file.onnx", providers=["CPUExecutionProvider"])


def run(session, x, **others):
    return session.run(["saliency_map"], {session.get_inputs()[0].name: x, **others})[0]


def service(method, parameters=()):
    query = urllib.parse.urlencode({"method": method, "format": "npy", **dict(parameters)})
    with open("x.npy", "rb") as file:
        request = urllib.request.Request(f"{url}/explain?{query}", file.read(), {"Content-Type": "application/octet-stream"})
    with urllib.request.urlopen(request) as answer, open("map.npy", "wb") as file:
        file.write(answer.read())
    return numpy.load("map.npy")


def gap(found, expected):
    expected = numpy.asarray(expected).reshape(found.shape)
    return numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected)


def web(shape):
    package = ROOT / "runtime/onnxruntime-web"
    tool("node", ROOT / "tests/clients/web.mjs", package, "file.onnx", "x.bin", json.dumps(list(x.shape)), "web.bin")
    return numpy.fromfile("web.bin", numpy.float32).reshape(shape)


# One derivative, and a layer's map; a batch is explained row by row.
for method, flags in [("gradient", []), ("input_x_gradient", []), ("guided_backprop", []), ("pattern_attribution", []),
                      ("guided_grad_cam", []), ("grad_cam", ["--upsample"])]:
    model, session = write(method, flags=flags)
    found = run(session, x)
    assert gap(found, service(method)) < 1e-5, method
    assert gap(web(found.shape), found) < 1e-3, (method, gap(web(found.shape), found))
    both = run(session, numpy.concatenate([x, x[:, :, ::-1].copy()]))
    assert gap(both[:1], found) < 1e-5 and gap(both[1:], found) > 0.1, method
    stated = {entry.key: entry.value for entry in model.metadata_props}
    assert stated["explaind.method"] == method and len(stated["explaind.model_sha256"]) == 64
    assert json.loads(stated["explaind.parameters"])["target"] == "predicted"

# Targets: one in the file, and an input.
gradient = write("gradient", flags=["--target", "281"])[1]
assert gap(run(gradient, x), service("gradient", {"target": "281"})) < 1e-5
asked = write("gradient", flags=["--target", "input"])[1]
assert gap(run(asked, x, target=numpy.array([281])), run(gradient, x)) < 1e-6
assert not run(asked, x, target=numpy.array([1000])).any()

# Several points, at once and in a Loop, held to derivatives at the same points.
alphas = (numpy.arange(1, 8) / 7).astype(numpy.float32)
points = numpy.concatenate([alpha * x for alpha in alphas])
path = (x * numpy.stack([run(gradient, point[None])[0] for point in points]).mean(0)).astype(numpy.float32)
for method, parameters, own in [
    ("integrated_gradients", {"n_steps": 7, "target": "281"}, path), ("pgig", {"n_steps": 7, "baseline": "black+white"}, None),
    ("smooth_grad", {"n_samples": 7}, None), ("smooth_grad_sq", {"n_samples": 7}, None), ("var_grad", {"n_samples": 7}, None),
    ("smooth_grad_ig", {"n_samples": 3, "n_steps": 3}, None), ("expected_gradients", {"n_samples": 7, "baseline": "random:7"}, None),
]:
    expected = service(method, parameters)
    for rows in ["3", "100"]:
        model, session = write(method, parameters, ["--rows", rows])
        assert any(node.op_type == "Loop" for node in model.graph.node) == (rows == "3")
        found = run(session, x)
        assert gap(found, expected) < 1e-2, (method, gap(found, expected))
        assert own is None or gap(found, own) < 1e-3, (method, gap(found, own))
        assert gap(web(found.shape), found) < 1e-2, (method, gap(web(found.shape), found))

# What is done to the map.
plain = run(write("gradient")[1], x)
largest = abs(plain).max()
assert gap(run(write("gradient", flags=["--normalize", "max-abs"])[1], x), plain / largest) < 1e-5
ranged = run(write("gradient", flags=["--normalize", "min-max"])[1], x)
assert (ranged.min(), ranged.max()) == (0, 1) and gap(ranged, (plain - plain.min()) / (plain.max() - plain.min())) < 1e-5
assert run(write("grad_cam")[1], x).shape == (1, 1, 13, 13)

# What cannot be is refused, with what can.
for method, arguments, part in [
    ("xrai", [], "guided_grad_cam"), ("gradient", ["--target", "5000"], "index 5000 is not below"),
    ("gradient", ["--target", "top:2"], "a file has one"), ("grad_cam", ["-p", "layer=nope"], "is not a layer"),
    ("smooth_grad", ["-p", "n_samples=10000"], "(allowed: 1 to 1783)"), ("pgig", ["--rows", "0"], "1 or more"),
    ("integrated_gradients", ["-p", "n_steps=2000", "--rows", "2000"], "MiB of memory, of which 8192"),
    ("integrated_gradients", ["-p", "tolerance=0.1"], "give n_steps"), ("pgig", ["-p", "baseline=blur"], "depends on the input"),
]:
    refused = derive(method, *arguments)
    assert refused.returncode and part in refused.stderr, (method, refused.stderr)
