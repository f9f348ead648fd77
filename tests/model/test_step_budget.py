"""Steps beside work on prompts keep to their time, and prompts to half their lone rate, whatever a step costs."""

from dataclasses import dataclass

import pytest

from deployments.model.engine.step_budget import StepBudget, StepCost

TARGET_S = 0.05
ONE_BESIDE_EIGHT = 1 / 8


@dataclass(frozen=True)
class Machine:
    """Virtual seconds of steps."""

    decode_s: float
    mixed_s: float
    """Of a step with a chunk, before its tokens cost anything."""
    token_s: float
    pair_s: float
    """For each key that a token looks at."""
    chunk: int

    def step_s(self, tokens: int, context: int) -> float:
        if not tokens:
            return self.decode_s
        return self.mixed_s + self.token_s * tokens + self.pair_s * tokens * (context + tokens / 2)

    def lone_rate(self, context: int) -> float:
        """Tokens a second of whole chunks with nobody beside them; what a pass costs is in it."""
        return self.chunk / self.step_s(self.chunk, context)


MACHINES = {
    "cpu": Machine(0.006, 0.006, 8e-5, 3e-9, 512),
    "launched": Machine(0.030, 0.030, 3e-5, 3e-10, 8192),
    "replayed": Machine(0.010, 0.030, 3e-5, 3e-10, 8192),
    "slow": Machine(0.200, 0.200, 1e-3, 1e-8, 512),
}


@pytest.fixture(params=sorted(MACHINES))
def machine(request):
    return MACHINES[request.param]


def _prefill(budget, machine, num_tokens):
    """Steps (tokens, context, seconds) of a prompt beside answers."""
    context, steps = 0, []
    while context < num_tokens:
        allowance = budget.chunk(context, ONE_BESIDE_EIGHT)
        tokens = min(allowance.size, num_tokens - context)
        seconds = machine.step_s(tokens, context)
        budget.update(seconds, allowance, tokens)
        steps.append((tokens, context, seconds))
        context += tokens
    return steps


def _seasoned(machine):
    """A budget that has seen a few prompts of unequal length."""
    budget = StepBudget(machine.chunk, TARGET_S)
    for length in (200, 30_000, 900, 30_000):
        for _ in range(5):
            budget.update(machine.decode_s, None, 0)
        _prefill(budget, machine, length)
    return budget


def test_no_step_takes_longer_than_the_target_or_twice_its_fixed_cost(machine):
    steps = _prefill(_seasoned(machine), machine, 30_000)
    allowed = max(TARGET_S, 2 * machine.mixed_s)
    assert max(seconds for _, _, seconds in steps) <= 1.25 * allowed


def test_prompts_go_on_at_half_their_lone_rate_at_least(machine):
    """Over a whole prompt, its first and its last step included."""
    steps = _prefill(_seasoned(machine), machine, 30_000)
    alone_s = sum(tokens / machine.lone_rate(context) for tokens, context, _ in steps)
    took_s = sum(seconds for _, _, seconds in steps)
    assert took_s <= 2.2 * alone_s


def test_the_first_prompt_is_not_far_behind(machine):
    """With nothing known but what a step takes that only decodes."""
    budget = StepBudget(machine.chunk, TARGET_S)
    budget.update(machine.decode_s, None, 0)
    steps = _prefill(budget, machine, 4096)
    alone_s = sum(tokens / machine.lone_rate(context) for tokens, context, _ in steps)
    assert sum(seconds for _, _, seconds in steps) <= 3 * alone_s


def test_nobody_waits_means_whole_chunks():
    assert StepBudget(512, TARGET_S).chunk(0, None).size == 512


def test_a_crowd_that_waits_gets_longer_steps():
    budget = StepBudget(4096, TARGET_S)
    assert budget.chunk(0, 4.0).size == 4 * budget.chunk(0, ONE_BESIDE_EIGHT).size


def test_cost_is_told_apart_from_steps_of_unequal_size():
    cost = StepCost()
    for amount in (10, 200, 50, 400):
        cost.add(amount, 0.02 + 1e-4 * amount)
    assert cost.line(0.0) == pytest.approx((0.02, 1e-4))


def test_steps_of_one_size_tell_no_fixed_cost():
    cost = StepCost()
    for _ in range(5):
        cost.add(100, 0.03)
    assert cost.line(0.01) == pytest.approx((0.01, 2e-4))
