"""The numbers of the algorithm, all of them functions of the dimension."""

from dataclasses import dataclass, replace

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """How much is drawn, how many components there may be, and when to stop.

    Attributes
    ----------
    n_prior : int
        Draws from the prior, which are all that can discover a mode.
    n_spare : int
        More of them, if the growth leaves evaluations over.
    n_effective : float
        The effective number of draws that a step of the annealing keeps.
    n_batch : int
        Draws of a batch.
    n_pooled : int
        Batches that growth fits to at a time.
    n_starts : int
        Climbs of the mode hunt.
    max_components : int
        As many as growth may make.
    most_components : int
        As many as there may be in the end: a union of two candidates has more.
    n_judged : int
        Draws on which candidates are compared.
    n_reported : int
        Draws of the report.
    """

    n_prior: int = 10_000
    n_spare: int = 0
    n_effective: float = 200.0
    n_batch: int = 1_000
    n_pooled: int = 5
    n_starts: int = 40
    max_components: int = 100
    most_components: int = 200
    n_judged: int = 6_000
    n_reported: int = 10_000
    max_rounds: int = 40
    max_levels: int = 16
    patience: int = 3
    long_patience: int = 6
    good_divergence: float = 0.018
    fair_divergence: float = 0.05
    natural_steps: int = 30

    def within(self, max_evals: int) -> "Settings":
        """Return settings whose last samples leave most of the budget for the rest."""
        return replace(
            self,
            n_judged=min(self.n_judged, max_evals // 8),
            n_reported=min(self.n_reported, max_evals // 5),
        )

    @classmethod
    def for_dimension(
        cls,
        n_features: int,
        *,
        frugal: bool,
        max_components: int | None = None,
        effort: int = 1,
    ) -> "Settings":
        """Return the defaults, or those for potentials that are slow to evaluate.

        Parameters
        ----------
        n_features : int
            The dimension.
        frugal : bool
            Whether the potential is slow.
        max_components : int, optional
            The limit.
        effort : int, default=1
            How many times as many draws from the prior and components.
        """
        automatic = effort * (30 if frugal else 100)
        limits = {"max_components": automatic, "most_components": 2 * automatic}
        if max_components is not None:
            limits = dict.fromkeys(limits, effort * max_components)
        n_effective = max(200.0, 30.0 * (n_features + 1))
        n_batch = max(1_000, 100 * (n_features + 1))
        if not frugal:
            return cls(
                n_prior=effort * 10_000,
                n_effective=n_effective,
                n_batch=n_batch,
                **limits,
            )
        return cls(
            n_prior=effort * 2_000,
            n_spare=effort * 8_000,
            n_effective=0.5 * n_effective,
            n_batch=n_batch // 2,
            good_divergence=0.02,
            n_starts=15,
            n_judged=1_000,
            n_reported=2_000,
            **limits,
        )
