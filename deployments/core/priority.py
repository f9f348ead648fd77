"""Threads that compute yield to the event loops: a full machine still refuses, streams and answers probes at once.

And what begins a request yields to what ends one: beside others' media that are being prepared, answers go on. On Linux
each thread has a niceness of its own, and threads that it starts (codecs', torch's) begin with the same.
"""

import os
import sys
import threading

YIELD = 5
"""Steps of niceness; each one leaves a thread about four fifths of what it would get of a core that others want."""
YIELD_MORE = 10
"""Of work on media, and on whatever else a few small requests can make much of."""
LOWEST = 19


def yield_to_event_loops(steps: int = YIELD) -> None:
    """Lower the calling thread's priority; does nothing where threads have none."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    niceness = os.getpriority(os.PRIO_PROCESS, thread)
    os.setpriority(os.PRIO_PROCESS, thread, min(niceness + steps, LOWEST))
