"""How is a page looked at: in a browser without a window, at a given width, in light or dark?"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DRIVER = "chromedriver"

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
)

# What is outside of the window, and texts that lie on each other. What scrolls in a box of its own may reach beyond it.
AUDIT = """
const faults = [];
const width = window.innerWidth;
const root = document.documentElement;
if (root.scrollWidth > width) faults.push(`the page is ${root.scrollWidth} px wide, the window ${width} px`);
const says = (one) => `${one.tagName.toLowerCase()} "${one.textContent.trim().slice(0, 40)}"`;
const scrolls = (one) => one.parentElement.closest(".scroll, pre") !== null;
for (const one of document.body.querySelectorAll("*")) {
  const box = one.getBoundingClientRect();
  if (!one.checkVisibility() || box.width === 0 || scrolls(one)) continue;
  if (box.right > width + 0.5 || box.left < -0.5) faults.push(`cut off: ${says(one)} from ${box.left} to ${box.right}`);
}
const kinds = "h1, h2, h3, h4, p, li, td, th, caption, figcaption, pre, summary, img, #theme";
const boxes = [];
for (const one of document.body.querySelectorAll(kinds)) {
  const range = document.createRange();
  range.selectNodeContents(one);
  const box = (one.tagName === "IMG" ? one : range).getBoundingClientRect();
  if (one.checkVisibility() && box.width > 0) boxes.push([one, box]);
}
boxes.sort((one, other) => one[1].top - other[1].top);
for (let i = 0; i < boxes.length; i++) {
  const [one, box] = boxes[i];
  for (let j = i + 1; j < boxes.length && boxes[j][1].top < box.bottom - 1; j++) {
    const [other, there] = boxes[j];
    if (one.contains(other) || other.contains(one)) continue;
    const wide = Math.min(box.right, there.right) - Math.max(box.left, there.left);
    const high = Math.min(box.bottom, there.bottom) - Math.max(box.top, there.top);
    if (wide > 1 && high > 1) faults.push(`${says(one)} lies on ${says(other)} by ${wide} x ${high} px`);
  }
}
return faults;
"""


class Browser:
    """A page in a browser.

    Args:
        driver: Selenium's driver.
    """

    def __init__(self, driver) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        self.driver.get(path.as_uri())

    def look(self, width: int, scheme: str, height: int = 900) -> None:
        """Make the window so wide, and prefer `"light"` or `"dark"`."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def run(self, script: str, *arguments):
        """Run JavaScript in the page."""
        return self.driver.execute_script(script, *arguments)

    def open_details(self) -> None:
        self.run("for (const one of document.querySelectorAll('details')) one.open = true;")

    def audit(self) -> list[str]:
        """What is cut off, and which texts lie on each other."""
        return self.run(AUDIT)

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        found = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        return base64.b64decode(found["data"])

    def complaints(self) -> list[str]:
        """What the console says, faults of scripts and refusals of the policy among it, since this was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since this was last asked."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser, with an empty profile; skips where there is none.

    Args:
        profile: An empty directory.
    """
    selenium = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: pip install -e '.[browser]'"
    )
    from selenium.webdriver.chrome.service import Service

    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver_program = shutil.which(DRIVER)
    if program is None or driver_program is None:
        pytest.skip("no Chromium with its chromedriver on this machine")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=Service(driver_program))
    try:
        found = Browser(driver)
        driver.get("about:blank")
        found.complaints(), found.requests()  # those of the page that the browser itself begins with
        yield found
    finally:
        driver.quit()
