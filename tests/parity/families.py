"""Writes the references of tests/parity/families/: what PyTorch says about one small network of each of many families.

    benches/peers/install.sh && benches/peers/.venv/bin/python tests/parity/families.py [NET ...]

Hugging Face's networks need `transformers`, which `make zoo` installs.

- NET.safetensors: as generate.py writes it: logits, the gradient of one logit with respect to the input in float64, and its yardsticks.
- NET.EXPORTER+OPSET.onnx: as torch.onnx.export writes it with a dynamic batch, its weights inside: exporters transpose them.
"""

import copy
import json
import pathlib
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from generate import INPUT_SCALE, distance, export, gradient, rounding_distance, strip, uniform
from safetensors.numpy import save_file
from timm.models.focalnet import FocalNet
from timm.models.metaformer import GroupNorm1NoBias, MetaFormer
from timm.models.mlp_mixer import GatedMlp, MlpMixer, SpatialGatingBlock
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from torchvision.models.vision_transformer import VisionTransformer

FOLDER = pathlib.Path(__file__).parent / "families"
CLASSES = 5
EXPORTS = [("script", 17), ("dynamo", 18)]


class Logits(torch.nn.Module):
    """A classifier of Hugging Face's, which answers with more than logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model(pixels).logits


def hugging_face(name, **options):
    import transformers

    config = getattr(transformers, f"{name}Config")(**options)
    return Logits(transformers.AutoModelForImageClassification.from_config(config))


def of_hugging_face(name, **options):
    return lambda: hugging_face(name, num_labels=CLASSES, **options)


def of_timm(name, **options):
    return lambda: timm.create_model(name, num_classes=CLASSES, **options)


def swin(**options):
    return SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], stochastic_depth_prob=0.0, num_classes=CLASSES, **options)


def efficientformer():
    """For images of 64 pixels: timm's attention has biases for 224."""
    model = timm.create_model("efficientformer_l1", depths=(1, 1, 1, 2), embed_dims=(8, 16, 24, 32), num_vit=1, num_classes=CLASSES)
    block = model.stages[-1].blocks[-1]
    block.token_mixer = type(block.token_mixer)(32, key_dim=8, num_heads=2, resolution=2)
    return model


FLAT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
STAGES = {"embed_dims": (8, 12, 16, 24), "depths": (1, 1, 1, 1)}

# How each is built, and the side of its input.
NETS = {
    "beit": (of_hugging_face("Beit", intermediate_size=48, use_relative_position_bias=True, attn_implementation="eager", **FLAT), 32),
    "cait": (of_timm("cait_xxs24_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, depth_token_only=1), 32),
    "coat": (of_timm("coat_tiny", img_size=32, embed_dims=(8, 16, 16, 16), serial_depths=(1, 1, 1, 1), parallel_depth=1, num_heads=2, crpe_window={3: 1, 5: 1}), 32),
    "convnext": (lambda: ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=CLASSES), 32),
    "convnextv2": (of_timm("convnextv2_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)), 32),
    "cvt": (of_hugging_face("Cvt", embed_dim=[4, 8, 12], num_heads=[1, 2, 3], depth=[1, 2, 3], mlp_ratio=[2.0, 2.0, 2.0]), 32),
    "davit": (of_timm("davit_tiny", embed_dims=(8, 12), num_heads=(1, 2), depths=(1, 1)), 32),
    "deit": (of_timm("deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, embed_dim=24, num_heads=2, depth=2), 32),
    "dinov2": (of_hugging_face("Dinov2", mlp_ratio=2, **FLAT), 32),
    "efficientformer": (efficientformer, 64),
    "focalnet": (lambda: FocalNet(embed_dim=8, depths=(1, 1), num_classes=CLASSES), 32),
    "gmlp": (lambda: MlpMixer(CLASSES, 32, 3, 8, 2, 16, 4, SpatialGatingBlock, GatedMlp), 32),
    "levit": (of_timm("levit_128s", img_size=64, embed_dim=(16, 24, 32), key_dim=8, num_heads=(2, 3, 4), depth=(1, 1, 1)), 64),
    "maxvit": (lambda: MaxVit((64, 64), 8, 2, [8, 16], [1, 1], 8, 0.0, num_classes=CLASSES), 64),
    "mixer": (lambda: MlpMixer(CLASSES, 32, 3, 8, 2, 24), 32),
    "mobilevit": (
        of_hugging_face("MobileViT", image_size=64, hidden_sizes=[8, 12, 16], neck_hidden_sizes=[8, 8, 8, 8, 12, 16, 16], num_attention_heads=2),
        64,
    ),
    "mvitv2": (lambda: MultiScaleVit(MultiScaleVitCfg(depths=(1, 1, 1), embed_dim=8), 32, num_classes=CLASSES), 32),
    "poolformer": (lambda: MetaFormer(3, CLASSES, depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), norm_layers=GroupNorm1NoBias, use_mlp_head=False), 32),
    "pvt": (of_timm("pvt_v2_b0", num_heads=(1, 2, 2, 3), **STAGES), 32),
    "segformer": (of_hugging_face("Segformer", hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 3]), 32),
    "swiftformer": (of_hugging_face("SwiftFormer", image_size=64, embed_dims=[8, 12, 16, 24], depths=[1, 1, 1, 1]), 64),
    "swin": (swin, 32),
    "swin_v2": (lambda: swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2), 32),
    "vit": (lambda: VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=CLASSES), 32),
    "xcit": (of_timm("xcit_nano_12_p8_224", img_size=32, embed_dim=24, depth=2, num_heads=2, cls_attn_layers=1), 32),
}


def build(name):
    """Weights as they are initialised, and none of them zero."""
    torch.manual_seed(0)
    model = NETS[name][0]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn(buffer.shape))
    return model


def write(name):
    model, side = build(name), NETS[name][1]
    exact = copy.deepcopy(model).double()
    candidates = []
    for seed in range(1000, 1012):
        x = torch.from_numpy(INPUT_SCALE * uniform(seed, 3 * side**2)).reshape(1, 3, side, side)
        with torch.no_grad():  # some nets keep what they compute of their weights
            target = int(exact(x.double()).argmax())
            model(x)
        reference = gradient(exact, x.double(), target)
        float32 = distance(gradient(model, x, target), reference)
        rounding = rounding_distance(exact, x.double(), target, reference)
        candidates.append((max(float32, rounding), seed, x, target, reference, float32, rounding))
        if candidates[-1][0] < 1e-5:
            break
    _, seed, x, target, reference, float32, rounding = min(candidates, key=lambda candidate: candidate[0])
    tensors = {"logits": exact(x.double())[0].detach().numpy(), "gradient": reference}
    metadata = {
        "input": json.dumps({"seed": seed, "scale": INPUT_SCALE, "shape": list(x.shape[1:])}),
        "target": str(target),
        "gradient.float32": f"{float32:.3g}",
        "gradient.rounding": f"{rounding:.3g}",
        "made_by": f"torch {torch.__version__}, timm {timm.__version__}",
    }
    save_file({key: np.ascontiguousarray(value, np.float32) for key, value in tensors.items()}, FOLDER / f"{name}.safetensors", metadata)
    for exporter, opset in EXPORTS:
        proto = export(model, x, exporter, opset)
        logits = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"input": x.numpy()})[0][0]
        strip(proto)
        onnx.save(proto, FOLDER / f"{name}.{exporter}{opset}.onnx")
        print(f"{name} {exporter} {opset}: float32 {float32:.1e} rounding {rounding:.1e} forward {distance(logits, tensors['logits']):.1e}", flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or NETS:
        write(name)
