"""The nets of tests/parity/torchvision/: torchvision's own constructors, few classes, the widest fully connected layers narrowed."""

import dataclasses
from collections.abc import Callable

from torch import nn
from torchvision import models

CLASSES = 20
SCRIPT = ("script", 17)
DYNAMO = ("dynamo", 18)
FIXED = ("fixed", 17)


@dataclasses.dataclass
class Net:
    build: Callable[[], nn.Module]
    exports: list = dataclasses.field(default_factory=lambda: [SCRIPT, DYNAMO])
    side: int = 64
    fused: bool = True  # BatchNormalization folded into the Conv before it, as torch.onnx.export does by default
    rectified: bool = False  # also guided backpropagation and the deconvnet


def narrow(model, pool, channels):
    """A classifier of AlexNet's and VGG's form on `channels` x `pool` x `pool` features."""
    model.avgpool = nn.AdaptiveAvgPool2d(pool)
    model.classifier = nn.Sequential(
        nn.Linear(channels * pool**2, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, CLASSES)
    )
    return model


def plain(constructor, **options):
    return lambda: constructor(weights=None, num_classes=CLASSES, **options)


def vgg(constructor):
    return lambda: narrow(constructor(weights=None, init_weights=False), 2, 512)


NETS = {
    "alexnet": Net(lambda: narrow(models.alexnet(weights=None), 2, 256), side=96, rectified=True),
    "vgg11": Net(vgg(models.vgg11), [("script", 9), SCRIPT], rectified=True),
    "vgg16": Net(vgg(models.vgg16), [DYNAMO]),
    "vgg16_bn": Net(vgg(models.vgg16_bn), [("script", 13)], fused=False),
    "resnet18": Net(plain(models.resnet18), [("script", 9), SCRIPT, FIXED, DYNAMO], rectified=True),
    "resnet18_bn": Net(plain(models.resnet18), [("script", 7), ("script", 15)], fused=False),
    "resnet50": Net(plain(models.resnet50)),
    "resnext50": Net(plain(models.resnext50_32x4d), [("script", 13), DYNAMO]),
    "squeezenet1_0": Net(plain(models.squeezenet1_0), [("script", 11)]),
    "squeezenet1_1": Net(plain(models.squeezenet1_1), [SCRIPT, ("dynamo", 20)]),
    "densenet121": Net(plain(models.densenet121), [("script", 9), SCRIPT, DYNAMO]),
    "googlenet": Net(plain(models.googlenet, aux_logits=False, init_weights=False, transform_input=True)),
    "inception_v3": Net(plain(models.inception_v3, aux_logits=False, init_weights=False, transform_input=True), side=80),
    "mobilenet_v2": Net(plain(models.mobilenet_v2), [("script", 9), ("script", 11), SCRIPT, DYNAMO]),
    "mobilenet_v2_bn": Net(plain(models.mobilenet_v2), [("script", 13)], fused=False),
    "mobilenet_v3_large": Net(plain(models.mobilenet_v3_large), [("script", 13), SCRIPT, DYNAMO]),
    "mobilenet_v3_small": Net(plain(models.mobilenet_v3_small), [("script", 11), ("dynamo", 20)]),
    "mnasnet": Net(plain(models.mnasnet1_0)),
    "shufflenet_v2": Net(plain(models.shufflenet_v2_x1_0), [("script", 9), ("script", 13), SCRIPT, FIXED, DYNAMO]),
    "regnet_x": Net(plain(models.regnet_x_400mf)),
    "regnet_y": Net(plain(models.regnet_y_400mf)),
    "efficientnet_b0": Net(plain(models.efficientnet_b0), [("script", 13), SCRIPT, DYNAMO]),
    "efficientnet_v2_s": Net(plain(models.efficientnet_v2_s), [("script", 20)]),
}
