"""The page in a real browser: no errors, no requests, light and dark, on a phone and on a desk, with its numbers."""

import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

from innerloop import figures
from innerloop.report import comparison_page, render
from innerloop.report.figures.style import COLOURS
from toolkit.comparisons import synthetic_comparison

pytest.importorskip("matplotlib")
webdriver = pytest.importorskip(
    "selenium.webdriver", reason="selenium is not installed: pip install selenium"
)

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
PHONE, DESKTOP = 390, 1280


def installed(*names):
    return next((found for name in names if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium that is installed already; nothing is downloaded."""
    from selenium.webdriver.chrome.service import Service

    chromium = installed("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    driver = installed("chromedriver")
    if not (chromium and driver):
        pytest.skip("no browser: install chromium and chromium-driver (Debian), or Chrome and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(render(comparison_page(synthetic_comparison())))
    return path


def show(browser, page, *, width=DESKTOP, dark=False, media=""):
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features, "media": media})
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(page.as_uri())
    # on a busy machine the browser may answer before the last part of the page is there
    whole = "return document.readyState === 'complete' && document.getElementById('how') !== null"
    wait(lambda: browser.execute_script(whole))


def wait(done, seconds=20):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def colour(browser, script):
    """What a script returns, as three numbers."""
    return tuple(int(part) for part in browser.execute_script(f"return {script}").strip("rgb()").split(","))


def rgb(name, mode):
    return tuple(int(COLOURS[name][mode][i : i + 2], 16) for i in (1, 3, 5))


def test_it_opens_without_errors_and_asks_for_nothing(browser, page):
    browser.get_log("performance")
    show(browser, page)
    assert browser.get_log("browser") == []
    sent = [entry["message"] for entry in browser.get_log("performance")]
    asked = [text for text in sent if '"Network.requestWillBeSent"' in text]
    assert asked
    assert all(page.as_uri() in text or '"url":"data:' in text for text in asked)
    assert browser.execute_script("return document.scripts.length") == 0
    assert "<script>alert(1)</script>" in browser.execute_script("return document.body.textContent")


def test_dark_mode_follows_the_system(browser, page):
    text = "getComputedStyle(document.querySelector('svg text')).fill"
    paper = "getComputedStyle(document.body).backgroundColor"
    for mode, dark in ((0, False), (1, True)):
        show(browser, page, dark=dark)
        assert colour(browser, paper) == rgb("paper", mode)
        assert colour(browser, text) == rgb("ink", mode)
        blue = "[...document.querySelectorAll('svg use')].find(e => e.style.fill.includes('--blue'))"
        assert colour(browser, f"getComputedStyle({blue}).fill") == rgb("blue", mode)


def test_a_page_in_dark_mode_is_printed_light(browser, page):
    show(browser, page, dark=True, media="print")
    assert colour(browser, "getComputedStyle(document.body).backgroundColor") == rgb("paper", 0)
    assert browser.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"


@pytest.mark.parametrize("width", [320, PHONE, 768, DESKTOP])
def test_nothing_scrolls_sideways(browser, page, width):
    show(browser, page, width=width)
    for state in ("", "document.querySelectorAll('details').forEach(d => d.open = true);"):
        wide = browser.execute_script(f"{state} return document.documentElement.scrollWidth")
        assert wide <= width


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_text_in_pictures_is_inside_them_and_can_be_read(browser, page, width):
    show(browser, page, width=width)
    found = browser.execute_script("""
        return [...document.querySelectorAll('svg.figure')].flatMap(svg => {
          const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
          return [...svg.querySelectorAll('text')].filter(t => t.textContent.trim()).map(t => {
            const b = t.getBoundingClientRect();
            const out = Math.max(box.left - b.left, b.right - box.right, box.top - b.top, b.bottom - box.bottom);
            return [t.textContent, out, parseFloat(getComputedStyle(t).fontSize) * scale];
          });
        });
    """)
    assert len(found) > 100
    assert [text for text, outside, _ in found if outside > 3] == []
    assert [text for text, _, size in found if size < 9] == []


def test_pictures_and_landmarks_have_names(browser, page):
    show(browser, page)
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]
    ]
    images = [name for role, name in named if role in ("image", "img")]
    assert len(images) == 14
    assert all(images)
    assert images[0].startswith("Ranking")
    roles = [role for role, _ in named]
    for role in ("main", "navigation", "banner"):
        assert roles.count(role) == 1, role
    # what the browser says of a picture to those who cannot see it
    texts = [
        node.get("description", {}).get("value", "")
        for node in tree
        if node["role"]["value"] in ("image", "img")
    ]
    assert "Best: linear mixed model" in texts[0] or "Best: linear mixed model" in images[0]


def test_the_numbers_can_be_downloaded(browser, page, tmp_path):
    show(browser, page)
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    browser.execute_script(
        "const a = document.querySelector('a[download=\"ranking.csv\"]'); a.closest('details').open = true; a.click();"
    )
    path: Path = tmp_path / "ranking.csv"
    wait(path.exists)
    pd.testing.assert_frame_equal(pd.read_csv(path), figures.ranking_numbers(synthetic_comparison()))
    assert browser.get_log("browser") == []


def test_the_contents_lead_to_their_sections(browser, page):
    show(browser, page, width=PHONE)
    for link in browser.find_elements("css selector", "nav a"):
        target = link.get_attribute("href").partition("#")[2]
        heading = browser.find_element("css selector", f"h2[id='{target}']")
        assert heading.text == link.text
