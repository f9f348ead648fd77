"""The end of a server: nothing new is taken, what runs may finish, and only then everything is taken down.

Serve by itself deletes all deployments at once, so that a request that has not reached the model yet would find none;
and its own shutdown kills the proxies first, whatever still streams through them.
"""

import time
from collections.abc import Callable

from ray import serve

POLL_S = 0.2
ASK_TIMEOUT_S = 10.0


def drain(application: str, ingress: str, timeout_s: float, hurry: Callable[[], bool]) -> int:
    """Let every ingress replica refuse, and wait until none has a request; how many were left when time was over.

    `hurry()` ends the waiting early.
    """
    handle = serve.get_deployment_handle(ingress, application)
    give_up = time.monotonic() + timeout_s
    while running := int(sum(handle.broadcast("drain").results(timeout_s=ASK_TIMEOUT_S))):
        if hurry() or time.monotonic() > give_up:
            return running
        time.sleep(POLL_S)
    return 0
