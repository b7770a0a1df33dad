"""A telemetry collector on the official OTLP messages: OTLP over gRPC, traces and metrics, rendered as text.

`silent=True` makes one that takes every export and never answers it.
"""

import threading
from concurrent import futures

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_messages
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_service
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from . import wait

KINDS = {value: name.removeprefix("SPAN_KIND_") for name, value in Span.SpanKind.items()}
STATES = {value: name.removeprefix("STATUS_CODE_") for name, value in Status.StatusCode.items()}


def plain(value):
    """An AnyValue as a Python value."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None


def attributes(holder):
    return {pair.key: plain(pair.value) for pair in holder.attributes}


class _Traces(trace_service.TraceServiceServicer):
    def __init__(self, collector):
        self.collector = collector

    def Export(self, request, context):
        self.collector.take_spans(request)
        return trace_messages.ExportTraceServiceResponse()


class _Metrics(metrics_service.MetricsServiceServicer):
    def __init__(self, collector):
        self.collector = collector

    def Export(self, request, context):
        self.collector.take_metrics(request)
        return metrics_messages.ExportMetricsServiceResponse()


class Collector:
    """Listens at `endpoint`, port from the system unless named. `url` is what the relay's `telemetry.otlp` wants."""

    def __init__(self, endpoint="127.0.0.1:0", silent=False):
        self._lock = threading.Lock()
        self._spans = {}
        self._metrics = {}
        self._released = threading.Event()
        self._silent = silent
        self.exports = 0
        self.resources = []
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        trace_service.add_TraceServiceServicer_to_server(_Traces(self), self._server)
        metrics_service.add_MetricsServiceServicer_to_server(_Metrics(self), self._server)
        host, port = endpoint.rsplit(":", 1)
        self.endpoint = f"{host}:{self._server.add_insecure_port(endpoint)}"
        self.url = f"http://{self.endpoint}"
        self._server.start()

    def stop(self):
        self._released.set()
        self._server.stop(None).wait()

    def take_spans(self, request):
        with self._lock:
            self.exports += 1
        if self._silent:
            self._released.wait()
            return
        with self._lock:
            for resource in request.resource_spans:
                self.resources.append(attributes(resource.resource))
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        assert span.span_id not in self._spans, f"span {span.name} exported twice"
                        self._spans[span.span_id] = span

    def take_metrics(self, request):
        if self._silent:
            self._released.wait()
            return
        with self._lock:
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        self._metrics[metric.name] = metric

    def spans(self, trace_id=None):
        """All spans, or those of one trace (32 hex digits), by start."""
        with self._lock:
            found = [span for span in self._spans.values() if trace_id in (None, span.trace_id.hex())]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def metric(self, name):
        """The newest points of a metric as [(attributes, value)]; a histogram's value is its count."""
        with self._lock:
            metric = self._metrics.get(name)
        if metric is None:
            return []
        kind = metric.WhichOneof("data")
        points = getattr(metric, kind).data_points
        if kind == "histogram":
            return [(attributes(point), point.count) for point in points]
        return [(attributes(point), getattr(point, point.WhichOneof("value"))) for point in points]

    def metric_names(self):
        with self._lock:
            return set(self._metrics)

    def wait_for_span(self, name, seconds=20, **wanted):
        """The first span of that name whose attributes have the `wanted` values (dots written as __)."""
        wanted = {key.replace("__", "."): value for key, value in wanted.items()}

        def found():
            for span in self.spans():
                if span.name == name and wanted.items() <= attributes(span).items():
                    return span
            return None

        return wait.until(found, lambda: f"span {name} {wanted}; have {[s.name for s in self.spans()]}", seconds)

    def tree(self, trace_id, shown=()):
        """The trace as an indented tree, one span a line: name, kind, status, the attributes in `shown`, links.

        A link is shown as `-> NAME`, the name of the span it points to, or its id if that span never came. Children
        stand by their start. A span whose parent is not in the trace is a root; more than one shows as more than one.
        """
        spans = self.spans(trace_id)
        ids = {span.span_id for span in spans}
        names = {span.span_id: span.name for span in self.spans()}
        lines = []

        def walk(span, depth):
            has = attributes(span)
            words = [span.name, KINDS[span.kind], STATES[span.status.code]]
            words += [f"{key}={has[key]}" for key in shown if key in has]
            words += [f"-> {names.get(link.span_id, link.span_id.hex())}" for link in span.links]
            lines.append("  " * depth + " ".join(words))
            for child in spans:
                if child.parent_span_id == span.span_id:
                    walk(child, depth + 1)

        for span in spans:
            if span.parent_span_id not in ids:
                walk(span, 0)
        return "\n".join(lines)
