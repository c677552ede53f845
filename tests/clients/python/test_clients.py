"""wsd against Python's `websockets`, which shares no code with it: the synchronous client for one connection, asyncio for a hundred."""

import asyncio
import contextlib
import itertools

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_sync

from wsd import running_wsd

MESSAGE_BYTES_MAX = 1024 * 1024
DEADLINE_S = 10


@pytest.fixture(scope="module")
def port():
    with running_wsd("--app", "chat", "--threads", "2") as port:
        yield port


@pytest.fixture
def echo(port):
    with connect(port, "/echo") as client:
        yield client


def connect(port, path, host="localhost", **options):
    return connect_sync(f"ws://{host}:{port}{path}", open_timeout=DEADLINE_S, close_timeout=DEADLINE_S, max_size=None, **options)


def close_code(client):
    """Reads until the server has closed: the code and the reason of its Close frame."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            client.recv(timeout=DEADLINE_S)
    assert closed.value.rcvd is not None, "no Close frame"
    return closed.value.rcvd.code, closed.value.rcvd.reason


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_both_families(port, host):
    with connect(port, "/echo", host) as client:
        client.send(host)
        assert client.recv(timeout=DEADLINE_S) == host


@pytest.mark.parametrize("text", ["", "hello", "Grüße, 世界 👋", "x" * 126, "é" * 65_536])
def test_text(echo, text):
    echo.send(text)
    assert echo.recv(timeout=DEADLINE_S) == text


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, MESSAGE_BYTES_MAX])
def test_binary(echo, size):
    sent = bytes(itertools.islice(itertools.cycle(range(256)), size))
    echo.send(sent)
    assert echo.recv(timeout=DEADLINE_S) == sent


def test_fragments(echo):
    echo.send(["Grü", "", "ße, ", "世界"])
    assert echo.recv(timeout=DEADLINE_S) == "Grüße, 世界"
    echo.send([b"\x00", b"\xff" * 70_000, b""])
    assert echo.recv(timeout=DEADLINE_S) == b"\x00" + b"\xff" * 70_000


def test_ping(echo):
    for payload in [b"", b"payload", b"x" * 125]:
        assert echo.ping(payload).wait(DEADLINE_S)


def test_no_extension_and_no_subprotocol(port):
    with connect(port, "/echo", subprotocols=["chat.v1"]) as client:
        assert client.subprotocol is None
        assert client.protocol.extensions == []


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_close_code_comes_back(port, code):
    with connect(port, "/echo") as client:
        client.close(code, "good-bye")
        assert client.close_code == code
        # The server's own frame, not what this side has sent.
        assert client.protocol.close_rcvd.code == code


def test_too_large_is_1009(echo):
    echo.send(bytes(MESSAGE_BYTES_MAX + 1))
    assert close_code(echo)[0] == 1009


def test_unknown_path_is_404(port):
    with pytest.raises(InvalidStatus) as refused, connect(port, "/nope"):
        pass
    assert refused.value.response.status_code == 404


def test_chat_greets(port):
    with connect(port, "/") as client:
        assert client.recv(timeout=DEADLINE_S) == '{"type":"welcome","message":"Welcome to the chat!"}'


def test_shutdown_is_1001():
    with contextlib.ExitStack() as opened:
        with running_wsd("--app", "sink") as port:
            clients = [opened.enter_context(connect(port, "/")) for _ in range(10)]
        for client in clients:
            assert close_code(client)[0] == 1001


def test_hundred_in_a_room(port):
    """Ten of a hundred members speak at once: all hundred get everything, once each, in the order of each sender."""
    asyncio.run(asyncio.wait_for(hundred_in_a_room(f"ws://localhost:{port}/rooms/hundred"), 60))


async def hundred_in_a_room(url):
    members, senders, messages = 100, 10, 50
    clients = await asyncio.gather(*(connect_async(url, open_timeout=DEADLINE_S) for _ in range(members)))

    async def speak(sender):
        for sequence in range(messages):
            await clients[sender].send(f"{sender} {sequence}")

    async def listen(client):
        """What each sender said, in the order of arrival. The order among senders is not promised."""
        heard = {sender: [] for sender in range(senders)}
        for _ in range(senders * messages):
            sender, sequence = (await client.recv()).split()
            heard[int(sender)].append(int(sequence))
        return heard

    heard, *_ = await asyncio.gather(
        asyncio.gather(*(listen(client) for client in clients)),
        *(speak(sender) for sender in range(senders)),
    )
    assert heard == [{sender: list(range(messages)) for sender in range(senders)}] * members

    # Nothing twice: the next thing anyone hears is the end.
    await clients[0].send("end")
    assert await asyncio.gather(*(client.recv() for client in clients)) == ["end"] * members
    await asyncio.gather(*(client.close() for client in clients))
