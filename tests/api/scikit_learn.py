"""scikit-learn models as skl2onnx writes them, and what scikit-learn says of three flowers.

    pip install scikit-learn==1.9 skl2onnx==1.20
    python tests/api/scikit_learn.py

Writes tests/api/scikit_learn/*.onnx and expected.json.
"""
import json
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

folder = Path(__file__).with_suffix("")
folder.mkdir(exist_ok=True)
iris = load_iris()
x = iris.data.astype(np.float32)
names = iris.target_names[iris.target]
two = iris.target < 2
models = {
    "pipeline": (make_pipeline(StandardScaler(), LogisticRegression()), x, names),
    "binary": (LogisticRegression(), x[two], iris.target[two]),
    "one_vs_rest": (OneVsRestClassifier(LogisticRegression()), x, iris.target),
    "mlp": (MLPClassifier((4,), random_state=0, max_iter=300), x, iris.target),
    "forest": (RandomForestClassifier(3, max_depth=2, random_state=0), x, iris.target),
    "regression": (LinearRegression(), x[:, :3], x[:, 3]),
}
expected = {}
for name, (model, data, target) in models.items():
    model.fit(data, target)
    onnx = to_onnx(model, data[:1], target_opset=17)
    (folder / f"{name}.onnx").write_bytes(onnx.SerializeToString())
    rows = data[[0, 40, 70]]
    said = model.predict_proba(rows) if hasattr(model, "predict_proba") else model.predict(rows)[:, None]
    expected[name] = {"rows": rows.tolist(), "scores": said.tolist()}
(folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
