"""Keys are spread evenly, move as little as they can, and give way to load within its bound."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.serving.rendezvous import in_turn, preferred, ranked, take_more

names = st.lists(st.text(min_size=1, max_size=100), min_size=1, max_size=8, unique=True)


@given(key=st.text(), replicas=names)
def test_every_caller_finds_the_same_order_of_all_replicas(key: str, replicas: list[str]) -> None:
    order = ranked(key, replicas)
    assert sorted(order) == sorted(replicas)
    assert order == ranked(key, reversed(replicas))
    assert preferred(key, replicas) == order[0]


@given(key=st.text(), replicas=names, data=st.data())
def test_a_replica_that_leaves_changes_nothing_for_the_order_of_the_others(
    key: str, replicas: list[str], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(replicas))
    left = [name for name in replicas if name != gone]
    assert ranked(key, left) == [name for name in ranked(key, replicas) if name != gone]


@settings(max_examples=12)
@given(count=st.integers(1, 6), prefix=st.text(max_size=20))
def test_one_more_replica_takes_its_share_of_the_keys_and_no_other_key_moves(count: int, prefix: str) -> None:
    keys = [f"{prefix}{number}" for number in range(1000)]
    before = [f"replica {number}" for number in range(count)]
    moved = [key for key in keys if preferred(key, before) != preferred(key, [*before, "new"])]
    assert all(preferred(key, [*before, "new"]) == "new" for key in moved)
    share = 1000 / (count + 1)
    assert 0.7 * share < len(moved) < 1.3 * share


@settings(max_examples=12)
@given(count=st.integers(2, 8), prefix=st.text(max_size=20))
def test_keys_are_spread_evenly(count: int, prefix: str) -> None:
    replicas = [f"{prefix} {number}" for number in range(count)]
    counts = Counter(preferred(f"key {number}", replicas) for number in range(4000))
    assert min(counts[name] for name in replicas) > 0.7 * 4000 / count
    assert max(counts.values()) < 1.3 * 4000 / count


@given(
    loads=st.lists(st.none() | st.integers(0, 500), min_size=1, max_size=8),
    factor=st.floats(1, 3),
    places=st.integers(1, 8),
)
def test_the_least_busy_replica_may_always_take_one_more(loads: list[int | None], factor: float, places: int) -> None:
    verdicts = take_more(loads, factor, places)
    known = [load for load in loads if load is not None]
    assert all(may for load, may in zip(loads, verdicts, strict=True) if load is None or load == min(known))


@given(
    keys=st.lists(st.integers(0, 4), min_size=1, max_size=150),
    count=st.integers(2, 5),
    factor=st.floats(1, 2),
    places=st.integers(1, 4),
)
def test_no_replica_gets_more_than_the_factor_times_what_the_others_have(
    keys: list[int], count: int, factor: float, places: int
) -> None:
    loads = dict.fromkeys((f"replica {number}" for number in range(count)), 0)
    for key in keys:
        order = ranked(str(key), loads)
        verdicts = take_more([loads[name] for name in order], factor, places)
        chosen = order[verdicts.index(True)]
        loads[chosen] += 1
        others = (sum(loads.values()) - loads[chosen]) / (count - 1)
        assert loads[chosen] <= max(places, factor * (others + 1))


def test_a_busy_replica_gives_up_the_preference_and_one_with_free_places_does_not() -> None:
    assert take_more([3, 0], 1.25, 4) == [True, True]
    assert take_more([4, 0], 1.25, 4) == [False, True]
    assert take_more([40, 30], 1.25, 4) == [False, True]
    assert take_more([37, 30], 1.25, 4) == [True, True]


def test_a_load_that_nobody_knows_is_held_against_nobody() -> None:
    assert take_more([None, None], 1.25, 2) == [True, True]
    assert take_more([9, None], 1.25, 2) == [True, True]
    assert take_more([9, None, 1], 1.25, 2) == [False, True, True]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_calls_without_a_key_go_apart_and_to_the_idle_ones_first(loads: list[int]) -> None:
    orders = [in_turn(loads, turn) for turn in range(len(loads))]
    for order in orders:
        assert sorted(order) == list(range(len(loads)))
        assert [loads[number] for number in order] == sorted(loads)
    idle = {number for number, load in enumerate(loads) if load == min(loads)}
    assert {order[0] for order in orders} == idle
