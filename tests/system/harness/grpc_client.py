"""A gRPC client that knows nothing of the project: every message and method comes from the server's reflection."""

import threading

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

DEADLINE = 30
RELAY = "linkmail.relay.v1"
MONITOR = "linkmail.monitor.v1"


class Failure(Exception):
    """A call that ended with a status: its code's name, message, ErrorInfo and field violations."""

    def __init__(self, error):
        self.code = error.code().name
        self.message = error.details()
        self.reason = self.domain = None
        self.metadata = {}
        self.fields = []
        self.details = []
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                self._read(status_pb2.Status.FromString(value))
        super().__init__(f"{self.code} {self.reason}: {self.message} {self.fields}")

    def _read(self, status):
        for detail in status.details:
            self.details.append(detail.type_url.rsplit(".", 1)[-1])
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                self.reason, self.domain, self.metadata = info.reason, info.domain, dict(info.metadata)
            if detail.Unpack(bad):
                self.fields += [violation.field for violation in bad.field_violations]


class Client:
    """Calls `SERVICE/METHOD` with plain dictionaries; answers are dictionaries with the proto's field names."""

    def __init__(self, target, reflection="v1", package=RELAY):
        """`package` is that of services which are named without one."""
        self._package = package
        options = [("grpc.enable_retries", 0)]
        if target.startswith("unix:"):
            # grpc-core sends the socket's path as the authority, percent-encoded, and HTTP/2 servers built on h2 refuse
            # such an authority (grpc/grpc issue 38142).
            options.append(("grpc.default_authority", "localhost"))
        self._channel = grpc.insecure_channel(target, options=options)
        self._lock = threading.Lock()
        self._ask = self._channel.stream_stream(
            f"/grpc.reflection.{reflection}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        self._pool = descriptor_pool.DescriptorPool()
        self._loaded = set()

    def stop(self):
        self._channel.close()

    def _reflect(self, **request):
        try:
            answers = list(self._ask(iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=DEADLINE))
        except grpc.RpcError as error:
            raise Failure(error) from error
        [answer] = answers
        assert not answer.HasField("error_response"), f"{request}: {answer.error_response}"
        return answer

    def services(self):
        """The names of all services that are served."""
        return {one.name for one in self._reflect(list_services="").list_services_response.service}

    def _load(self, **request):
        for raw in self._reflect(**request).file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(raw)
            if file.name in self._loaded:
                continue
            self._loaded.add(file.name)
            for needed in file.dependency:
                if needed not in self._loaded:
                    self._load(file_by_filename=needed)
            self._pool.Add(file)

    def service(self, name):
        """The descriptor of a service."""
        with self._lock:
            try:
                return self._pool.FindServiceByName(name)
            except KeyError:
                self._load(file_containing_symbol=name)
                return self._pool.FindServiceByName(name)

    def _method(self, path):
        service, method = path.split("/")
        service = service if "." in service else f"{self._package}.{service}"
        found = self.service(service).methods_by_name[method]
        asked = message_factory.GetMessageClass(found.input_type)
        answered = message_factory.GetMessageClass(found.output_type)
        kind = self._channel.unary_stream if found.server_streaming else self._channel.unary_unary
        call = kind(
            f"/{service}/{method}",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )
        return call, asked

    def octets(self, path):
        """A unary call whose answer stays octets, with the classes of what is asked and answered: (call, asked, answered)."""
        service, method = path.split("/")
        service = f"{self._package}.{service}"
        found = self.service(service).methods_by_name[method]
        asked = message_factory.GetMessageClass(found.input_type)
        answered = message_factory.GetMessageClass(found.output_type)
        call = self._channel.unary_unary(f"/{service}/{method}", request_serializer=asked.SerializeToString)
        return call, asked, answered

    def call(self, path, request=None, metadata=None, **fields):
        """One unary call. Bytes fields may be given as bytes. Raises `Failure`."""
        call, asked = self._method(path)
        try:
            return self._plain(call(asked(**(request or fields)), timeout=DEADLINE, metadata=metadata))
        except grpc.RpcError as error:
            raise Failure(error) from error

    def watch(self, path, seconds=DEADLINE, **fields):
        """A streaming call: yields answers until the server ends it, the caller leaves, or `seconds` pass."""
        call, asked = self._method(path)
        stream = call(asked(**fields), timeout=seconds)
        try:
            for answer in stream:
                yield self._plain(answer)
        except grpc.RpcError as error:
            raise Failure(error) from error
        finally:
            stream.cancel()

    @staticmethod
    def _plain(message):
        return json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )

    def health(self, service=""):
        """SERVING, NOT_SERVING, …"""
        stub = health_pb2_grpc.HealthStub(self._channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE)
        except grpc.RpcError as error:
            raise Failure(error) from error
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def failure(call, *arguments, **fields):
    """The Failure that a call must end with."""
    try:
        answer = call(*arguments, **fields)
    except Failure as failed:
        return failed
    raise AssertionError(f"no error; the answer was {answer}")
