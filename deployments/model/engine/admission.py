"""What a request may ask of the engine, checked before it waits for anything."""

from deployments.errors import ContextTooLong, Overloaded, TooLarge
from deployments.model.kv_cache.cache import KVCache
from deployments.model.sequence import EngineRequest


def check_room(request: EngineRequest, cache: KVCache, max_running: int) -> int:
    """Tokens that each answer may have. Raises `ContextTooLong`, `TooLarge`.

    All answers must fit at once with nobody else there: who makes way for others comes back.
    """
    params, limit, pages = request.params, cache.max_length, cache.pool.num_pages
    if params.n > max_running:
        raise TooLarge(f"`n` is {params.n}, at most {max_running} answers can run at once")
    num_prompt = len(request.token_ids)
    shared = num_prompt // cache.page_size
    most = (shared + (pages - shared) // params.n) * cache.page_size
    wanted = params.max_tokens or 1
    if num_prompt + wanted > min(limit, most):
        many = f" in each of {params.n} answers" if params.n > 1 and limit > most else ""
        raise ContextTooLong(
            f"the prompt has {num_prompt} tokens and the answer may have {wanted}; "
            f"together at most {min(limit, most)} are possible{many}"
        )
    return params.max_tokens or min(limit, most) - num_prompt


def check_queue(num_waiting: int, max_waiting: int) -> None:
    """Raise `Overloaded` where too many wait already."""
    if num_waiting >= max_waiting:
        raise Overloaded("too many requests wait for the model", retry_after_s=1.0)
