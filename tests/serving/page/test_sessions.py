"""The server keeps nothing of a visitor's session, and answers only until they are read."""

import asyncio
import gc
import json
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio.state_holder import SessionState

from hardrank.serving.engine import Engine
from hardrank.serving.page.sessions import PendingCalls
from hardrank.serving.search.admission import OverloadedError
from tests.serving.page_server import PageServer, page_server
from tests.serving.served import encoded, make_model, paint, picture
from tests.waiting import until


@pytest.fixture(scope="module")
def server(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    with page_server([make_model(tmp_path_factory.mktemp("index"), engine, paint(5))]) as running:
        yield running


def functions(server: PageServer) -> dict[str, int]:
    """The page's functions by the event that triggers them."""
    config = server.client.get("/config").raise_for_status().json()
    return {target[1]: one["id"] for one in config["dependencies"] for target in one["targets"]}


def join(server: PageServer, session: str, function: int, data: list[Any], event: Any = None) -> httpx.Response:
    body = {"data": data, "fn_index": function, "session_hash": session, "event_data": event, "trigger_id": None}
    return server.client.post("/gradio_api/queue/join", json=body)


def answers(server: PageServer, session: str) -> list[Any]:
    """Read the answers of a session until the server ends them."""
    text = server.client.get(f"/gradio_api/queue/data?session_hash={session}").raise_for_status().text
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def visit(server: PageServer, session: str) -> str:
    """Open the page, search with an item, then with an upload; return the results."""
    by_event = functions(server)
    join(server, session, by_event["load"], [""]).raise_for_status()
    answers(server, session)
    join(server, session, by_event["choose"], ["benign", 3, "", False], {"id": "item-1"}).raise_for_status()
    assert "item-1" in json.dumps(answers(server, session))
    file = [("files", ("picture.png", encoded(picture(1)), "image/png"))]
    [name] = server.client.post("/gradio_api/upload", files=file).raise_for_status().json()
    image = {"path": name, "meta": {"_type": "gradio.FileData"}}
    join(server, session, by_event["change"], [image, "", "benign", 3, "", False]).raise_for_status()
    return json.dumps(answers(server, session))


def live_states() -> int:
    gc.collect()
    return sum(isinstance(one, SessionState) for one in gc.get_objects())


def leave_unread(calls: PendingCalls, queue: Any, session: str, address: str) -> None:
    """Make a call whose answer nobody reads."""
    with calls.joining(session, address):
        queue.pending_event_ids_session[session] = {"event"}
        queue.pending_messages_per_session[session] = asyncio.Queue()


def test_visits_leave_nothing_behind(server: PageServer) -> None:
    visit(server, "first")
    before = live_states()
    for number in range(20):
        assert "your image" in visit(server, f"session{number}")
    until(lambda: live_states() <= before)
    queues = [one for one in gc.get_objects() if type(one).__name__ == "Queue" and hasattr(one, "event_analytics")]
    for queue in queues:
        assert not queue.pending_messages_per_session
        assert not queue.pending_event_ids_session
        assert not queue.event_ids_to_events
        assert len(queue.event_analytics) <= 1


def test_the_answers_of_an_unknown_session_end_at_once(server: PageServer) -> None:
    """A browser asks again for answers that overtook the response to its call; it reports a 404 as an error."""
    answer = server.client.get("/gradio_api/queue/data?session_hash=nobody").raise_for_status()
    [message] = answer.text.strip().split("\n\n")
    assert json.loads(message.removeprefix("data: "))["msg"] == "close_stream"


def test_one_address_cannot_leave_more_answers_unread_than_its_share(server: PageServer) -> None:
    load = functions(server)["load"]
    statuses = [join(server, f"unread{number}", load, [""]).status_code for number in range(40)]
    assert statuses[:24] == [200] * 24
    assert set(statuses[24:]) == {429}
    for number in range(24):
        answers(server, f"unread{number}")
    assert join(server, "again", load, [""]).status_code == 200
    answers(server, "again")


@pytest.mark.anyio
async def test_calls_in_all_are_limited_and_unread_answers_are_dropped() -> None:
    blocks = gr.Blocks()
    queue = blocks.queue()._queue
    calls = PendingCalls(blocks, most=4, most_of_caller=2, unread_s=1)
    for number in range(4):
        leave_unread(calls, queue, f"session{number}", f"address {number % 2}")
    with pytest.raises(OverloadedError), calls.joining("session", "address 2"):
        pass
    while any(f"session{number}" in calls for number in range(4)):
        await asyncio.sleep(0.05)
    assert not queue.pending_messages_per_session
    assert not queue.pending_event_ids_session
    for _ in range(3):
        with calls.joining("session", "address 2"):
            pass


def test_all_unread_answers_are_dropped_by_the_event_loop_of_the_server() -> None:
    """Timers of uvloop count from the start of the loop's turn, so they end early by any other clock."""
    blocks = gr.Blocks()
    queue = blocks.queue()._queue
    calls = PendingCalls(blocks, unread_s=0.2)

    async def scenario() -> None:
        for number in range(20):
            time.sleep(0.005)
            leave_unread(calls, queue, f"session{number}", f"address {number}")
        await asyncio.sleep(1)
        assert not any(f"session{number}" in calls for number in range(20))
        assert not queue.pending_messages_per_session

    pytest.importorskip("uvloop").run(scenario())
