"""What every replica's methods have in common: errors that travel as values, spans, and callers that may die.

Errors raised on purpose travel as values, so that a client's mistake does not fill the logs with tracebacks.
"""

import asyncio
import functools
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn, ParamSpec, TypeVar

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle

from deployments.config import TracingConfig
from deployments.errors import ReplicaLost, SluiceError, WorkCancelled
from deployments.observability.spans import NO_SPAN, Tracer
from deployments.observability.tracing import open_tracer
from deployments.serving.caller_watch import CallerWatch
from deployments.serving.side_channel import Outbox, SentAside
from deployments.serving.span_attributes import describe

CARRIER = "trace_carrier"
"""Keyword of a stage call under which the trace of the request travels, if it has one."""

CALLER = "caller_name"
"""Keyword under which the name of the replica that calls travels, where Ray would not tell of its death."""

REPLY_TO = "reply_to"
"""Keyword under which a caller says where it takes a stream's values, if not from Ray alone."""

LAST_WORDS_S = 0.5
"""For errors that are on their way to callers when a replica ends itself."""

P = ParamSpec("P")
V = TypeVar("V")


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StageFailure:
    """An error raised on purpose, on its way from a stage to its caller."""

    error: SluiceError


def _lives(replica: str) -> bool:
    try:
        ray.get_actor(replica, namespace="serve")
    except ValueError:
        return False
    except RayError:
        return True  # nobody can tell now
    return True


_callers = CallerWatch(_lives)
_outbox = Outbox()


@functools.cache
def own_node() -> str:
    """The id of the Ray node that this process is on."""
    return str(ray.get_runtime_context().get_node_id())


def replica_tracer(config: TracingConfig) -> Tracer:
    """A tracer whose spans say which replica made them; for a deployment's `tracer`."""
    if config.otlp_endpoint is None:
        return open_tracer(config, {})  # there is no replica where a deployment's class is used without Ray
    replica = serve.get_replica_context()
    own = {
        "service.instance.id": replica.replica_id.unique_id,
        "sluice.deployment": replica.deployment,
        "ray.node.id": ray.get_runtime_context().get_node_id(),
    }
    return open_tracer(config, own)


def own_deployment() -> "DeploymentHandle[Any]":
    """A handle to the deployment of which this process is a replica."""
    replica = serve.get_replica_context()
    return DeploymentHandle(replica.deployment, replica.app_name)


async def leave(why: ReplicaLost) -> NoReturn:
    """End this process, from a health check: Serve replaces a replica that has died when it next looks, and one that
    only says that it is ill after three checks, in which it could have answered nobody."""
    logger.error("this replica ends, to be replaced: %s", why)
    await asyncio.sleep(LAST_WORDS_S)
    os._exit(1)


def hide_gpus() -> None:
    """Let this replica's process see no GPU unless Ray has given it one: without being told, it would see all of the
    node's, and a library that takes one would take a model's."""
    if ray.is_initialized() and ray.get_runtime_context().get_actor_id() and not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def stage_value(method: Callable[P, Coroutine[Any, Any, V]]) -> Callable[P, Coroutine[Any, Any, V]]:
    """The same for a method that returns one value, of which a caller makes a promise."""

    @functools.wraps(method)
    async def yielding(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[V, None]:
        yield await method(*args, **kwargs)

    answering = stage_method(yielding)

    @functools.wraps(method)
    async def returning(*args: P.args, **kwargs: P.kwargs) -> V:
        [value] = [value async for value in answering(*args, **kwargs)]
        return value

    return returning


def stage_method(method: Callable[P, AsyncGenerator[V, None]]) -> Callable[P, AsyncGenerator[V, None]]:
    """Every method that a `Stage` calls wears this.

    A `SluiceError` that it raises is yielded as a `StageFailure`. When the request is traced, its work is a span of the
    deployment's `tracer`. When the replica that called dies, its work is cancelled. Where the caller takes values past
    Ray, they go to it there.
    """

    @functools.wraps(method)
    async def answering(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, None]:
        carrier: Any = kwargs.pop(CARRIER, None)
        caller: Any = kwargs.pop(CALLER, None)
        reply_to: Any = kwargs.pop(REPLY_TO, None)
        sender = None if reply_to is None else await _outbox.sender(reply_to, own_node())
        deployment: Any = args[0]
        span = NO_SPAN if carrier is None else deployment.tracer.begin(method.__qualname__, carrier)
        try:
            with _callers.working_for(caller):
                async with aclosing(method(*args, **kwargs)) as values:
                    async for value in values:
                        if carrier is not None:
                            describe(span, value)
                        if sender is None:
                            yield value
                        else:
                            sender.send(value)
        except SluiceError as error:
            span.fail(error.code)
            if sender is None or sender.is_lost:
                yield StageFailure(error)
            else:
                sender.send(StageFailure(error))
        except (asyncio.CancelledError, GeneratorExit):
            span.fail(WorkCancelled.code)
            raise
        except Exception as error:
            span.fail(type(error).__name__)
            raise
        finally:
            span.end()
        if sender is not None:
            yield SentAside(sender.count)

    return answering
