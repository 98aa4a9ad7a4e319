"""The one retry policy, for single requests: what is tried again, after which wait, and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import tenacity
from tenacity.wait import wait_base, wait_random_exponential

from uploader.model.events import Retried
from uploader.oci.http import Answer, Lost, Request, Response
from uploader.oci.refusal import read_refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from uploader.model.events import Emit
    from uploader.oci.profile import Profile
    from uploader.registry.timing import Timing


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Tries of one request, and how long (seconds) to go on in all, waits that the registry asked for included."""

    attempts: int = 8
    seconds: float = 900.0
    first_wait: float = 0.5
    longest_wait: float = 30.0

    def backoff(self) -> wait_base:
        """Full jitter: a random wait between nothing and a limit that doubles."""
        return wait_random_exponential(multiplier=self.first_wait, max=self.longest_wait)


class Retrying:
    """Sends a request until it has an answer that is final under the policy."""

    def __init__(self, policy: RetryPolicy, profile: Profile, timing: Timing, emit: Emit = lambda _: None) -> None:
        self._emit = emit
        self._policy = policy
        self._profile = profile
        self._timing = timing

    async def send(self, request: Request, once: Callable[[Request], Awaitable[Answer]]) -> Answer:
        """The last answer, with the number of attempts in it."""
        answer = await once(request)
        if not self.worth_repeating(request, answer):
            return answer
        backoff = self._policy.backoff()

        def wait(state: tenacity.RetryCallState) -> float:
            return max(self._asked_wait(state), backoff(state))

        attempts, begun = 1, self._timing.monotonic()
        first: Answer | None = answer

        async def again() -> Answer:
            nonlocal attempts, first
            if first is not None:  # tenacity counts the try that was made already
                given, first = first, None
                return given
            attempts += 1
            return await once(request)

        def spent(state: tenacity.RetryCallState) -> bool:
            time_is_over = self._timing.monotonic() - begun >= self._policy.seconds
            return time_is_over or state.attempt_number >= self._policy.attempts

        retrying = tenacity.AsyncRetrying(
            stop=spent,
            wait=wait,
            retry=tenacity.retry_if_result(lambda result: self.worth_repeating(request, result)),
            retry_error_callback=_last_answer,
            sleep=self._timing.sleep,
            before_sleep=lambda state: self._tell(request, state),
        )
        last: Answer = await retrying(again)
        return replace(last, attempts=attempts)

    def worth_repeating(self, request: Request, answer: Answer) -> bool:
        """Transient, and harmless to send again: clearly refused, never begun, or repeatable by its nature."""
        if isinstance(answer, Response) and answer.status < 400:
            return False
        refusal = read_refusal(answer, self._profile, 0.0)
        if isinstance(answer, Lost):
            return request.repeatable or not answer.connected
        return refusal.transient and (request.repeatable or (refusal.throttled and answer.status != 503))

    def _tell(self, request: Request, state: tenacity.RetryCallState) -> None:
        if state.outcome is not None and state.next_action is not None:
            refusal = read_refusal(state.outcome.result(), self._profile, 0.0)
            self._emit(Retried(request.subject, refusal.text, state.next_action.sleep))

    def _asked_wait(self, state: tenacity.RetryCallState) -> float:
        if state.outcome is None:
            return 0.0
        refusal = read_refusal(state.outcome.result(), self._profile, self._timing.wall())
        return refusal.retry_after or 0.0


def _last_answer(state: tenacity.RetryCallState) -> Answer:
    if state.outcome is None:
        raise ValueError("a retry without a try")
    answer: Answer = state.outcome.result()
    return answer
