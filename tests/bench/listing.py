"""Pages of a listing over gRPC, timed without what this client makes of them: the octets of an answer, not its messages.

The client's own reading of a thousand messages takes longer than the relay's writing of them.
"""

import time

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PAGE = 1000


class Pages:
    """The pages of ListMessages, one after another from the first."""

    def __init__(self, client):
        self._call, self._request, answer = client.octets("MessageService/ListMessages")
        self._page = _token_alone(answer.DESCRIPTOR.fields_by_name["next_page_token"].number)
        self._token, self.over = "", False

    def next(self):
        """Fetches one; how many seconds that took."""
        request = self._request(page_size=PAGE, page_token=self._token)
        started = time.monotonic()
        octets = self._call(request, timeout=60)
        seconds = time.monotonic() - started
        self._token = self._page.FromString(octets).token
        self.over = not self._token
        return seconds


def _token_alone(number):
    """A message that knows of a page only its token: the rest is skipped."""
    file = descriptor_pb2.FileDescriptorProto(name="page.proto", package="bench")
    file.message_type.add(name="Page").field.add(name="token", number=number, type=9, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("bench.Page"))


def first_and_middle(client, messages):
    """(seconds of the first page, of the one in the middle of that many messages). What came before is not timed."""
    pages = Pages(client)
    first = middle = pages.next()
    for _ in range(messages // PAGE // 2):
        if pages.over:
            break
        middle = pages.next()
    return first, middle
