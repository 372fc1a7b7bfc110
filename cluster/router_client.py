"""Reads a router's status over HTTP, for `tandem status` and for the driver."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request

import msgspec

from cluster.errors import NoStatus
from router.openai.response_bodies import ErrorBody
from router.roles.model_status import STATUS_FORMAT, StatusBody
from runtime.address import LOOPBACK, join_address

TIMEOUT_S = 5.0
STATUS_PATH = "/status"
HOW_TO_FIND = (
    "`tandem up` prints where its routers are: name that address with --url, or that of the admin "
    "port if there is one"
)


class RouterClient:
    """The HTTP server of one router. `url` may lack the scheme, or be a port of this machine."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        ca: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`ca` is a file of certificates that are trusted instead of the system's. Raises NoStatus
        if it cannot be read."""
        self.url = base_url(url)
        self._key = key
        self._timeout_s = timeout_s
        self._tls = _trusting(ca)

    def status(self) -> StatusBody:
        """The router's status. Raises NoStatus."""
        try:
            body = self._get(STATUS_PATH)
        except urllib.error.HTTPError as error:
            raise NoStatus(self._why(error)) from error
        return self._decode(body)

    def _decode(self, body: bytes) -> StatusBody:
        try:
            told = msgspec.json.decode(body, type=_Format).format
            if told > STATUS_FORMAT:
                raise NoStatus(
                    f"the router at {self.url} tells its status in format {told}, this program "
                    f"reads {STATUS_FORMAT}: use the `tandem` that runs there"
                )
            return msgspec.json.decode(body, type=StatusBody)
        except msgspec.DecodeError as error:
            text = f"what answers at {self.url} is not a router of Tandem: {error}"
            raise NoStatus(text) from error

    def _get(self, path: str) -> bytes:
        """Raises HTTPError for an answer that is an error, NoStatus if there is none."""
        request = urllib.request.Request(self.url + path)
        if self._key is not None:
            request.add_header("Authorization", f"Bearer {self._key}")
        try:
            with self._open(request) as response:
                found: bytes = response.read()
                return found
        except urllib.error.HTTPError:
            raise
        except http.client.HTTPException as error:
            raise NoStatus(
                f"what answers at {self.url} does not speak HTTP: it may be the gRPC port; "
                f"{HOW_TO_FIND}"
            ) from error
        except OSError as error:
            reason = getattr(error, "reason", error)
            cause = getattr(reason, "strerror", None) or reason
            raise NoStatus(f"no router answers at {self.url}: {cause}; {HOW_TO_FIND}") from error

    def _open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Without a proxy: routers are inside the cluster."""
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls)
        )
        answer: http.client.HTTPResponse = opener.open(request, timeout=self._timeout_s)
        return answer

    def _why(self, error: urllib.error.HTTPError) -> str:
        said = _error_text(error.read())
        match error.code:
            case 401 if self._key is None:
                hint = "give one with `admin: true` by --key or TANDEM_API_KEY"
                return f"the router at {self.url} wants an API key: {hint}"
            case 401:
                return f"the router at {self.url} does not know this API key"
            case 403:
                return f"the router at {self.url} refuses this API key: {said}"
            case 404 if said is not None and "admin port" in said:
                return f"the router at {self.url} says: {said}; name that port with --url"
            case 404:
                return f"{self._version()}: {STATUS_PATH} is newer than that"
        return f"the router at {self.url} answers {error.code}: {said or error.reason}"

    def _version(self) -> str:
        """Tells what runs there: a router without a status is an older one."""
        try:
            told = msgspec.json.decode(self._get("/version"), type=_Version).version
        except (urllib.error.HTTPError, NoStatus, msgspec.DecodeError):
            return f"what answers at {self.url} has no {STATUS_PATH} and tells no version"
        return f"tandem {told} runs at {self.url}"


class _Format(msgspec.Struct):
    format: int


class _Version(msgspec.Struct):
    version: str


def base_url(url: str) -> str:
    """The URL with its scheme and without a path: of "8000", "host:8000" or "https://host/v1"."""
    if url.isdecimal():
        url = join_address(LOOPBACK, url)
    scheme, separator, rest = url.rpartition("://")
    host = rest.partition("/")[0]
    return f"{scheme if separator else 'http'}://{host}"


def _error_text(body: bytes) -> str | None:
    """The message of an error in OpenAI's format; None for anything else."""
    try:
        return msgspec.json.decode(body, type=ErrorBody).error.message
    except msgspec.DecodeError:
        return None


def _trusting(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise NoStatus(f"--ca {ca}: {error.strerror or error}") from error
