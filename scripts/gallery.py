#!/usr/bin/env python3
"""The README's table of methods: formula, cost, time on the bundled SqueezeNet, and a thumbnail of each on one photo; and all methods of
the PGIG paper in one grid. Starts the release server; `make gallery` builds it first. `--pictures BINARY` starts another one and makes the
pictures and the table with the times that stand there: its own are not those of a release.
"""

import contextlib
import json
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs" / "methods"
REPEATS = 5
BEGIN, END = "<!-- methods: made by `make gallery` -->\n", "<!-- end of methods -->\n"
# Section 5 of the PGIG paper, in the order of its Figure 1, with its hyperparameters.
PAPER = [
    "random", "gradient", "input_x_gradient", "guided_backprop", "pattern_attribution", "smooth_grad_sq", "var_grad", "expected_gradients",
    "smooth_grad_ig", "integrated_gradients", "pgig",
]


@contextlib.contextmanager
def server(binary):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [binary, "serve", "--models", ROOT / "models", "--default-model", "squeezenet1_1", "--listen", listen, "--log", "warn", "--request-timeout-ms", "900000"]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://{listen}/readyz").read()
                break
            except urllib.error.URLError:
                if process.poll() is not None:
                    raise SystemExit("the server did not start") from None
                time.sleep(0.1)
        yield f"http://{listen}"
    finally:
        process.terminate()
        process.wait()


def post(url, body):
    """The answer's bytes and its milliseconds in the service."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body)) as answer:
            stages = dict(stage.strip().split(";dur=") for stage in answer.headers["server-timing"].split(","))
            return answer.read(), float(stages["total"])
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url}: {error.read().decode()}") from None


def main():
    photo = (DOCS / "photo.png").read_bytes()
    readme = (ROOT / "README.md").read_text()
    before, rest = readme.split(BEGIN)
    table, after = rest.split(END)
    times = dict(re.findall(r"\| `(\w+)` \|.*\| ([^|]*) \|\n", table))
    rows = []
    pictures_only = sys.argv[1:2] == ["--pictures"]
    with server(sys.argv[2] if pictures_only else ROOT / "target/release/explaind") as address:
        card = json.load(urllib.request.urlopen(f"{address}/models/squeezenet1_1"))
        reasons = {method["id"]: method.get("reason") or "" for method in card["methods"]}
        for method in json.load(urllib.request.urlopen(f"{address}/methods"))["methods"]:
            described = f"`{method['id']}` | {method['formula']}<br>*{method['paper']}* | {method['cost']}"
            if any(parameter["name"] == "supports" for parameter in method["parameters"]):
                # They are trained for two classes of a model of one's own.
                rows.append(f"| | {described}; needs [supports](docs/gad.md) | |\n")
                continue
            if "no attention" in reasons[method["id"]]:
                rows.append(f"| | {described}; needs [attention](docs/methods.md#attention) | |\n")
                continue
            # As they stand in the table: small, under the name of the method.
            url = f"{address}/explain?method={method['id']}&legend=false&view=crop&size=160"
            thumbnail, _ = post(url, photo)
            (DOCS / f"{method['id']}.png").write_bytes(thumbnail)
            if pictures_only:
                time_text = times.get(method["id"], "").strip()
            else:
                took = statistics.median(post(url, photo)[1] for _ in range(REPEATS))
                time_text = f"{took:.0f} ms" if took < 1000 else f"{took / 1000:.1f} s"
            patterns = "; needs patterns" if method["needs_patterns"] else ""
            rows.append(f"| <img src=\"docs/methods/{method['id']}.png\" width=\"110\"> | {described}{patterns} | {time_text} |\n")
        grid, took = post(f"{address}/compare?" + "&".join(f"method={method}" for method in PAPER), (ROOT / "examples/scarlet_macaw.webp").read_bytes())
        (ROOT / "docs/compare.png").write_bytes(grid)
        jaguar = (ROOT / "examples/jaguar.webp").read_bytes()
        explained, _ = post(f"{address}/explain?method=pgig&caption=true&size=560&format=jpeg", jaguar)
        (ROOT / "docs/jaguar.jpg").write_bytes(explained)
        print(f"{len(PAPER)} methods in one request: {took / 1000:.1f} s")
    table = "| | Method | What it computes | Evaluations | Time |\n|---|---|---|---|---|\n" + "".join(rows)
    (ROOT / "README.md").write_text(before + BEGIN + table + END + after)


if __name__ == "__main__":
    main()
