"""Who is logged in, and what dies with a session: its filters, views and collectors."""

import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vim

from vsphere.lab import wire
from vsphere.lab.property_collector import CollectorState
from vsphere.lab.registry import Managed, Registry


@dataclass(eq=False)
class Session:
    key: str
    info: Any
    used_at: float
    collector: CollectorState
    owned: list[Managed] = field(default_factory=list)


@dataclass
class Call:
    """One request's circumstances. `session` is None before login."""

    session: Session | None
    base_url: str
    new_session: Session | None = None


class Sessions:
    def __init__(self, registry: Registry, username: str, password: str, idle_s: float) -> None:
        self.registry, self.username, self.password, self.idle_s = registry, username, password, idle_s
        self._lock = threading.Lock()
        self._live: dict[str, Session] = {}

    def login(self, username: str, password: str) -> Session:
        if (username, password) != (self.username, self.password):
            raise vim.fault.InvalidLogin(msg="Cannot complete login due to an incorrect user name or password.")
        key = str(uuid.uuid4())
        info = wire.filled(vim.UserSession, key=key, userName=username, fullName=username, locale="en")
        session = Session(key, info, time.monotonic(), CollectorState(self.registry))
        with self._lock:
            self._live[key] = session
        return session

    def find(self, key: str | None) -> Session | None:
        """None, too, for one that has been idle for too long: it is ended."""
        with self._lock:
            session = self._live.get(key) if key else None
        if session and time.monotonic() - session.used_at > self.idle_s:
            self.end(session.key)
            return None
        if session:
            session.used_at = time.monotonic()
        return session

    def end(self, key: str) -> None:
        with self._lock:
            session = self._live.pop(key, None)
        if session:
            session.collector.close(wire.not_authenticated(vim.SessionManager("SessionManager")))
            for managed in tuple(session.owned):
                dispose = getattr(managed, "dispose", None)
                if dispose:
                    dispose()

    def all(self) -> list[Session]:
        with self._lock:
            return list(self._live.values())

    def end_all(self) -> None:
        for session in self.all():
            self.end(session.key)


class SessionManager(Managed):
    wsdl = vim.SessionManager

    def __init__(self, registry: Registry, sessions: Sessions) -> None:
        self.sessions = sessions
        super().__init__(registry, "SessionManager")

    def p_sessionList(self) -> list[Any]:
        return [session.info for session in self.sessions.all()]

    def p_defaultLocale(self) -> str:
        return "en"

    def Login(self, call: Call, userName: str, password: str, locale: str | None = None) -> Any:
        call.new_session = self.sessions.login(userName, password)
        return call.new_session.info

    def Logout(self, call: Call) -> None:
        if call.session:
            self.sessions.end(call.session.key)

    def TerminateSession(self, call: Call, sessionId: list[str]) -> None:
        for key in sessionId:
            self.sessions.end(key)

    def SessionIsActive(self, call: Call, sessionID: str, userName: str) -> bool:
        return any(session.key == sessionID for session in self.sessions.all())
