from hypothesis import given
from hypothesis import strategies as st

from deployments.core.bounded_cache import BoundedCache
from deployments.observability.metrics import RecordingSink

KEYS = "abcdef"
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.integers(0, 130)),
        st.tuples(st.just("get"), st.sampled_from(KEYS), st.just(0)),
        st.tuples(st.just("drop"), st.sampled_from(KEYS), st.just(0)),
        st.tuples(st.just("shrink"), st.just(""), st.integers(0, 100)),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_it_holds_what_was_used_last_and_never_more_than_its_bytes(actions):
    metrics = RecordingSink()
    cache: BoundedCache[str, int] = BoundedCache("fetch", 100, lambda size: size, metrics)
    kept: dict[str, int] = {}  # the least recently used first
    evicted = 0
    for action, key, size in actions:
        if action == "put":
            cache.put(key, size)
            kept.pop(key, None)
            if size <= 100:
                kept[key] = size
        elif action == "get":
            assert cache.get(key) == kept.get(key)
            if key in kept:
                kept[key] = kept.pop(key)
        elif action == "drop":
            cache.drop(key)
            kept.pop(key, None)
        else:
            cache.shrink(size)
        while sum(kept.values()) > (size if action == "shrink" else 100):
            del kept[next(iter(kept))]
            evicted += 1
        assert cache.size_bytes == sum(kept.values()) <= 100
        assert {key for key in KEYS if key in cache} == set(kept)
    assert metrics.values.get(("sluice_cache_evictions", ("fetch",)), 0) == evicted
