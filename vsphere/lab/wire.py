"""vim25 SOAP from the server's side: requests in, answers and faults out, over pyVmomi's own types.

pyVmomi ships only a parser of responses; its deserializer is fed one parameter element at a time here. Its serializer
leaves out what is newer than the client's version, so version negotiation needs nothing else.
"""

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from xml.parsers.expat import ParserCreate

from pyVmomi import SoapAdapter, VmomiSupport, vim, vmodl
from pyVmomi.Version import IsChildVersion

API_VERSION = "vim.version.v8_0_3_0"
OLDEST_VERSION = "vim.version.version1"
ENVELOPE_DEPTH, METHOD_DEPTH, PARAMETER_DEPTH = 1, 3, 4
NAMESPACES = {**SoapAdapter.SOAP_NSMAP, "urn:vim25": ""}
OPTIONAL = VmomiSupport.F_OPTIONAL

# A property read (`vm.name`) arrives as this method, which is in no WSDL.
FETCH = VmomiSupport.Object(
    wsdlName="Fetch",
    version=VmomiSupport.BASE_VERSION,
    result=object,
    params=[VmomiSupport.Object(name="prop", type=str)],
)


@dataclass
class Request:
    method: Any
    """pyVmomi's description of the method: wsdlName, params, result."""
    this: Any = None
    arguments: dict[str, Any] = field(default_factory=dict)


class _Parameter(SoapAdapter.SoapDeserializer):
    """One parameter; tells `done` its value at its closing tag."""

    done: Callable[[Any], None]

    def EndElementHandler(self, tag: str) -> None:
        super().EndElementHandler(tag)
        if not hasattr(self, "stack"):
            self.done(self.result)


class _RequestParser(SoapAdapter.ExpatDeserializerNSHandlers):
    def __init__(self, body: bytes, version: str) -> None:
        super().__init__()
        self.depth, self.version = 0, version
        self.request: Request | None = None
        self.parser = ParserCreate(namespace_separator=SoapAdapter.NS_SEP)
        self.parser.buffer_text = True
        SoapAdapter.SetHandlers(self.parser, SoapAdapter.GetHandlers(self))
        self.parser.Parse(body, True)

    def StartElementHandler(self, tag: str, attributes: dict[str, str]) -> None:
        namespace, _, name = tag.rpartition(SoapAdapter.NS_SEP)
        self.depth += 1
        if self.depth == METHOD_DEPTH and self.request is None and namespace != SoapAdapter.XMLNS_SOAPENV:
            self.request = Request(FETCH if name == "Fetch" else VmomiSupport.GetWsdlMethod("urn:vim25", name).info)
        elif self.depth == PARAMETER_DEPTH and self.request:
            self._parameter(self.request, name, tag, attributes)

    def _parameter(self, request: Request, name: str, tag: str, attributes: dict[str, str]) -> None:
        declared: Any = next((p.type for p in request.method.params if p.name == name), object)
        if name == "_this":
            declared = VmomiSupport.ManagedObject
        many = issubclass(declared, list)

        def done(value: Any) -> None:
            self.depth -= 1
            if name == "_this":
                request.this = value
            elif many:
                request.arguments.setdefault(name, []).append(value)
            else:
                request.arguments[name] = value

        parameter = _Parameter(None, self.version)
        parameter.done = done
        parameter.Deserialize(self.parser, declared.Item if many else declared, False, self.nsMap)
        parameter.StartElementHandler(tag, attributes)

    def EndElementHandler(self, tag: str) -> None:
        self.depth -= 1

    def CharacterDataHandler(self, data: str) -> None:
        """Between elements there is only white space."""


def parse_request(body: bytes, version: str) -> Request:
    """Raises KeyError for an unknown method, ValueError for what is no request."""
    request = _RequestParser(body, version).request
    if request is None or request.this is None:
        raise ValueError("no request")
    return request


def client_version(soap_action: str) -> str:
    """Ours, or the client's if that is older."""
    asked = VmomiSupport.versionMap.get(soap_action.strip('"').replace("urn:", ""), API_VERSION)
    return asked if IsChildVersion(API_VERSION, asked) else API_VERSION


def versions_xml() -> bytes:
    known = [
        VmomiSupport.versionIdMap[version]
        for version in VmomiSupport.GetServiceVersions("vim25")
        if IsChildVersion(API_VERSION, version) and VmomiSupport.versionIdMap[version]
    ]
    prior = "".join(f"<version>{version}</version>" for version in known[1:])
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><namespaces version="1.0"><namespace><name>urn:vim25</name>'
        f"<version>{known[0]}</version><priorVersions>{prior}</priorVersions></namespace></namespaces>"
    ).encode()


class _Writer(SoapAdapter.SoapSerializer):
    def __init__(self, target: io.StringIO, version: str) -> None:
        super().__init__(target, version, NAMESPACES)
        self.outermostAttrs = ""

    def _QName(self, typ: Any, defNS: str) -> tuple[str, str]:
        # A reference in an Any slot is a ManagedObjectReference on the wire; pyVmomi writes "ManagedObject".
        attributes, name = super()._QName(typ, defNS)
        return attributes, name + "Reference" if typ is VmomiSupport.ManagedObject else name


def dump(value: Any, name: str, declared: Any, version: str = API_VERSION) -> str:
    target = io.StringIO()
    info = VmomiSupport.Object(name=name, type=declared, version=OLDEST_VERSION, flags=OPTIONAL)
    _Writer(target, version).Serialize(value, info)
    return target.getvalue()


def answer(method: Any, result: Any, version: str) -> bytes:
    inner = "" if result is None else dump(result, "returnval", method.result, version)
    name = method.wsdlName
    return _envelope(f'<{name}Response xmlns="urn:vim25">{inner}</{name}Response>')


def fault(error: Any, version: str) -> bytes:
    """The fault's element stands in urn:vim25 inside a <detail> without namespace."""
    error = copy.copy(error)
    message = error.msg or type(error).__name__.rpartition(".")[2]
    error.msg = None
    target = io.StringIO()
    name = VmomiSupport.GetWsdlName(type(error)) + "Fault"
    info = VmomiSupport.Object(name=name, type=object, version=OLDEST_VERSION, flags=0)
    _Writer(target, version).SerializeFaultDetail(error, info)
    detail = target.getvalue().replace(" ", ' xmlns="urn:vim25" ', 1)
    return _envelope(
        f"<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{SoapAdapter.XmlEscape(message)}"
        f"</faultstring><detail>{detail}</detail></soapenv:Fault>"
    )


def _envelope(inner: str) -> bytes:
    return (SoapAdapter.XML_HEADER + "\n" + SoapAdapter.SOAP_START + inner + SoapAdapter.SOAP_END).encode()


def as_declared(declared: Any, value: Any) -> Any:
    """An Any slot must carry the declared type (long for an int, the enum for a str, ArrayOf… for a list), or strict
    clients cannot read it."""
    if value is None or (isinstance(value, declared) and type(value) is not list):
        return value
    if issubclass(declared, VmomiSupport.ManagedObject | VmomiSupport.DataObject):
        return value
    if issubclass(declared, list):
        return declared([as_declared(declared.Item, item) for item in value])
    return declared(value)


def filled(cls: Any, **values: Any) -> Any:
    """A data object with every required field set, all the way down: one None there spoils the whole answer."""
    made = cls(**values)
    for info in cls._GetPropertyList():
        if not info.flags & OPTIONAL and getattr(made, info.name) is None:
            setattr(made, info.name, _blank(info.type))
    return made


def _blank(declared: Any) -> Any:
    if declared is datetime:
        return now()
    if issubclass(declared, VmomiSupport.Enum):
        return declared.values[0]
    if issubclass(declared, VmomiSupport.DataObject):
        return filled(declared)
    return declared()


def to_xml(value: Any) -> str:
    """For keeping a data object in a file."""
    text: str = SoapAdapter.SerializeToStr(value, version=API_VERSION)
    return text


def from_xml(text: str) -> Any:
    return SoapAdapter.Deserialize(text.encode())


def now() -> datetime:
    return datetime.now(UTC)


def not_authenticated(this: Any) -> Any:
    return vim.fault.NotAuthenticated(object=this, privilegeId="System.View", msg="The session is not authenticated.")


def gone(ref: Any) -> Any:
    return vmodl.fault.ManagedObjectNotFound(
        obj=ref, msg=f"The object '{ref._moId}' has already been deleted or has not been completely created"
    )
