"""What a session may use, over all its calls."""

from __future__ import annotations

from dataclasses import dataclass, replace

from m2gym.core.errors import BudgetError
from m2gym.core.protocols import Sampling
from m2gym.core.trajectory import Completion, Usage


@dataclass(frozen=True)
class Budget:
    """Limits of a session; ``None`` means no bound.

    ``tokens``: generated tokens, all calls together; a call gets at most what is left.
    ``cost_usd``: what providers charge; the call that crosses it is the last.
    ``context``: prompt and answer of one call. A call that extends a completion this long is
    refused; an answer gets at most what that completion left (`TokenModel`'s own ``context`` counts
    the new messages too). Calls made at the same time are each admitted by what was used before.
    """

    tokens: int | None = None
    cost_usd: float | None = None
    context: int | None = None

    def admit(self, used: Usage, parent: Completion | None, sampling: Sampling) -> Sampling:
        """The sampling of the next call, its ``max_tokens`` within what is left.

        Raises:
            BudgetError: nothing is left.
        """
        limits = [] if sampling.max_tokens is None else [sampling.max_tokens]
        if self.tokens is not None:
            left = self.tokens - used.completion_tokens
            if left <= 0:
                raise BudgetError(
                    f"the budget of {self.tokens} generated tokens is used up", "tokens"
                )
            limits.append(left)
        if self.cost_usd is not None and used.cost_usd >= self.cost_usd:
            raise BudgetError(
                f"the budget of {self.cost_usd:g} USD is used up: {used.cost_usd:.4f}", "cost"
            )
        if self.context is not None and parent is not None:
            held = parent.usage.prompt_tokens + parent.usage.completion_tokens
            if held >= self.context:
                raise BudgetError(
                    f"the context of {self.context} tokens is full: {held} are used", "context"
                )
            limits.append(self.context - held)
        return replace(sampling, max_tokens=min(limits)) if limits else sampling
