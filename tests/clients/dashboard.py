"""The page at /, in Chromium without a network but for its own server: dashboard.py URL. A photo is dropped and explained, maps are looked at
without asking the server, regions erased, jobs run and cancelled, a model uploaded in two versions; wrong files, a server that is gone and come
back; and no serious fault of accessibility in any view."""
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile

from playwright.sync_api import expect, sync_playwright

from shared import PHOTO, ROOT, chromium

url = sys.argv[1]
AXE = (ROOT / "runtime/axe-core/axe.min.js").read_text()
MODEL = ROOT / "models/squeezenet1_1"
requests = []


def open_page(browser, start, **options):
    """A page whose faults and requests are kept."""
    page = browser.new_page(viewport={"width": 1400, "height": 900}, **options)
    page.on("dialog", lambda dialog: dialog.accept())
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: requests.append(request))
    page.goto(start)
    return page


def check_access(page, place):
    """No fault that axe calls serious or critical."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    serious = [(one["id"], [node["html"][:160] for node in one["nodes"]][:3]) for one in found if one["impact"] in ("serious", "critical")]
    assert not serious, (place, serious)


def drop(page, name, content, media_type):
    """Drops a file anywhere on the page."""
    page.wait_for_selector(".maps")
    page.evaluate(
        """([name, data, type]) => {
          const bytes = Uint8Array.from(atob(data), (symbol) => symbol.charCodeAt(0))
          const transfer = new DataTransfer()
          transfer.items.add(new File([bytes], name, { type }))
          for (const kind of ["dragover", "drop"]) document.querySelector(".maps").dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }))
        }""",
        [name, base64.b64encode(content).decode(), media_type],
    )


def pixels(canvas):
    """Sums of its pixels, each channel."""
    return canvas.evaluate(
        """(canvas) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
          const sums = [0, 0, 0]
          for (let at = 0; at < data.length; at += 4) for (let channel = 0; channel < 3; channel++) sums[channel] += data[at + channel]
          return sums
        }"""
    )


def explain(page):
    page.locator("#run").click()
    expect(page.locator(".maps")).to_have_attribute("aria-busy", "false")


def choose(page, methods):
    """These methods and no others, by their titles."""
    while page.get_by_role("button", name=re.compile("^Remove ")).count():
        page.get_by_role("button", name=re.compile("^Remove ")).first.click()
    more = page.locator("details.more")
    if more.get_attribute("open") is None:
        more.locator("summary").click()
    for method in methods:
        more.get_by_label(method, exact=True).check()
    more.locator("summary").click()


def panel(page, title):
    place = page.locator("details.panel", has=page.get_by_role("heading", name=title))
    if place.get_attribute("open") is None:
        place.locator("> summary").click()
    return place


def saved(page, click):
    with page.expect_download() as waited:
        click()
    return waited.value


def explain_a_photo(page):
    expect(page.get_by_text("Drop a photo anywhere on this page.")).to_be_visible()
    check_access(page, "start")
    drop(page, "chelsea.png", PHOTO.read_bytes(), "image/png")
    classes = page.locator(".class")
    expect(classes.first).to_contain_text("tiger_cat")
    choose(page, ["Integrated Gradients", "Grad-CAM"])

    # The form knows the method's parameters, and the server says what is wrong with them and what it costs.
    page.get_by_role("button", name="Integrated Gradients", exact=True).click()
    steps = page.get_by_label("n steps")
    steps.fill("0")
    expect(page.locator(".form .fault")).to_contain_text("0 is not an integer from 1 to 10000")
    expect(page.locator("#run")).to_be_disabled()
    steps.fill("4")
    expect(page.locator(".total")).to_have_text("7 evaluations")
    explain(page)
    cards = page.locator(".card")
    expect(cards).to_have_count(2)
    sent = [one for one in requests if one.url == f"{url}/compare"]
    assert len(sent) == 1, "several methods are one request"

    # Two maps of the photo, which differ from one another and from the photo.
    maps = [pixels(card.locator("canvas")) for card in cards.all()]
    assert maps[0] != maps[1] and all(any(value > 0 for value in sums) for sums in maps)
    label = cards.nth(1).locator("canvas").get_attribute("aria-label")
    assert "Grad-CAM, tiger_cat" in label and "highest value" in label, label
    check_access(page, "maps")
    return cards


def look_at_maps(page, cards):
    """Every control changes the picture, and none asks the server."""
    canvas = cards.nth(1).locator("canvas")
    display = panel(page, "Display")
    before, asked = pixels(canvas), len(requests)
    controls = [
        lambda: display.get_by_label("Opacity").fill("0.3"),
        lambda: display.get_by_label("Colour map").select_option("inferno"),
        lambda: display.get_by_label("Picture below").select_option("grayscale"),
        lambda: display.get_by_label("Only the strongest").fill("10"),
        lambda: display.get_by_label("Only the strongest").fill("100"),
        lambda: display.get_by_label("Hide below percentile").fill("80"),
        lambda: display.get_by_label("Sign").select_option("negative"),
        lambda: display.get_by_label("what it saw").check(),
        lambda: display.get_by_role("button", name="Reset").click(),
    ]
    for place, control in enumerate(controls):
        control()
        page.wait_for_timeout(30)
        after = pixels(canvas)
        assert after != before, f"control {place} changes nothing"
        before = after
    end = cards.nth(0).locator(".ticks span").last
    own = end.text_content()
    display.get_by_label("all", exact=True).check()
    assert cards.nth(1).locator(".ticks span").last.text_content() == end.text_content() != own
    display.get_by_label("each its own").check()

    # The cursor is that of all maps, by mouse and by keyboard.
    canvas.hover(position={"x": 100, "y": 80})
    values = [card.locator(".readout b").text_content() for card in cards.all()]
    assert len(set(values)) == 2, values
    page.mouse.move(5, 5)
    canvas.focus()
    page.keyboard.press("ArrowRight")
    first = cards.nth(0).locator(".readout").text_content()
    page.keyboard.press("Shift+ArrowLeft")
    assert cards.nth(0).locator(".readout").text_content() != first
    page.keyboard.press("Escape")
    assert len(requests) == asked, [one.url for one in requests[asked:]]


def choose_target_and_contrast(page, cards):
    page.locator(".class", has_text="Egyptian_cat").click()
    expect(cards.nth(0).locator("header")).to_contain_text("Egyptian_cat")
    page.locator(".class", has_text="tabby").click()
    expect(cards.nth(0).locator("header")).to_contain_text("Egyptian_cat − tabby")
    expect(page.locator(".asked")).to_contain_text("Egyptian_cat rather than tabby")
    page.get_by_role("button", name="Clear").first.click()
    expect(cards.nth(0).locator("header")).to_contain_text("tiger_cat")

    page.get_by_label("Several classes side by side").check()
    expect(page.locator(".row")).to_have_count(3)
    expect(page.locator(".card")).to_have_count(6)
    ends = {page.locator(".card").nth(place).locator(".ticks span").last.text_content() for place in (0, 2, 4)}
    assert len(ends) == 1, f"classes are on one scale: {ends}"
    page.get_by_label("Several classes side by side").uncheck()
    expect(page.locator(".card")).to_have_count(2)


def erase_a_region(page, cards):
    regions = panel(page, "Regions")
    regions.get_by_label("paint").check()
    canvas = cards.nth(1).locator("canvas")
    box = canvas.bounding_box()
    before = pixels(canvas)
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.6 * box["height"], steps=4)
    page.mouse.up()
    assert pixels(canvas) != before
    expect(regions.get_by_text("Positive attribution in the region")).to_be_visible()
    regions.get_by_role("button", name="Erase and predict").click()
    expect(regions.get_by_text("Without the region")).to_be_visible()
    row = regions.locator("table").last.locator("tbody tr").first.locator("td")
    assert row.nth(0).text_content() != row.nth(1).text_content()
    check_access(page, "regions")
    regions.get_by_role("button", name="Clear").click()
    regions.get_by_label("look").check()


def take_away(page, cards):
    """PNG, npy and a bundle, which the command makes again."""
    cards.nth(1).get_by_text("Save", exact=True).click()
    menu = cards.nth(1).locator(".menu")
    picture = saved(page, lambda: menu.get_by_role("button", name="PNG").click())
    assert picture.suggested_filename == "grad_cam-tiger_cat.png"
    assert open(picture.path(), "rb").read(8) == b"\x89PNG\r\n\x1a\n"
    array = open(saved(page, lambda: menu.get_by_role("button", name="npy").click()).path(), "rb").read()
    assert array[:6] == b"\x93NUMPY" and b"(1, 224, 224)" in array[:128] and (len(array) - 224 * 224 * 4) % 64 == 0
    bundle = saved(page, lambda: menu.get_by_role("button", name="bundle").click())
    bundle.save_as("bundle.zip")
    again = subprocess.run([os.environ["EXPLAIND_BIN"], "rerun", "bundle.zip", "--models", ROOT / "models"], env=settings(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    share = panel(page, "Share and repeat")
    share.get_by_role("button", name="The same as").click()
    expect(page.get_by_role("dialog").locator("pre")).to_have_count(2)
    code = page.get_by_role("dialog").locator("pre").all()
    assert "curl" in code[0].text_content() and "requests.post" in code[1].text_content()
    shutil.copy(PHOTO, ".")
    answer = subprocess.run(["bash", "-c", code[0].text_content()], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    told = json.loads(open("maps.json").read())
    assert [one["method"] for one in told["explanations"]] == ["integrated_gradients", "grad_cam"]
    check_access(page, "dialog")
    page.keyboard.press("Escape")


def settings():
    """An environment in which the command knows ONNX Runtime and the model, and nothing of this test."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("EXPLAIND_")}
    library = next((ROOT / "runtime").glob("libonnxruntime.so.*"))
    return {**others, "EXPLAIND_ONNXRUNTIME": str(library), "EXPLAIND_DEFAULT_MODEL": "squeezenet1_1"}


def refuse_a_wrong_file(page, cards):
    drop(page, "notes.png", b"no picture at all", "image/png")
    expect(page.locator(".picker .problem")).to_contain_text("image")
    expect(cards).to_have_count(2)
    expect(page.locator(".class").first).to_contain_text("tiger_cat")
    page.locator(".picker .problem").get_by_role("button", name="Close").click()
    page.faults = [fault for fault in page.faults if "422" not in fault and "415" not in fault]


def work_with_data_sets_and_jobs(page):
    with zipfile.ZipFile("pets.zip", "w") as archive:
        archive.write(PHOTO, "tiger_cat/chelsea.png")
        archive.write(ROOT / "examples/jaguar.webp", "jaguar/jaguar.webp")
    page.get_by_role("link", name="Data sets").click()
    page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_label("Archive").set_input_files("pets.zip")
    page.locator("form.upload").get_by_role("button", name="Upload").click()
    expect(page.locator(".thumbs img")).to_have_count(2)
    page.get_by_label("Label", exact=True).select_option("jaguar")
    expect(page.locator(".thumbs li")).to_have_count(1)
    check_access(page, "data sets")

    page.get_by_role("link", name="Jobs").click()
    start_job(page, "degradation", ["Gradient"], {"limit": "1", "steps": "3", "grid": "4"})
    expect(page.locator(".detail .state")).to_have_text("succeeded")
    expect(page.locator(".detail .chart path[stroke]")).not_to_have_count(0)
    report = json.loads(open(saved(page, lambda: page.get_by_role("button", name="JSON", exact=True).click()).path()).read())
    assert report["request"]["steps"] == 3 and report["result"]["used"] == 1, report
    check_access(page, "report")

    start_job(page, "evaluate", ["Randomized Input Sampling"], {"limit": "2"})
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator(".detail .state")).to_have_text("cancelled")
    expect(page.locator(".item .state").first).to_have_text("cancelled")

    # A finished job orders the images of its set.
    start_job(page, "evaluate", ["Gradient"], {"limit": "2"}, metrics=["Sparseness"])
    expect(page.locator(".detail .state")).to_have_text("succeeded")
    page.get_by_role("link", name="Data sets").click()
    page.locator(".item", has_text="pets").click()
    page.get_by_label("In the order of").select_option(index=1)
    expect(page.locator(".thumbs li")).to_have_count(2)
    first = page.locator(".thumbs .name").first.text_content()
    page.get_by_label("Order", exact=True).select_option("ascending")
    expect(page.locator(".thumbs .name").first).not_to_have_text(first)
    page.locator(".thumbs button", has_text="jaguar").click()
    expect(page.locator(".class").first).to_contain_text("jaguar")
    assert "dataset%3Apets%2F" in page.url, page.url


def start_job(page, kind, methods, fields, metrics=()):
    page.get_by_role("button", name="New job").click()
    form = page.locator(".start-job")
    form.get_by_label("Kind").select_option(kind)
    form.get_by_label("Data set").select_option("pets")
    for group, names in (("Methods", methods), ("Metrics", metrics)):
        if not names:
            continue
        box = form.get_by_role("group", name=re.compile(f"^{group}"))
        while box.get_by_role("checkbox", checked=True).count():
            box.get_by_role("checkbox", checked=True).first.click()
        for name in names:
            box.get_by_label(name, exact=True).check()
    form.get_by_text("More parameters").click()
    for name, value in fields.items():
        form.get_by_label(name).fill(value)
    form.get_by_role("button", name="Start the job").click()
    expect(page.locator(".detail progress")).to_be_visible()


def upload_a_model(page):
    """Two versions of a model, next to one another."""
    page.get_by_role("link", name="Models").click()
    page.get_by_role("button", name="Upload", exact=True).click()
    form = page.locator("form.upload")
    form.get_by_label("Name").fill("mine")
    form.get_by_label("ONNX file").set_input_files(MODEL / "model.onnx")
    form.get_by_label("Labels").set_input_files(MODEL / "labels.txt")
    form.get_by_label("Mean").fill("0.485, 0.456, 0.406")
    form.get_by_role("button", name="Upload").click()
    expect(page.locator(".detail h2")).to_have_text("mine")
    check_access(page, "models")
    page.get_by_role("button", name="New version").click()
    form = page.locator(".detail form.upload")
    form.get_by_label("ONNX file").set_input_files(MODEL / "model.onnx")
    form.get_by_role("button", name="Upload").click()
    rows = page.get_by_role("region", name="Versions").locator("tbody tr")
    expect(rows).to_have_count(2)
    rows.nth(1).get_by_role("button", name="Compare with the one in use").click()
    expect(page.get_by_label("Beside it")).to_have_value("mine.v1")
    choose(page, ["Gradient"])
    explain(page)
    expect(page.locator(".row-title .badge")).to_have_text(["mine", "mine.v1"])


servers = []


def start_server(port, data):
    """A server of one's own, which can be killed."""
    server = subprocess.Popen([os.environ["EXPLAIND_BIN"], "serve", "--listen", f"127.0.0.1:{port}", "--models", ROOT / "models", "--data", data], env=settings(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    servers.append(server)
    for line in server.stderr:
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        if found:
            # Its log fits into the pipe.
            return server, int(found.group(1))
    raise AssertionError("the server did not start")


def lose_the_server(browser):
    """A server that is gone is told, and nothing is lost; what was shared opens again after its restart."""
    server, port = start_server(0, "data")
    own = f"http://127.0.0.1:{port}"
    page = open_page(browser, f"{own}/")
    drop(page, "chelsea.png", PHOTO.read_bytes(), "image/png")
    expect(page.locator(".class").first).to_contain_text("tiger_cat")
    choose(page, ["Gradient"])
    explain(page)
    panel(page, "Display").get_by_label("Opacity").fill("0.5")
    panel(page, "Share and repeat").get_by_role("button", name="Keep the picture").click()
    shared = page.get_by_label("Address").input_value()
    before = pixels(page.locator(".card canvas"))
    server.kill()
    server.wait()
    page.locator("#run").click()
    expect(page.locator(".banner")).to_contain_text("does not answer")
    expect(page.locator(".maps .problem")).to_contain_text("The server does not answer")
    expect(page.locator(".card")).to_have_count(1)
    server, _ = start_server(port, "data")
    expect(page.locator(".banner")).to_have_count(0)
    page.close()
    page = open_page(browser, shared)
    expect(page.locator(".card canvas")).to_be_visible()
    page.wait_for_timeout(100)
    assert pixels(page.locator(".card canvas")) == before
    assert not page.faults, page.faults
    server.kill()
    server.wait()
    return own


def test(playwright):
    browser = chromium(playwright, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    started = time.monotonic()
    page = open_page(browser, f"{url}/")
    cards = explain_a_photo(page)
    look_at_maps(page, cards)
    choose_target_and_contrast(page, cards)
    erase_a_region(page, cards)
    take_away(page, cards)
    refuse_a_wrong_file(page, cards)
    work_with_data_sets_and_jobs(page)
    upload_a_model(page)
    assert not page.faults, page.faults
    own = lose_the_server(browser)
    others = {one.url for one in requests if not one.url.startswith((f"{url}/", f"{own}/", "blob:", "data:"))}
    assert not others, others
    phone = open_page(browser, f"{url}/", color_scheme="dark")
    phone.set_viewport_size({"width": 390, "height": 844})
    for view in ["Explain", "Data sets", "Jobs", "Models"]:
        phone.get_by_role("link", name=view, exact=True).click()
        phone.wait_for_timeout(200)
        width = phone.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, (view, width)
        check_access(phone, f"{view} on a phone, dark")
    print(f"{time.monotonic() - started:.1f} s")


try:
    with sync_playwright() as playwright:
        test(playwright)
finally:
    for server in servers:
        server.kill()
