"""Threads that compute yield to the event loops: a full machine still refuses, streams and answers probes at once.

On Linux each thread has a niceness of its own, and threads that it starts (codecs', torch's) begin with the same.
"""

import os
import sys
import threading

YIELD = 5
"""Steps of niceness; each one leaves a thread about four fifths of what it would get of a core that others want."""
LOWEST = 19


def yield_to_event_loops() -> None:
    """Lower the calling thread's priority; does nothing where threads have none."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    niceness = os.getpriority(os.PRIO_PROCESS, thread)
    os.setpriority(os.PRIO_PROCESS, thread, min(niceness + YIELD, LOWEST))
