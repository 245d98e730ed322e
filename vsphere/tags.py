"""Tags, which vCenter tells only over its REST interface. Where there is none, or the account may not read them,
nothing has a tag; trouble that will pass is no reason to say so."""

import http.client
import json
import logging
from base64 import b64encode
from collections import defaultdict
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from vsphere.faults import TRANSPORT_ERRORS, unreachable
from vsphere.session import Session

SESSION = "/rest/com/vmware/cis/session"
TAGGING = "/rest/com/vmware/cis/tagging"
ATTACHED = f"{TAGGING}/tag-association?~action=list-attached-objects-on-tags"
KINDS = frozenset({"VirtualMachine", "VirtualApp"})
log = logging.getLogger(__name__)


def read(session: Session) -> dict[str, tuple[str, ...]]:
    """`category/tag`, sorted, by the ref of the VM or vApp that carries them. Raises PlatformUnreachable."""
    try:
        with RestClient(session) as client:
            return _attached(client, _names(client))
    except RestError as error:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise unreachable(error, session.address) from error
        log.info("no tags of %s: %s", session.address, error)
        return {}
    except TRANSPORT_ERRORS as error:
        raise unreachable(error, session.address) from error


def _names(client: "RestClient") -> dict[str, str]:
    categories: dict[str, str] = {}
    names = {}
    for ref in client.get(f"{TAGGING}/tag") or ():
        tag = client.get(f"{TAGGING}/tag/id:{quote(ref)}")
        category = tag["category_id"]
        if category not in categories:
            categories[category] = client.get(f"{TAGGING}/category/id:{quote(category)}")["name"]
        names[ref] = f"{categories[category]}/{tag['name']}"
    return names


def _attached(client: "RestClient", names: dict[str, str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for each in client.post(ATTACHED, {"tag_ids": list(names)}) or () if names else ():
        for carrier in each.get("object_ids") or ():
            if carrier["type"] in KINDS:
                found[carrier["id"]].append(names[each["tag_id"]])
    return {ref: tuple(sorted(tags)) for ref, tags in found.items()}


class RestError(Exception):
    """An answer that is none of 2xx."""

    def __init__(self, request: str, status: int) -> None:
        super().__init__(f"{request} is answered with {status}")
        self.status = status


class RestClient:
    """A session of its own: REST and SOAP know nothing of each other's."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._headers: dict[str, str] = {}

    def __enter__(self) -> "RestClient":
        self._http = http.client.HTTPSConnection(
            self._session.host, self._session.port, context=self._session.tls, timeout=self._session.timeout_s
        )
        user, password = self._session.credentials
        basic = b64encode(f"{user}:{password}".encode()).decode()
        try:
            self._headers = {
                "vmware-api-session-id": self._ask("POST", SESSION, headers={"Authorization": f"Basic {basic}"})
            }
        except BaseException:
            self._http.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._ask("DELETE", SESSION, headers=self._headers)
        except (RestError, ValueError, *TRANSPORT_ERRORS) as error:
            log.debug("the session at %s ends by itself: %s", self._session.address, error)
        finally:
            self._http.close()

    def get(self, path: str) -> Any:
        return self._ask("GET", path, headers=self._headers)

    def post(self, path: str, body: Any) -> Any:
        return self._ask("POST", path, json.dumps(body), self._headers | {"Content-Type": "application/json"})

    def _ask(self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> Any:
        self._http.request(method, path, body, headers or {})
        response = self._http.getresponse()
        told = response.read()
        if response.status // 100 != 2:
            raise RestError(f"{method} {path.partition('?')[0]}", response.status)
        return json.loads(told)["value"] if told.strip() else None
