"""What the scripts of this folder share."""
import glob
import os
import pathlib
import shutil
import struct
import subprocess
import sys

ROOT = pathlib.Path(os.environ["EXPLAIND_ROOT"])
PHOTO = ROOT / "examples/chelsea.png"
# Of the photo; 281, 282 and 285 are the cats in it.
SIZE = (451, 300)
CATS = {"tabby", "tiger_cat", "Egyptian_cat"}


def tool(name, *arguments):
    """Runs a program of this environment; its complaint is ours. Its output is given."""
    path = pathlib.Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    done = subprocess.run([path / name, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stdout}")
    return done.stdout


def chromium(playwright, *arguments):
    """The browser that is installed, or was fetched, without a window."""
    fetched = ROOT / "runtime/chromium/usr/lib"
    installed = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    libraries = ":".join(glob.glob(f"{fetched}/*-linux-gnu/**/", recursive=True))
    environment = os.environ if installed else {**os.environ, "LD_LIBRARY_PATH": libraries}
    program = installed or f"{fetched}/chromium/chromium-headless-shell"
    return playwright.chromium.launch(executable_path=program, env=environment, args=["--no-sandbox", *arguments])


def is_picture(data):
    """Whether this is a PNG as large as the photo, or larger by its legend."""
    width, height = struct.unpack(">II", data[16:24])
    return data[:8] == b"\x89PNG\r\n\x1a\n" and width >= SIZE[0] and height >= SIZE[1]


def floats(data):
    return struct.unpack(f"<{len(data) // 4}f", data)
