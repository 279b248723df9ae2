"""Opens a page in headless Chromium and tells what it shows, asks for and complains about, as JSON:
`python browse.py PAGE... [--pictures]`. A process of its own, since playwright keeps threads."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
_LOOK = """() => ({
  title: document.title,
  text: document.body.innerText,
  plots: Object.fromEntries([...document.querySelectorAll('.plotly-graph-div')].map(
    div => [div.id, {
      traces: div.data.map(t => [t.name, t.x.length ?? Object.keys(t.x).length]),
      drawn: div.querySelectorAll('.main-svg .trace, .main-svg .bars, .main-svg .point').length,
      width: div.getBoundingClientRect().width,
    }])),
  overflow: document.documentElement.scrollWidth - window.innerWidth,
})"""


def look(*pages: Path, timeout: float = 120.0) -> list[dict[str, Any]]:
    """What a browser finds in each file; the caller's process starts no thread."""
    words = [sys.executable, __file__, *map(str, pages)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _browse(pages: list[str], *, has_pictures: bool) -> list[dict[str, Any]]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        found = [_open(browser, Path(page), has_picture=has_pictures) for page in pages]
        browser.close()
    return found


def _open(browser: Any, path: Path, *, has_picture: bool) -> dict[str, Any]:
    asked: list[str] = []
    complaints: list[str] = []
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(path.resolve().as_uri(), wait_until="load", timeout=90_000)
    tab.wait_for_timeout(300)
    found: dict[str, Any] = tab.evaluate(_LOOK)
    if has_picture:
        tab.screenshot(path=path.with_suffix(".png"), full_page=True)
    tab.close()
    fetched = [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    return {**found, "fetched": fetched, "requests": len(asked), "complaints": complaints}


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--pictures"]
    print(json.dumps(_browse(words, has_pictures="--pictures" in sys.argv)))
