"""Download one file over http(s): time-outs, retries, resume, no trust that is not earned."""

from __future__ import annotations

import http.client
import logging
import ssl
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from .errors import SourceError
from .files import CHUNK
from .progress import progress_bar

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("ml.downloads")

WAITS = (1.0, 2.0, 4.0)
"""Seconds before the second try, the third, and so on."""
TIMEOUT = 20.0
"""Seconds without a byte after which a try is given up."""
CERTIFICATE_HAS_EXPIRED = 10
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class LapsedCertificateError(SourceError):
    """The server's certificate is a good one that has expired."""


class _BrokenOffError(Exception):
    """A try that came to nothing, but the next one may not."""


def download(url: str, target: Path, max_bytes: int, *, allow_lapsed: bool) -> bool:
    """Download `url` into `target`, a temporary file that is overwritten.

    Args:
        url: an http or https URL.
        target: on failure it may hold a part.
        max_bytes: bound on the size.
        allow_lapsed: go on without certificate verification where the certificate has expired,
            because the caller knows the hash of what it wants.

    Returns:
        Whether the sender is authentic: https with a verified certificate, or this machine.

    Raises:
        SourceError: nothing usable came; the text says why.
    """
    verifying = ssl.create_default_context()
    try:
        sender = _download_with_retries(url, target, max_bytes, verifying)
    except LapsedCertificateError:
        if not allow_lapsed:
            raise
        logger.warning(
            "the certificate of %s has expired: fetching without verification, "
            "and accepting only content with the pinned hash",
            urlsplit(url).hostname,
        )
        trusting = ssl.create_default_context()
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        _download_with_retries(url, target, max_bytes, trusting)
        return False
    return urlsplit(sender).scheme == "https" or urlsplit(sender).hostname in LOOPBACK


def _download_with_retries(url: str, target: Path, max_bytes: int, tls: ssl.SSLContext) -> str:
    """Try until the file is whole; return the URL that sent it, after redirects.

    A try that broke off is resumed where the server can, else begun again.
    """
    validator = None
    with target.open("wb") as file:
        for wait in (*WAITS, None):
            try:
                with _open(url, file.tell() if validator else 0, validator, tls) as response:
                    validator = response.headers.get("ETag") or response.headers["Last-Modified"]
                    _receive(response, file, max_bytes)
                    return str(response.url)
            except _BrokenOffError as error:
                reason = str(error)
            if wait is not None:
                logger.info("%s: %s; trying again in %.0f s", url, reason, wait)
                time.sleep(wait)
    raise SourceError(f"{reason} ({len(WAITS) + 1} tries)")


def _open(
    url: str, offset: int, validator: str | None, tls: ssl.SSLContext
) -> http.client.HTTPResponse:
    """Ask for `url`, from byte `offset` on if the file is still the one `validator` names."""
    request = urllib.request.Request(url, headers={"User-Agent": "ml.download_movielens"})  # noqa: S310  archives.py lets only http(s) through
    if offset and validator and not validator.startswith("W/"):
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", validator)
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(  # noqa: S310
            request, timeout=TIMEOUT, context=tls
        )
    except urllib.error.HTTPError as error:
        error.close()
        passing = error.code in (408, 429) or error.code >= 500
        raise (_BrokenOffError if passing else SourceError)(
            f"HTTP {error.code} {error.reason}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            lapsed = cause.verify_code == CERTIFICATE_HAS_EXPIRED
            raise (LapsedCertificateError if lapsed else SourceError)(
                f"certificate refused: {cause.verify_message}"
            ) from None
        raise _BrokenOffError(str(cause) or type(cause).__name__) from None
    return response


def _receive(response: http.client.HTTPResponse, file: BinaryIO, max_bytes: int) -> None:
    """Append what comes to `file`, or start it anew where the server does."""
    if response.status != 206 or not response.headers.get("Content-Range", "").startswith(
        f"bytes {file.tell()}-"
    ):
        file.seek(0)
        file.truncate()
    length = response.headers.get("Content-Length", "")
    total = file.tell() + int(length) if length.isdecimal() else None
    if total and total > max_bytes:
        raise SourceError(f"{total:,} bytes announced, at most {max_bytes:,} expected")
    name = urlsplit(response.url).path.rpartition("/")[2]
    with progress_bar(name, "B", total, initial=file.tell(), unit_divisor=1024) as bar:
        while chunk := _read(response):
            file.write(chunk)
            bar.update(len(chunk))
            if file.tell() > max_bytes:
                raise SourceError(f"more than the {max_bytes:,} bytes expected at most")
    if total is not None and file.tell() != total:
        raise _BrokenOffError(f"connection ended after {file.tell():,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(str(error) or type(error).__name__) from None
