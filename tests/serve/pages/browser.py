"""A headless browser, where there is one."""

from __future__ import annotations

import contextlib
import shutil
from typing import Any, Iterator, Optional

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "no browser: pip install playwright, and apt install chromium (or playwright install chromium)"


class NoBrowser(Exception):
    pass


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A playwright browser.

    Raises:
        NoBrowser: If playwright or a browser is missing.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise NoBrowser(MISSING) from None
    found: Optional[str] = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        try:
            made = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])  # root has no sandbox
        except Error:
            raise NoBrowser(MISSING) from None
        try:
            yield made
        finally:
            made.close()
