"""Downloads single files from a Python package index, with checked digests.

Speaks the simple repository API (PEP 503 as HTML, PEP 691 as JSON) with the standard
library alone, so that it works before pip is there. It never builds or installs.
It takes the index from where pip takes it: PIP_INDEX_URL, then pip's configuration
files, then pypi.org.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

DEFAULT_INDEX = "https://pypi.org/simple"
ACCEPT = (
    "application/vnd.pypi.simple.v1+json, "
    "application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
)
TIMEOUT_S = 60
TRIES = 3


class PackageIndexError(Exception):
    """The index could not be reached, or has no such file, or another one than pinned."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a project, as the index lists it."""

    name: str
    url: str
    sha256: str | None
    yanked: bool = False
    requires_python: str | None = None


def _config_paths() -> list[Path]:
    """pip's configuration files, from the weakest to the strongest."""
    named = os.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = Path(os.path.expanduser("~"))
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    paths = [
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        config_home / "pip" / "pip.conf",
    ]
    if sys.platform == "darwin":
        paths.append(home / "Library" / "Application Support" / "pip" / "pip.conf")
    return paths + ([Path(named)] if named else [])


def _configured(option: str) -> str | None:
    """An option of pip: its environment variable, else its configuration files."""
    value = os.environ.get("PIP_" + option.upper().replace("-", "_"))
    if value:
        return value
    found = None
    for path in _config_paths():
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        for section in ("global", "install"):
            found = parser.get(section, option, fallback=found)
    return found


def index_url() -> str:
    """The index in force, without a slash at the end."""
    return (_configured("index-url") or DEFAULT_INDEX).rstrip("/")


def _tls() -> ssl.SSLContext:
    # SSL_CERT_FILE and SSL_CERT_DIR are honoured by the default context itself.
    return ssl.create_default_context(cafile=_configured("cert"))


def _open_once(url: str, accept: str) -> tuple[bytes, str, str]:
    parts = urllib.parse.urlsplit(url)
    headers = {"Accept": accept, "User-Agent": "tidemill-scripts/1"}
    if parts.username is not None:
        user = urllib.parse.unquote(parts.username)
        password = urllib.parse.unquote(parts.password or "")
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {token}"
        url = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    request = urllib.request.Request(url, headers=headers)
    context = _tls() if parts.scheme == "https" else None
    with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:
        return answer.read(), answer.headers.get("Content-Type", ""), answer.geturl()


def _open(url: str, accept: str = "*/*") -> tuple[bytes, str, str]:
    """Body, content type and final address; tries again where that may help."""
    for attempt in range(1, TRIES + 1):
        try:
            return _open_once(url, accept)
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == TRIES:
                raise PackageIndexError(f"{url} answered {error.code} {error.reason}") from error
        except (urllib.error.URLError, OSError) as error:
            if attempt == TRIES:
                raise PackageIndexError(
                    f"{url} cannot be reached: {error}. "
                    "Check the network, or point PIP_INDEX_URL at a mirror"
                ) from error
        time.sleep(attempt)
    raise AssertionError("the loop returns or raises")


class _Anchors(HTMLParser):
    """The files of a PEP 503 page."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.files: list[RemoteFile] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        href = values.get("href")
        if tag != "a" or not href:
            return
        url, _, fragment = urllib.parse.urljoin(self.base, href).partition("#")
        digest = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment)
        self.files.append(
            RemoteFile(
                name=urllib.parse.unquote(url.rpartition("/")[2]),
                url=url,
                sha256=digest.group(1) if digest else None,
                yanked="data-yanked" in values,
                requires_python=values.get("data-requires-python"),
            )
        )


def parse_page(body: bytes, content_type: str, base: str) -> list[RemoteFile]:
    """The files that a project's page lists, in its order."""
    if "json" in content_type:
        return [
            RemoteFile(
                name=entry["filename"],
                url=urllib.parse.urljoin(base, entry["url"]),
                sha256=entry.get("hashes", {}).get("sha256"),
                yanked=bool(entry.get("yanked")),
                requires_python=entry.get("requires-python"),
            )
            for entry in json.loads(body)["files"]
        ]
    page = _Anchors(base)
    page.feed(body.decode("utf-8", "replace"))
    return page.files


def list_files(project: str) -> list[RemoteFile]:
    """The files of a project on the index in force."""
    normal = re.sub(r"[-_.]+", "-", project).lower()
    body, content_type, base = _open(f"{index_url()}/{normal}/", ACCEPT)
    return parse_page(body, content_type, base)


def download(file: RemoteFile, sha256: str | None = None) -> bytes:
    """A file's bytes; its digest must be `sha256`, or else the one that the index lists."""
    expected = sha256 or file.sha256
    if expected is None:
        raise PackageIndexError(f"the index gives no sha256 of {file.name}; use another index")
    body, _, _ = _open(file.url)
    actual = hashlib.sha256(body).hexdigest()
    if actual != expected:
        raise PackageIndexError(
            f"{file.name} has the sha256 {actual}, expected {expected}; it was not kept"
        )
    return body
