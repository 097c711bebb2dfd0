"""Pictures of report pages for docs/report.md and docs/compare.md, taken with an installed Chromium.

    python benchmarks/report_pictures.py

compares on gapminder (--quick) and trains on gapminder and alphabets, about three minutes on two cores. What is in the
folder of --runs already is used again.

    python benchmarks/report_pictures.py --of runs/hsb82-compare runs/schools-compare

takes the pictures of comparisons that are there, a screen and a phone each, and nothing else: verdict-hsb82.png and
verdict-hsb82-phone.png; --of NAME=FOLDER gives them another name.
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
from innerloop.compare.result import Comparison
from innerloop.report import comparison_page, render

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
# ending of the name: width, dark, heading, height
VERDICT = {"": (1000, False, "h1", 1400), "-phone": (390, True, "h1", 1000)}
# of a comparison that has it
FACTORIAL = {"-factorial": (1000, False, "Augmentation and dropout", 900)}
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


def take(driver: webdriver.Chrome, page: Path, out: Path, shot: tuple[int, bool, str, int]) -> None:
    """A picture of a part of a page: width of the screen, dark, the heading it begins at, height."""
    width, dark, heading, height = shot
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    driver.get(page.resolve().as_uri())
    driver.execute_script(START, heading)
    taken = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    few = taken.quantize(256, method=Image.Quantize.MAXCOVERAGE)  # looks the same at a third of the bytes
    few.save(out, optimize=True)
    print(out, out.stat().st_size // 1000, "kB")


def of_runs(driver: webdriver.Chrome, runs: Path, out: Path) -> None:
    """The pictures of docs/report.md, of runs that are made where they are missing."""
    for name, command in COMMANDS.items():
        place = runs / name
        if not (place / "report.html").is_file() and run([*command.split(), "--out", str(place)]):
            raise SystemExit(f"innerloop {command} failed")
    for picture, (name, *shot) in PICTURES.items():
        take(driver, runs / name / "report.html", out / f"{picture}.png", tuple(shot))


def of_comparisons(driver: webdriver.Chrome, folders: list[str], out: Path) -> None:
    """The verdict and the ranking of comparisons, drawn anew from their numbers."""
    for given in folders:
        name, _, folder = given.rpartition("=")
        found = Comparison.from_json(Path(folder, "comparison.json").read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as place:
            page = Path(place, "report.html")
            page.write_bytes(render(comparison_page(found)))
            for ending, shot in (VERDICT | (FACTORIAL if found.cells else {})).items():
                take(driver, page, out / f"verdict-{name or found.data['name']}{ending}.png", shot)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--of", nargs="+", default=[], help="folders of comparisons")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", help="folder of the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    driver = browser()
    if options.of:
        of_comparisons(driver, options.of, options.out)
    else:
        of_runs(driver, options.runs, options.out)
    driver.quit()


if __name__ == "__main__":
    main()
