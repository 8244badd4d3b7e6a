"""Writes docs/errors.md from the catalogue of error codes: ``python validation/error_page.py``."""

from __future__ import annotations

from pathlib import Path

from medidiff.catalogue import page

if __name__ == "__main__":
    target = Path(__file__).parents[1] / "docs" / "errors.md"
    target.write_text(page(), encoding="utf-8")
    print(f"wrote {target}")
