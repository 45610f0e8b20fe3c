import signal
import threading
import time

import pytest

from parity.studies.side_by_side import side_by_side


def test_results_come_in_the_order_of_the_items():
    def work(item):
        time.sleep(0.02 * (3 - item))
        return item, threading.current_thread() is threading.main_thread()

    assert side_by_side(work, [0, 1, 2]) == [(0, False), (1, False), (2, False)]


def test_a_single_piece_of_work_runs_in_this_thread():
    assert side_by_side(lambda item: threading.current_thread(), [0]) == [threading.main_thread()]


def wait(meeting=None):
    if meeting:
        meeting.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(0.01)
    return "waited in vain"


def test_ctrl_c_reaches_every_thread_and_what_each_makes_of_it_is_kept():
    meeting = threading.Barrier(3)

    def work(item):
        try:
            return wait(meeting)
        except KeyboardInterrupt:
            return f"{item} interrupted"

    def press():
        meeting.wait()
        time.sleep(0.3)  # until the other thread waits for these two
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=press).start()
    assert side_by_side(work, ["a", "b"]) == ["a interrupted", "b interrupted"]


def test_an_error_ends_the_others_and_is_raised():
    meeting = threading.Barrier(2)

    def work(item):
        if item == "good":
            return wait(meeting)
        meeting.wait()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        side_by_side(work, ["good", "bad"])
