"""The samples of a timing, their number and order, with a clock that does not depend on the machine."""

from itertools import pairwise

from betavae_fast.bench.timing import Effort, Task, interleave


class FakeClock:
    """A clock that each call of a task advances by the task's own seconds."""

    def __init__(self):
        self.now = 0.0

    def settle(self):
        pass

    def __call__(self, work):
        start = self.now
        work()
        return self.now - start


def _tasks(clock, order, **seconds):
    def call(name):
        clock.now += seconds[name]
        order.append(name)

    return [Task(name, lambda _, name=name: call(name)) for name in seconds]


def test_time_is_that_of_one_call():
    clock, order = FakeClock(), []
    timings = interleave(_tasks(clock, order, fast=1e-6, slow=1e-2), clock, Effort(max_samples=20))
    assert abs(timings["fast"].p50 - 1e-6) < 1e-9 and timings["fast"].calls_per_sample == 1000
    assert abs(timings["slow"].p80 - 1e-2) < 1e-9 and timings["slow"].calls_per_sample == 1


def test_slow_tasks_get_fewer_samples_spread_over_all_rounds():
    clock, order = FakeClock(), []
    effort = Effort(sample_seconds=0.0, task_seconds=1.0, min_samples=4, max_samples=40)
    timings = interleave(_tasks(clock, order, fast=0.01, slow=1.0), clock, effort)
    assert (timings["fast"].samples, timings["slow"].samples) == (40, 4)
    rounds = order[-44:]
    places = [i for i, name in enumerate(rounds) if name == "slow"]
    assert min(b - a for a, b in pairwise(places)) >= 9


def test_nobody_always_comes_first():
    clock, order = FakeClock(), []
    effort = Effort(sample_seconds=0.0, task_seconds=0.0, min_samples=6)
    interleave(_tasks(clock, order, a=0.01, b=0.01, c=0.01), clock, effort)
    rounds = [tuple(order[-18:][i : i + 3]) for i in range(0, 18, 3)]
    assert {r[0] for r in rounds} == {"a", "b", "c"}
    assert all(set(r) == {"a", "b", "c"} for r in rounds)


def test_percentiles_are_ordered_and_interpolated():
    clock, seconds = FakeClock(), iter(range(1, 1000))

    def call(_):
        clock.now += next(seconds)

    effort = Effort(sample_seconds=0.0, task_seconds=0.0, min_samples=11)
    timing = interleave([Task("growing", call)], clock, effort)["growing"]
    # The samples are 4 … 14, after three calls of warm-up.
    assert (timing.p20, timing.p50, timing.p80) == (6.0, 9.0, 12.0)
    assert timing.samples == 11


def test_only_the_call_is_timed():
    clock = FakeClock()

    def prepare():
        clock.now += 5

    def call(_):
        clock.now += 1

    assert interleave([Task("x", call, prepare)], clock, Effort(min_samples=3, task_seconds=0))["x"].p50 == 1
