"""Makes the images of this folder and the pixels PIL sees in them (<name>.rgb.npy). Needs numpy and Pillow 13.

python make.py
"""

import io
import struct

import numpy as np
from PIL import Image, ImageOps

W, H = 24, 16
y, x = np.mgrid[0:H, 0:W]
RGB = np.stack([x * 10, y * 15, (x + y) * 6], axis=-1).astype(np.uint8)
ALPHA = (x * 11).astype(np.uint8)
photo = Image.fromarray(RGB)


def keep(name, data, expected=None):
    """Writes the file, and the RGB8 pixels that decoding it should give."""
    open(name, "wb").write(data)
    if expected is None:
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.save(name + ".rgb.npy", expected)


def save(image, **options):
    out = io.BytesIO()
    image.save(out, **options)
    return out.getvalue()


def over_white(rgb, alpha):
    a = alpha[..., None].astype(int)
    return ((rgb * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)


for kind in ("png", "bmp"):
    keep(f"rgb.{kind}", save(photo, format=kind))
keep("rgb.webp", save(photo, format="webp", lossless=True))
keep("grey.png", save(photo.convert("L"), format="png"))
keep("palette.png", save(photo.quantize(16), format="png"))
keep("rgba.png", save(Image.fromarray(np.dstack([RGB, ALPHA])), format="png"), over_white(RGB, ALPHA))

grey16 = (RGB[..., 1].astype(np.uint16) * 257) + 3
keep("grey16.png", save(Image.fromarray(grey16), format="png"), np.repeat(RGB[..., 1:2], 3, axis=-1))

for turn in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = save(photo, format="jpeg", quality=95, subsampling=0, exif=exif)
    keep(f"exif{turn}.jpg", data, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))
keep("progressive420.jpg", save(photo, format="jpeg", quality=95, subsampling=2, progressive=True))
keep("grey.jpg", save(photo.convert("L"), format="jpeg", quality=95))

cmyk = save(photo.convert("CMYK"), format="jpeg", quality=95)
keep("cmyk.jpg", cmyk)
at = cmyk.index(b"Adobe")
keep("ycck.jpg", cmyk[: at + 11] + b"\x02" + cmyk[at + 12 :])
keep("cmyk_no_adobe.jpg", cmyk[: at - 4] + cmyk[at - 4 + 2 + struct.unpack(">H", cmyk[at - 2 : at])[0] :])

frames = [photo, photo.rotate(180), photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
keep("animated.png", save(frames[0], format="png", save_all=True, append_images=frames[1:], duration=50), RGB)
keep(
    "animated.webp",
    save(frames[0], format="webp", save_all=True, append_images=frames[1:], duration=50, lossless=True),
    RGB,
)
keep("still.gif", save(photo, format="gif"))
keep("interlaced.gif", save(photo, format="gif", interlace=1))
keep(
    "animated.gif",
    save(photo.quantize(16), format="gif", save_all=True, append_images=[frame.quantize(16) for frame in frames[1:]]),
    np.asarray(photo.quantize(16).convert("RGB")),
)
# Index 0 is transparent.
indices = (x // 6).astype(np.uint8)
clear = Image.fromarray(indices).convert("P")
clear.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0, 0, 0, 200])
over = np.asarray(clear.convert("RGB")).copy()
over[indices == 0] = 255
keep("transparent.gif", save(clear, format="gif", transparency=0), over)

for name, image, options in (
    ("rgb.tif", photo, {}),
    ("lzw.tif", photo, {"compression": "tiff_lzw"}),
    ("deflate.tif", photo, {"compression": "tiff_adobe_deflate"}),
    ("grey.tif", photo.convert("L"), {}),
    ("bilevel.tif", photo.convert("1"), {}),
    ("palette.tif", photo.quantize(16), {"compression": "packbits"}),
    ("cmyk.tif", photo.convert("CMYK"), {}),
):
    keep(name, save(image, format="tiff", **options))
keep("rgba.tif", save(Image.fromarray(np.dstack([RGB, ALPHA])), format="tiff"), over_white(RGB, ALPHA))
keep("grey16.tif", save(Image.fromarray(grey16), format="tiff"), np.repeat(RGB[..., 1:2], 3, axis=-1))
keep("pages.tif", save(photo, format="tiff", save_all=True, append_images=frames[1:]), RGB)
# Big-endian, stored as a camera held upside down.
turned = Image.Exif()
turned[0x0112] = 3
data = save(photo, format="tiff", big_endian=True, exif=turned)
keep("turned.tif", data, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))
open("jpeg.tif", "wb").write(save(photo, format="tiff", compression="jpeg"))
open("lossy.webp", "wb").write(save(photo, format="webp", quality=80))
open("float.tif", "wb").write(save(Image.fromarray(RGB[..., 0].astype(np.float32)), format="tiff"))

# A smooth picture with noise, and what PIL's `Resize(32)` + `CenterCrop(28)` make of it, wide and tall, down and up.
noise = np.random.default_rng(0).integers(-40, 40, (47, 75, 3))
gy, gx = np.mgrid[0:47, 0:75]
wide = np.clip(np.stack([gx * 3, gy * 5, 255 - gx - gy], axis=-1) + noise, 0, 255).astype(np.uint8)
for name, pixels in (("wide", wide), ("tall", np.ascontiguousarray(wide.transpose(1, 0, 2))), ("small", wide[:12, :19])):
    source = Image.fromarray(pixels)
    source.save(f"{name}.png")
    short = min(source.size)
    size = tuple(32 * side // short for side in source.size)
    left, top = (round((side - 28) / 2) for side in size)
    for filter in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS"):
        cropped = source.resize(size, Image.Resampling[filter]).crop((left, top, left + 28, top + 28))
        np.save(f"{name}.{filter.lower()}.npy", np.asarray(cropped))
