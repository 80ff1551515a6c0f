"""What the pages of an atlas may do: nothing but load their own files. Said in the page and again by the server."""

from __future__ import annotations

META_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content-Security-Policy of index.html. data: is for pictures of circuits that a reader saves."""
PAGE_POLICY = f"{META_POLICY}; frame-ancestors 'none'"
"""The same as a header, which can also forbid frames."""
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""For a report: one file with styles and pictures of its own, and no script at all."""
