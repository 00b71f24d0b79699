"""One queue: order, turns, expiry, copies."""

from __future__ import annotations

from eventplat.broker.embedded_queue import Copy, Message, QueueState, fresh
from eventplat.broker.topology import Binding, Queue
from eventplat.broker.transport import Outgoing
from eventplat.messages.codec import Properties


class Worker:
    def __init__(self, name: str, room: int = 1_000) -> None:
        self.name, self.room = name, room

    def has_room(self) -> bool:
        return self.room > 0


def filled(declared: Queue, count: int) -> QueueState:
    queue = QueueState(declared)
    for number in range(count):
        queue.put(copy(queue, number))
    return queue


def copy(queue: QueueState, number: int, *, expires_us: int | None = None) -> Copy:
    return Copy(number, queue, Message("x", "k", Properties(), b"", is_persistent=True), expires_us=expires_us)


def taken(queue: QueueState) -> list[int]:
    return [queue.take().id for _ in range(len(queue))]


def picked(queue: QueueState, times: int) -> list[str]:
    return [worker.name for _ in range(times) if (worker := queue.pick()) is not None]


def test_what_comes_back_goes_before_the_rest_in_its_old_order() -> None:
    queue = filled(Queue("q"), 5)
    first, _, third = queue.take(), queue.take(), queue.take()

    queue.give_back(third)
    queue.give_back(first)

    assert queue.head() is first
    assert taken(queue) == [first.id, third.id, 3, 4]


def test_competing_consumers_take_turns_and_those_without_room_are_passed_over() -> None:
    queue = filled(Queue("q"), 0)
    queue.consumers.extend([Worker("a"), Worker("b", room=0), Worker("c")])

    assert picked(queue, 4) == ["a", "c", "a", "c"]


def test_a_single_active_consumer_gets_everything_and_nobody_else_when_it_is_full() -> None:
    queue = filled(Queue("q", single_active=True), 0)
    first, second = Worker("first"), Worker("second")
    queue.consumers.extend([first, second])
    assert picked(queue, 2) == ["first", "first"]

    first.room = 0
    assert queue.pick() is None

    queue.consumers.remove(first)
    assert picked(queue, 1) == ["second"]


def test_without_consumers_nobody_is_picked() -> None:
    assert filled(Queue("q"), 1).pick() is None
    assert filled(Queue("q", single_active=True), 1).pick() is None


def test_expired_copies_leave_wherever_they_stand() -> None:
    queue = QueueState(Queue("q"))
    for number, expires_us in enumerate([None, 10, 30, 20]):
        queue.put(copy(queue, number, expires_us=expires_us))
    queue.give_back(queue.take())
    assert queue.expiring == 3

    assert [gone.id for gone in queue.take_expired(20)] == [1, 3]
    assert queue.expiring == 1
    assert taken(queue) == [0, 2]
    assert queue.expiring == 0


def test_a_copy_is_spent_when_it_was_handed_out_more_often_than_the_limit() -> None:
    queue = QueueState(Queue("q"))
    handed_out = copy(queue, 1)

    handed_out.deliveries = 50
    at_the_limit = handed_out.is_spent
    handed_out.deliveries = 51

    assert (at_the_limit, handed_out.is_spent) == (False, True)
    assert not copy(QueueState(Queue("c", "classic")), 1).is_spent


def test_a_classic_queue_has_only_what_its_arguments_say() -> None:
    """RabbitMQ is told neither of a classic queue's dead letters nor of its single active consumer."""
    queue = QueueState(Queue("c", "classic", single_active=True, dead_letter=Binding("x", "dead")))

    assert (queue.single_active, queue.dead_letter, queue.limit) == (False, None, None)


def test_a_message_is_a_snapshot_of_what_was_published() -> None:
    headers = {"key": "k", "nested": {"a": [1]}}
    message = Message.of(Outgoing("x", "k", Properties(headers=headers), b""))

    headers["key"] = "changed"
    headers["nested"]["a"].append(2)  # type: ignore[index]

    assert message.properties.headers == {"key": "k", "nested": {"a": [1]}}


def test_fresh_properties_are_equal_and_share_nothing() -> None:
    properties = Properties("1", "t", "2", "r", "a", "u", 3, "c", "4", {"nested": [1]})

    other = fresh(properties)

    assert other == properties
    other.headers["nested"].append(2)
    assert properties.headers == {"nested": [1]}
