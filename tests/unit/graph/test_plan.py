from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from uploader.errors import RegistryError, SourceError
from uploader.graph.plan import Closure, PackageOutcome, Plan
from uploader.model.outcome import Done, Failed, Interrupted, LeftOut, Missing, Tagged
from uploader.model.package import Package, PackageGraph, PackageId, Platform
from uploader.testing.packages import a_layer, a_package
from uploader.testing.strategies import graphs, most_of, some_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploader.model.outcome import Why

ARM = Platform(architecture="arm64")


def done(package: Package) -> Done:
    return Done(a_layer(package.id), "uploaded")


def tagged(package: Package, closure: Closure) -> Tagged:
    return Tagged(a_layer(f"manifest of {package.id}").descriptor, pushed=True, missing=closure.missing)


@dataclass(frozen=True, slots=True)
class Trial:
    """A push of `selected`, in which some blobs and some manifests fail."""

    graph: PackageGraph
    selected: frozenset[PackageId]
    failing: frozenset[PackageId]
    refused: frozenset[PackageId]

    def layer(self, package: Package) -> Done | Failed:
        return Failed(SourceError("torn"), "read") if package.id in self.failing else done(package)

    def manifest(self, package: Package, closure: Closure) -> Tagged | Failed:
        refused = package.id in self.refused
        return Failed(RegistryError("no"), "manifest") if refused else tagged(package, closure)


@st.composite
def trials(draw: st.DrawFn) -> Trial:
    graph = draw(graphs())
    selected = draw(st.one_of(most_of(graph), some_of(graph)))
    return Trial(graph, selected, draw(some_of(graph)), draw(some_of(graph)))


@dataclass
class Run:
    """A trial on its way: whatever the plan hands out lies here until it is ended."""

    trial: Trial
    plan: Plan
    blobs: list[Package] = field(default_factory=list)
    manifests: list[tuple[Package, Closure]] = field(default_factory=list)
    ended_blobs: dict[PackageId, Done | Failed] = field(default_factory=dict)
    ended_manifests: dict[PackageId, Tagged | Failed] = field(default_factory=dict)
    closures: dict[PackageId, Closure] = field(default_factory=dict)

    @classmethod
    def of(cls, trial: Trial) -> Run:
        return cls(trial, Plan(trial.graph, trial.selected))

    def steps(self) -> list[Callable[[], bool]]:
        ends: list[Callable[[], bool]] = [self.end_blob] if self.blobs else []
        ends += [self.end_manifest] if self.manifests else []
        return [self.take_blob, self.take_manifest, *ends]

    def take_blob(self) -> bool:
        package = self.plan.take_blob()
        if package is None:
            return False
        assert package not in self.blobs, "a blob is handed out once"
        assert package.id not in self.ended_blobs, "a blob is handed out once"
        self.blobs.append(package)
        return True

    def take_manifest(self) -> bool:
        package = self.plan.take_manifest()
        if package is None:
            return False
        assert package.id not in self.closures, "a manifest is handed out once"
        assert isinstance(self.ended_blobs.get(package.id), Done), "its own blob is done"
        for key in full_order(self.trial.graph, package.id):
            assert is_left_out(self.trial, key) or key in self.ended_blobs, "its whole closure has ended"
        closure = self.closures[package.id] = self.plan.closure(package)
        self.manifests.append((package, closure))
        return True

    def end_blob(self, which: int = 0) -> bool:
        package = self.blobs.pop(which % len(self.blobs))
        outcome = self.ended_blobs[package.id] = self.trial.layer(package)
        self.plan.settle_layer(package, outcome)
        return True

    def end_manifest(self, which: int = 0) -> bool:
        package, closure = self.manifests.pop(which % len(self.manifests))
        outcome = self.ended_manifests[package.id] = self.trial.manifest(package, closure)
        self.plan.settle_manifest(package, outcome)
        return True

    def to_the_end(self, choose: st.DataObject | None = None, *, at_most: int | None = None) -> None:
        """Take steps, as drawn or in order, until there are none, or so many have been made."""
        made = 0
        while not self.plan.finished and made != at_most:
            steps = self.steps()
            if choose is not None:
                steps = choose.draw(st.permutations(steps))
            assert any(step() for step in steps), "it never gets stuck"
            made += 1


# -- the rule once more, as naively as can be


def full_order(graph: PackageGraph, root: PackageId) -> list[PackageId]:
    """Rule 5: depth first, what is needed before what needs it, children by name, then id."""
    order: list[PackageId] = []

    def visit(key: PackageId) -> None:
        needs = graph[key].dependencies if key in graph else ()
        for child in sorted(needs, key=lambda one: (graph[one].name if one in graph else one, one)):
            if child not in order:
                visit(child)
        if key not in order:
            order.append(key)

    visit(root)
    return order


def is_left_out(trial: Trial, key: PackageId) -> bool:
    return key not in trial.graph or key not in trial.selected or trial.graph[key].absence is not None


def why_missing(trial: Trial, root: PackageId, key: PackageId) -> Why | None:
    if key not in trial.graph:
        return "unknown-id"
    if key not in trial.selected:
        return "not-selected"
    if trial.graph[key].absence is not None:
        return trial.graph[key].absence
    if trial.graph[key].platform != trial.graph[root].platform:
        return "other-platform"
    return "failed" if key in trial.failing else None


def closure_by_definition(trial: Trial, root: PackageId) -> Closure:
    layers, missing = [], []
    for index, key in enumerate(full_order(trial.graph, root)):
        why = why_missing(trial, root, key)
        if why is None:
            layers.append(a_layer(key))
        elif key in trial.graph:
            package = trial.graph[key]
            missing.append(Missing(key, package.name, package.tag, why, index))
        else:
            missing.append(Missing(key, key, None, why, index))
    return Closure(tuple(layers), tuple(missing))


# -- properties, over any graph, any failures, any order of ends


@given(trials(), st.data())
@settings(max_examples=300)
def test_every_task_ends_once_and_none_is_left(trial: Trial, choose: st.DataObject) -> None:
    run = Run.of(trial)
    run.to_the_end(choose)
    wanted = {package.id for package in trial.graph.packages if not is_left_out(trial, package.id)}
    assert run.ended_blobs.keys() == wanted
    assert run.ended_manifests.keys() == wanted - trial.failing
    assert run.plan.take_blob() is None
    assert run.plan.take_manifest() is None


@given(trials(), st.data())
@settings(max_examples=300)
def test_a_manifest_names_what_the_definition_says(trial: Trial, choose: st.DataObject) -> None:
    run = Run.of(trial)
    run.to_the_end(choose)
    assert run.closures == {key: closure_by_definition(trial, key) for key in run.closures}


@given(trials(), st.data())
def test_the_own_layer_is_last_and_the_missing_fit_into_their_places(trial: Trial, choose: st.DataObject) -> None:
    run = Run.of(trial)
    run.to_the_end(choose)
    for key, closure in run.closures.items():
        order: list[object] = list(closure.layers)
        for missing in closure.missing:
            order.insert(missing.index, missing.id)
        names = {a_layer(one): one for one in full_order(trial.graph, key)}
        assert closure.layers[-1] == a_layer(key)
        assert [names.get(one, one) for one in order] == full_order(trial.graph, key)  # type: ignore[call-overload]


@given(trials(), st.data())
def test_the_outcome_does_not_depend_on_the_order_of_ends(trial: Trial, choose: st.DataObject) -> None:
    drawn, straight = Run.of(trial), Run.of(trial)
    drawn.to_the_end(choose)
    straight.to_the_end()
    assert [_plain(one) for one in drawn.plan.outcomes()] == [_plain(one) for one in straight.plan.outcomes()]


def _plain(outcome: PackageOutcome) -> tuple[object, ...]:
    """Errors are equal to themselves alone, so failures count by their stage."""
    layer, manifest = (one.stage if isinstance(one, Failed) else one for one in (outcome.layer, outcome.manifest))
    return outcome.package.id, layer, manifest


@given(graphs(), st.data())
def test_when_every_blob_fails_there_is_no_manifest(graph: PackageGraph, choose: st.DataObject) -> None:
    everything = frozenset(package.id for package in graph.packages)
    run = Run.of(Trial(graph, everything, failing=everything, refused=frozenset()))
    run.to_the_end(choose)
    assert run.closures == {}
    assert all(outcome.manifest is None for outcome in run.plan.outcomes())


@given(trials(), st.data(), st.integers(0, 30))
def test_an_interruption_at_any_point_leaves_true_outcomes(trial: Trial, choose: st.DataObject, steps: int) -> None:
    run = Run.of(trial)
    run.to_the_end(choose, at_most=steps)
    run.plan.interrupt("enough")
    assert run.plan.finished
    assert run.plan.take_blob() is None
    assert run.plan.take_manifest() is None
    check_outcomes(run, "enough")


class Interruption(RuleBasedStateMachine):
    """Tasks are taken and ended in any order, until the push is interrupted or finished; then its word is true."""

    @initialize(trial=trials())
    def begin(self, trial: Trial) -> None:
        self.push = Run.of(trial)

    @precondition(lambda self: not self.push.plan.finished)
    @rule(manifest=st.booleans())
    def take(self, manifest: bool) -> None:
        self.push.take_manifest() if manifest else self.push.take_blob()

    @precondition(lambda self: not self.push.plan.finished and self.push.blobs)
    @rule(which=st.integers(0, 9))
    def end_blob(self, which: int) -> None:
        self.push.end_blob(which)

    @precondition(lambda self: not self.push.plan.finished and self.push.manifests)
    @rule(which=st.integers(0, 9))
    def end_manifest(self, which: int) -> None:
        self.push.end_manifest(which)

    @rule()
    def interrupt(self) -> None:
        self.push.plan.interrupt("enough")
        assert self.push.plan.finished

    @precondition(lambda self: self.push.plan.finished)
    @rule()
    def hand_out_no_more(self) -> None:
        assert not self.push.take_blob()
        assert not self.push.take_manifest()

    @precondition(lambda self: self.push.plan.finished and self.push.blobs)
    @rule()
    def refuse_what_ends_too_late(self) -> None:
        late = self.push.blobs.pop()
        with pytest.raises(ValueError, match="ended twice"):
            self.push.plan.settle_layer(late, done(late))

    def teardown(self) -> None:
        if hasattr(self, "push"):
            self.push.plan.interrupt("enough")
            check_outcomes(self.push, "enough")


TestInterruption = Interruption.TestCase


def check_outcomes(run: Run, why: str) -> None:
    """What ended is as it ended, what was left out is left out, and the rest was interrupted."""
    for outcome in run.plan.outcomes():
        key = outcome.package.id
        if is_left_out(run.trial, key):
            assert isinstance(outcome.layer, LeftOut)
            assert outcome.manifest is None
            continue
        assert outcome.layer == run.ended_blobs.get(key, Interrupted(why))
        wanted = run.ended_manifests.get(key, Interrupted(why))
        assert outcome.manifest == (wanted if isinstance(outcome.layer, Done) else None)


# -- the rule by example


def settled(
    packages: list[Package], *, failing: tuple[str, ...] = (), left_out: tuple[str, ...] = ()
) -> dict[str, Closure]:
    """The closures of all manifests of a push."""
    graph = PackageGraph(packages)
    selected = frozenset(package.id for package in packages if package.id not in left_out)
    run = Run.of(Trial(graph, selected, frozenset(map(PackageId, failing)), frozenset()))
    run.to_the_end()
    return {str(key): closure for key, closure in run.closures.items()}


def gaps(closure: Closure) -> list[tuple[str, str, int]]:
    return [(missing.id, missing.why, missing.index) for missing in closure.missing]


CHAIN = [a_package("app", "lib"), a_package("lib", "libc"), a_package("libc")]


def test_blobs_wait_for_nothing() -> None:
    plan = Plan(PackageGraph(CHAIN), frozenset(package.id for package in CHAIN))
    assert [plan.take_blob(), plan.take_blob(), plan.take_blob()] == [CHAIN[2], CHAIN[1], CHAIN[0]]


def test_a_manifest_waits_for_its_own_blob_and_for_its_closure_alone() -> None:
    app, lib, libc = CHAIN
    plan = Plan(PackageGraph(CHAIN), frozenset(package.id for package in CHAIN))
    plan.settle_layer(app, done(app))
    plan.settle_layer(libc, done(libc))
    assert plan.take_manifest() == libc
    assert plan.take_manifest() is None
    plan.settle_layer(lib, done(lib))
    assert [plan.take_manifest(), plan.take_manifest()] == [lib, app]


def test_a_manifest_waits_for_what_a_package_that_is_left_out_needs() -> None:
    app, _, libc = CHAIN
    plan = Plan(PackageGraph(CHAIN), frozenset({app.id, libc.id}))
    plan.settle_layer(app, done(app))
    assert plan.take_manifest() is None
    plan.settle_layer(libc, done(libc))
    assert [plan.take_manifest(), plan.take_manifest()] == [libc, app]


def test_a_failed_layer_is_a_gap_of_its_dependents_and_its_package_has_no_manifest() -> None:
    closures = settled(CHAIN, failing=("lib",))
    assert closures.keys() == {"app", "libc"}
    assert closures["app"].layers == (a_layer("libc"), a_layer("app"))
    assert gaps(closures["app"]) == [("lib", "failed", 1)]


def test_a_failed_manifest_hurts_nobody() -> None:
    trial = Trial(PackageGraph(CHAIN), frozenset(p.id for p in CHAIN), frozenset(), refused=frozenset({CHAIN[1].id}))
    run = Run.of(trial)
    run.to_the_end()
    assert run.closures[CHAIN[0].id].layers == (a_layer("libc"), a_layer("lib"), a_layer("app"))
    assert [type(outcome.manifest) for outcome in run.plan.outcomes()] == [Tagged, Failed, Tagged]


def test_what_is_not_selected_is_left_out_by_choice_and_what_it_needs_is_named() -> None:
    closures = settled(CHAIN, left_out=("lib",))
    assert closures["app"].layers == (a_layer("libc"), a_layer("app"))
    assert gaps(closures["app"]) == [("lib", "not-selected", 1)]
    assert not any(missing.is_gap for missing in closures["app"].missing)


def test_not_selected_comes_before_every_other_reason() -> None:
    packages = [a_package("app", "lib"), a_package("lib", absence="not-installed", platform=ARM)]
    assert gaps(settled(packages, left_out=("lib",))["app"]) == [("lib", "not-selected", 0)]


@pytest.mark.parametrize("absence", ["not-installed", "not-redistributable"])
def test_what_cannot_be_pushed_is_a_gap(absence: Literal["not-installed", "not-redistributable"]) -> None:
    closures = settled([a_package("app", "lib"), a_package("lib", absence=absence)])
    assert gaps(closures["app"]) == [("lib", absence, 0)]
    assert all(missing.is_gap for missing in closures["app"].missing)
    assert closures.keys() == {"app"}


def test_an_unknown_id_is_a_gap_in_its_place_by_its_id() -> None:
    closure = settled([a_package("app", "m-gone", "a", "z"), a_package("a"), a_package("z")])["app"]
    assert closure.missing == (Missing(PackageId("m-gone"), "m-gone", None, "unknown-id", 1),)


@pytest.mark.parametrize("failing", [(), ("lib",)])
def test_a_layer_of_another_platform_is_left_out_whatever_became_of_it(failing: tuple[str, ...]) -> None:
    packages = [a_package("app", "lib"), a_package("lib", "base", platform=ARM), a_package("base")]
    closures = settled(packages, failing=failing)
    assert closures["app"].layers == (a_layer("base"), a_layer("app"))
    assert gaps(closures["app"]) == [("lib", "other-platform", 1)]


def test_dependencies_go_by_name_then_id() -> None:
    packages = [
        a_package("app", "z-1", "a-2", "a-1"),
        a_package("z-1", name="aa"),
        a_package("a-2", name="zz"),
        a_package("a-1", name="zz"),
    ]
    assert settled(packages)["app"].layers == tuple(map(a_layer, ("z-1", "a-1", "a-2", "app")))


def test_a_shared_dependency_is_named_once_where_it_is_first_needed() -> None:
    packages = [a_package("app", "b", "c"), a_package("b", "d"), a_package("c", "d"), a_package("d")]
    assert settled(packages)["app"].layers == tuple(map(a_layer, ("d", "b", "c", "app")))


def test_blobs_go_out_by_rank_where_one_is_given() -> None:
    sizes = {"app": 3, "lib": 1, "libc": 2}
    plan = Plan(PackageGraph(CHAIN), frozenset(p.id for p in CHAIN), rank=lambda package: -sizes[package.id])
    assert [package.id for package in iter(plan.take_blob, None) if package] == ["app", "libc", "lib"]


def test_a_push_that_selects_nothing_is_finished_at_once() -> None:
    plan = Plan(PackageGraph(CHAIN), frozenset())
    assert plan.finished
    assert {outcome.layer for outcome in plan.outcomes()} == {LeftOut("not-selected")}


def test_a_deep_chain_settles() -> None:
    count = 20_000
    packages = [a_package(f"p{number:05}", f"p{number + 1:05}") for number in range(count)]
    graph = PackageGraph(packages)
    plan = Plan(graph, frozenset(package.id for package in packages))
    for package in packages:  # the root first, so that all markers settle in one go
        plan.settle_layer(package, done(package))
    assert len(plan.closure(packages[0]).layers) == count
    assert sum(1 for _ in iter(plan.take_manifest, None)) == count


# -- wrong calls


def test_a_layer_cannot_end_twice() -> None:
    plan = Plan(PackageGraph(CHAIN), frozenset(package.id for package in CHAIN))
    plan.settle_layer(CHAIN[0], done(CHAIN[0]))
    with pytest.raises(ValueError, match="the layer of 'app' ended twice"):
        plan.settle_layer(CHAIN[0], done(CHAIN[0]))


def test_a_manifest_cannot_end_twice_nor_before_its_layer() -> None:
    lone = a_package("lone")
    plan = Plan(PackageGraph([lone]), frozenset({lone.id}))
    with pytest.raises(ValueError, match="before its layer"):
        plan.settle_manifest(lone, tagged(lone, Closure((), ())))
    plan.settle_layer(lone, done(lone))
    plan.settle_manifest(lone, tagged(lone, plan.closure(lone)))
    with pytest.raises(ValueError, match="ended twice"):
        plan.settle_manifest(lone, tagged(lone, plan.closure(lone)))


def test_what_has_not_settled_has_no_closure_and_no_outcome() -> None:
    plan = Plan(PackageGraph(CHAIN), frozenset(package.id for package in CHAIN))
    with pytest.raises(ValueError, match="has not settled"):
        plan.closure(CHAIN[0])
    with pytest.raises(ValueError, match="the plan has not finished"):
        list(plan.outcomes())
