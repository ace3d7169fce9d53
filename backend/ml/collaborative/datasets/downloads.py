"""Download one file over http(s), with time limits, retries, resuming and verified senders."""

from __future__ import annotations

import base64
import http.client
import logging
import ssl
import time
import urllib.error
import urllib.request
from typing import IO, TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from ..errors import SourceError
from ..files import CHUNK, create, mode_for
from ..process import check_resources
from ..progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from email.message import Message
    from pathlib import Path

logger = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0)
"""Seconds before the second try, the third, and so on."""
TIMEOUT = 20.0
"""Seconds without a byte after which an attempt fails."""
CERTIFICATE_HAS_EXPIRED = 10
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class LapsedCertificateError(SourceError):
    """The server's certificate is valid but for its date: it has expired."""


class _TryAgainError(Exception):
    """An attempt failed, and the next one may succeed."""


def download(url: str, target: Path, max_bytes: int, *, allow_lapsed: bool) -> bool:
    """Download `url` to `target`, a temporary file that is overwritten.

    Args:
        url: an http or https URL; a user and password in it are sent to its own host only.
        target: after a failure it may hold a part.
        max_bytes: upper bound on the size.
        allow_lapsed: go on without verifying the certificate if it has expired, because the caller
            knows the hash of the content.

    Returns:
        Whether the sender is authentic, see `is_authentic`.

    Raises:
        SourceError: the download failed; the text says why.
    """
    verifying = ssl.create_default_context()
    try:
        way = _download_with_retries(url, target, max_bytes, verifying)
    except LapsedCertificateError:
        if (
            not allow_lapsed or "@" in urlsplit(url).netloc
        ):  # a password is sent to verified hosts only
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
    return is_authentic(way)


def is_authentic(way: Iterable[str]) -> bool:
    """Return whether all URLs of a download, redirects included, are verified https or local."""
    hops = [urlsplit(url) for url in way]
    return all(hop.scheme == "https" or hop.hostname in LOOPBACK for hop in hops)


def without_password(url: str) -> str:
    """Return `url` as it may be printed: without user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and records their URLs."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        self.urls.append(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _download_with_retries(
    url: str, target: Path, max_bytes: int, tls: ssl.SSLContext
) -> list[str]:
    """Try until the file is complete; return `url` and all redirects that any part came through.

    After an interruption the download resumes if the server supports that, else it starts over.
    """
    redirects = _Redirects()
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=tls), redirects)
    validator = None
    with create(target, mode_for(target.parent)) as file:
        for wait in (*WAITS, None):
            try:
                with _open(opener, url, file.tell(), validator) as response:
                    validator = response.headers.get("ETag") or response.headers["Last-Modified"]
                    _receive(response, file, max_bytes)
                    return [url, *redirects.urls]
            except _TryAgainError as error:
                check_resources()
                reason = str(error)
            if wait is not None:
                logger.debug("%s: %s; trying again in %.0f s", without_password(url), reason, wait)
                time.sleep(wait)
    raise SourceError(f"{reason} ({len(WAITS) + 1} tries)")


def _open(
    opener: urllib.request.OpenerDirector, url: str, offset: int, validator: str | None
) -> http.client.HTTPResponse:
    """Request `url`, from byte `offset` on if `validator` says that the file is the same."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(  # noqa: S310  archives.py lets only http(s) through
        parts._replace(netloc=host).geturl(), headers={"User-Agent": "ml.download_movielens"}
    )
    if user:
        token = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    if offset and validator and not validator.startswith("W/"):
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", validator)
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        reason = str(error.reason).partition("\n")[0]
        passing = error.code in (408, 429) or error.code >= 500
        raise (_TryAgainError if passing else SourceError)(f"HTTP {error.code} {reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a bad redirect
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            lapsed = cause.verify_code == CERTIFICATE_HAS_EXPIRED
            raise (LapsedCertificateError if lapsed else SourceError)(
                f"certificate refused: {cause.verify_message}"
            ) from None
        raise _TryAgainError(_in_words(cause)) from None
    return response


def _receive(response: http.client.HTTPResponse, file: BinaryIO, max_bytes: int) -> None:
    """Append the response to `file`; start over if the server sends the file from its start."""
    if response.status != 206 or not response.headers.get("Content-Range", "").startswith(
        f"bytes {file.tell()}-"
    ):
        file.seek(0)
        file.truncate()
    length = response.headers.get("Content-Length", "")
    total = file.tell() + int(length) if length.isdecimal() else None
    if total and total > max_bytes:
        raise SourceError(f"the server announced {total:,} bytes, expected at most {max_bytes:,}")
    name = urlsplit(response.url).path.rpartition("/")[2]
    with progress_bar(name, "B", total, initial=file.tell(), unit_divisor=1024) as bar:
        while chunk := _read(response):
            file.write(chunk)
            bar.update(len(chunk))
            if file.tell() > max_bytes:
                raise SourceError(f"more than {max_bytes:,} bytes came, expected at most that many")
    if total is not None and file.tell() != total:
        raise _TryAgainError(f"connection ended after {file.tell():,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _TryAgainError(_in_words(error)) from None


def _in_words(error: object) -> str:
    """Return what went wrong, without the platform's error number."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
