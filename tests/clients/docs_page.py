"""The page at /docs, in Chromium: "Try it out" as it is offered explains a photo, and what else needs no input answers: docs_page.py URL."""
import sys

from playwright.sync_api import sync_playwright

from shared import PHOTO, SIZE, chromium

url = sys.argv[1]


def answer(page, operation, photo=None):
    """Opens an operation, tries it as it stands, and gives the status and what shows the body."""
    block = page.locator(f"#operations-{operation}")
    block.locator(".opblock-summary").click()
    block.locator(".try-out__btn").click()
    if photo:
        block.locator("input[type=file]").set_input_files(photo)
    block.locator(".execute").click()
    live = block.locator(".live-responses-table")
    status = live.locator("tbody .response-col_status").first
    status.wait_for()
    return status.inner_text().split()[0], live


with sync_playwright() as playwright:
    browser = chromium(playwright)
    page = browser.new_page()
    page.set_default_timeout(120_000)
    faults = []
    page.on("pageerror", lambda error: faults.append(error))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(f"{url}/docs")
    page.wait_for_selector(".opblock")
    assert (page.url, page.title()) == (f"{url}/docs/", "explaind"), (page.url, page.title())
    for operation in ["explain-explain", "explain-compare", "explain-predict"]:
        status, live = answer(page, operation, PHOTO)
        assert status == "200", (operation, live.inner_text())
        if operation == "explain-predict":
            assert '"predictions"' in live.inner_text()
            continue
        picture = live.locator("img").first
        picture.wait_for()
        width, height = picture.evaluate("image => [image.naturalWidth, image.naturalHeight]")
        assert width >= SIZE[0] and height >= SIZE[1], (operation, width, height)
    for operation in ["catalogue-list_methods", "catalogue-get_method", "catalogue-list_models", "catalogue-get_model",
                      "jobs-list_jobs", "datasets-list_datasets", "health-check_readiness", "health-get_metrics"]:
        status, live = answer(page, operation)
        assert status == "200", (operation, live.inner_text())
    assert not faults, faults
