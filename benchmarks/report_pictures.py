"""Pictures of report pages for docs/report.md, of data that everybody can have.

    python benchmarks/report_pictures.py

compares on gapminder (--quick) and trains on gapminder and alphabets, about three minutes on two cores, and takes
pictures of the pages with an installed Chromium. What is in the folder of --runs already is used again.
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from innerloop.cli import run

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "gapminder-compare": "compare gapminder --n-support 3 --quick --folds 1 --tries 1 --steps 150",
    "gapminder-maml": "train gapminder --n-support 3 --steps 300",
    "alphabets-maml": "train alphabets --n-shot 1 --width 16 --steps 60",
}
# picture: page, width of the screen, dark, the heading it begins at, height
PICTURES = {
    "compare": ("gapminder-compare", 1100, False, "h1", 1150),
    "compare-curves": ("gapminder-compare", 1100, True, "Curves", 640),
    "compare-phone": ("gapminder-compare", 390, True, "h1", 844),
    "episodes": ("gapminder-maml", 1100, False, "Episodes", 760),
    "images": ("alphabets-maml", 1100, False, "Episodes", 620),
    "learned": ("gapminder-maml", 1100, True, "What was learned", 850),
}
START = """
const h = [...document.querySelectorAll('h1, h2')].find(h => h.tagName.toLowerCase() === arguments[0]
  || h.textContent === arguments[0]);
document.documentElement.style.scrollBehavior = 'auto';
window.scrollTo(0, h.getBoundingClientRect().top + scrollY - 40);
"""


def browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    profile = tempfile.mkdtemp()
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", help="folder of the pictures")
    options = parser.parse_args()
    for name, command in COMMANDS.items():
        place = options.runs / name
        if not (place / "report.html").is_file() and run([*command.split(), "--out", str(place)]):
            raise SystemExit(f"innerloop {command} failed")
    options.out.mkdir(parents=True, exist_ok=True)
    driver = browser()
    for picture, (name, width, dark, heading, height) in PICTURES.items():
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        driver.get((options.runs / name / "report.html").resolve().as_uri())
        driver.execute_script(START, heading)
        shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
        few = shot.quantize(256, method=Image.Quantize.MAXCOVERAGE)  # looks the same at a third of the bytes
        few.save(options.out / f"{picture}.png", optimize=True)
        print(f"{options.out / picture}.png", (options.out / f"{picture}.png").stat().st_size // 1000, "kB")
    driver.quit()


if __name__ == "__main__":
    main()
