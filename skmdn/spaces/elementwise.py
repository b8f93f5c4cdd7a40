"""Transforms of numbers, with exact inverses and log-determinants."""

import math

import numpy as np
import torch

from skmdn.base import Standardizer
from skmdn.bridge import to_numpy, to_tensor
from skmdn.supports import Support

from .transform import Transform, by_torch, listed

__all__ = ["Constrain", "Log", "Sqrt", "Standardize"]


class Elementwise(Transform):
    """Base of transforms that map each number of some variables by itself."""

    def _chosen(self, variables):
        """Return the names of the variables that are there to be mapped."""
        return self._pick(variables, listed(self.names))

    def _forward(self, variables):
        return self._each(variables, self._map)

    def _inverse(self, variables):
        return self._each(variables, self._map_back)

    def _each(self, variables, function):
        mapped = dict(variables)
        for name in self._chosen(variables):
            mapped[name] = by_torch(lambda v, n=name: function(v, n), mapped[name])
        return mapped

    def _log_det(self, variables):
        return self._summed(
            variables, lambda v, name: self._log_slope(self._map(v, name), name)
        )

    def _inverse_log_det(self, variables):
        return -self._summed(variables, self._log_slope)

    def _summed(self, variables, log_slope):
        """Sum the logarithms of slopes over all that is real of a row."""
        total = 0.0
        for name in self._chosen(variables):

            def summed(value, name=name):
                slopes = log_slope(value, name)
                mask = variables.get(f"{name}_mask")
                if mask is not None:
                    slopes = torch.where(_expanded(mask, slopes), slopes, 0.0)
                return slopes.reshape(len(value), -1).sum(1)

            total = total + by_torch(summed, variables[name])
        return total


def _expanded(mask, value):
    """Return a mask of items as one of numbers."""
    if not isinstance(mask, torch.Tensor):
        mask = to_tensor(mask, dtype=torch.bool)
    mask = mask.to(torch.bool)
    return mask.reshape(*mask.shape, *[1] * (value.ndim - mask.ndim)).expand_as(value)


class Standardize(Elementwise):
    r"""Centre numbers and divide them by their standard deviation.

    .. math:: z = (x - m) / s, \quad \log |dz / dx| = -\log s

    Location m and scale s are learned once by ``fit``, one for each entry of the
    last axis. Items that a mask ``<name>_mask`` rules out do not count, and become
    0.

    Parameters
    ----------
    names : str or list of str, default=None
        The variables; None means all but those of truth values.

    Attributes
    ----------
    scalers_ : dict of str to Standardizer
        Location and scale of each variable; constant entries have scale 1.

    See Also
    --------
    Space : Chains transforms.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.spaces import Standardize
    >>> step = Standardize("x").fit({"x": np.array([1.0, 3.0])})
    >>> step.transform({"x": np.array([1.0, 5.0])})
    {'x': array([-1.,  3.])}
    """

    def __init__(self, names=None):
        self.names = names

    def _chosen(self, variables):
        if self.names is None:
            return list(self.scalers_)
        return super()._chosen(variables)

    def _fit(self, variables):
        names = self.names
        if names is None:
            names = [
                name
                for name, value in variables.items()
                if getattr(value.dtype, "kind", "f") != "b"
                and value.dtype != torch.bool
            ]
        self.scalers_ = {}
        for name in self._pick(variables, listed(names)):
            value = _array(variables[name])
            mask = _array(variables.get(f"{name}_mask", np.ones(len(value), bool)))
            rows = value[mask.astype(bool)] if mask.ndim > 1 else value
            rows = rows.reshape(-1, rows.shape[-1] if value.ndim > 1 else 1)
            if value.ndim == 2 and mask.ndim == 2:
                rows = rows.reshape(-1, 1)
            if not np.isfinite(rows).all():
                raise ValueError(f"{name!r} contains NaN or infinity.")
            self.scalers_[name] = Standardizer.fit(
                rows.astype(float), np.ones(len(rows))
            )

    def _forward(self, variables):
        return self._masked(super()._forward(variables), variables)

    def _inverse(self, variables):
        return self._masked(super()._inverse(variables), variables)

    def _masked(self, mapped, variables):
        """Set items that are not real to 0."""
        for name in self._chosen(variables):
            mask = variables.get(f"{name}_mask")
            if mask is not None:
                mapped[name] = by_torch(
                    lambda v, mask=mask: torch.where(_expanded(mask, v), v, 0.0),
                    mapped[name],
                )
        return mapped

    def _constants(self, value, name):
        scaler = self.scalers_[name]
        mean, scale = value.new_tensor(scaler.mean), value.new_tensor(scaler.scale)
        return (mean[0], scale[0]) if len(mean) == 1 else (mean, scale)

    def _map(self, value, name):
        mean, scale = self._constants(value, name)
        return (value - mean) / scale

    def _map_back(self, value, name):
        mean, scale = self._constants(value, name)
        return value * scale + mean

    def _log_slope(self, z, name):
        _, scale = self._constants(z, name)
        return -scale.abs().log().expand_as(z)


def _array(value):
    return to_numpy(value) if isinstance(value, torch.Tensor) else value


class Constrain(Elementwise):
    r"""Take numbers between bounds to the whole line.

    .. math:: z = \log(x - l), \quad z = -\log(h - x), \quad
        z = \log \frac{x - l}{h - x} \quad \text{or} \quad
        z = \Phi^{-1}\Bigl(\frac{x - l}{h - l}\Bigr)

    for a lower bound, an upper one, and for both, by the logit or the probit link.
    Whatever comes back lies strictly inside. A number that rounding has put on a
    bound, or beyond it by as little, is mapped to a large finite one.

    Parameters
    ----------
    names : str or list of str
        The variables.
    low, high : float, None or tuple of these, default=None
        The bounds, for all entries or for each of the last axis.
    link : {"logit", "probit"}, default="logit"
        The map of intervals with two ends.

    See Also
    --------
    skmdn.supports.Support : The maps, in torch.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.spaces import Constrain
    >>> step = Constrain("p", low=0.0, high=1.0).fit({"p": np.array([0.5])})
    >>> step.transform({"p": np.array([0.0, 0.5, 1.0])})["p"].round(1)
    array([-708.4,    0. ,   36.7])
    >>> step.inverse_transform({"p": np.array([-1e9, 1e9])})["p"] < 1.0
    array([ True,  True])
    """

    def __init__(self, names, *, low=None, high=None, link="logit"):
        self.names = names
        self.low = low
        self.high = high
        self.link = link

    def _fit(self, variables):
        self._chosen(variables)
        self._inner_map()

    def _inner_map(self):
        """Return the bounds, after a look at the parameters."""
        if self.link not in ("logit", "probit"):
            raise ValueError(f'link must be "logit" or "probit", got {self.link!r}.')
        return Support(_hashable(self.low), _hashable(self.high))

    def _forward(self, variables):
        variables = dict(variables)
        for name in self._chosen(variables):
            variables[name] = self._settled(variables[name], name)
        return super()._forward(variables)

    def _log_det(self, variables):
        variables = dict(variables)
        for name in self._chosen(variables):
            variables[name] = self._settled(variables[name], name)
        return super()._log_det(variables)

    def _settled(self, value, name):
        """Bring numbers that only rounding has put on a bound back inside."""
        support = self._inner_map()
        eps = _eps(value)
        if isinstance(support.low, tuple) and len(support.low) != value.shape[-1]:
            raise ValueError(
                f"{len(support.low)} bounds were given for the {value.shape[-1]} "
                f"entries of {name!r}."
            )

        def settled(value):
            low, high = value.new_tensor(support.low), value.new_tensor(support.high)
            slack = [
                eps * torch.where(end.isfinite(), end, 0.0).abs() for end in (low, high)
            ]
            outside = (value < low - slack[0]) | (value > high + slack[1])
            if bool((outside | value.isnan()).any()):
                raise ValueError(
                    f"{name!r} has {int((outside | value.isnan()).sum())} value(s) "
                    f"outside of {support}."
                )
            # There and back from far out: the last numbers inside.
            far = torch.finfo(value.dtype).max
            first, last = (
                support.forward(torch.full_like(value, end)) for end in (-far, far)
            )
            return torch.minimum(torch.maximum(value, first), last)

        return by_torch(settled, value)

    def _map(self, value, name):
        return self._by_output(_to_line, value)

    def _map_back(self, value, name):
        return self._by_output(_from_line, value)

    def _log_slope(self, z, name):
        return self._by_output(_log_slope, z)

    def _by_output(self, function, value):
        support = self._inner_map()
        if not isinstance(support.low, tuple):
            return function(value, support, self.link)
        parts = [
            function(value[..., j], support.for_outputs([j]), self.link)
            for j in range(len(support.low))
        ]
        return torch.stack(parts, -1)


def _hashable(ends):
    return tuple(ends) if isinstance(ends, list | np.ndarray) else ends


def _eps(value):
    """Return the relative rounding of the numbers as they were given."""
    if isinstance(value, torch.Tensor):
        return torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
    return float(np.finfo(value.dtype).eps) if value.dtype.kind == "f" else 0.0


def _probit(support, link):
    """Tell whether an interval is mapped by the probit link, and return its ends."""
    low, high = (
        end[0] if isinstance(end, tuple) else end for end in (support.low, support.high)
    )
    return link == "probit" and math.isfinite(low) and math.isfinite(high), low, high


def _each_end(function, value, support):
    """Apply a map of a support of one output whose bounds may stand in tuples."""
    if isinstance(support.low, tuple):
        return function(value.unsqueeze(-1)).squeeze(-1)
    return function(value)


def _to_line(value, support, link):
    probit, low, high = _probit(support, link)
    if not probit:
        return _each_end(support.inverse, value, support)
    below, above = (value - low) / (high - low), (high - value) / (high - low)
    # The quantile of the smaller tail keeps its digits.
    nearer = torch.special.ndtri(torch.minimum(below, above).clamp(min=0.0))
    return torch.where(below < above, nearer, -nearer)


def _from_line(z, support, link):
    probit, low, high = _probit(support, link)
    if not probit:
        return _each_end(support.forward, z, support)
    size = high - low
    below = low + size * torch.special.ndtr(-z.abs())
    above = high - size * torch.special.ndtr(-z.abs())
    far = torch.full_like(z, torch.finfo(z.dtype).max)
    inner = [_each_end(support.forward, end, support) for end in (-far, far)]
    return torch.where(z < 0.0, below, above).clamp(inner[0], inner[1])


def _log_slope(z, support, link):
    """Return log |dz / dx|."""
    probit, low, high = _probit(support, link)
    if not probit:
        return -_each_end(support.log_jacobian, z, support)
    return 0.5 * z.square() + 0.5 * math.log(2.0 * math.pi) - math.log(high - low)


class Log(Elementwise):
    r"""Take logarithms.

    .. math:: z = \log x, \quad \log |dz / dx| = -\log x

    Parameters
    ----------
    names : str or list of str
        The variables: positive, or at least 0 if ``plus_one``.
    plus_one : bool, default=False
        Take log(1 + x), for counts.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.spaces import Log
    >>> step = Log("n", plus_one=True).fit({"n": np.array([0, 9])})
    >>> step.transform({"n": np.array([0, 9])})["n"].round(3)
    array([0.   , 2.303])
    """

    def __init__(self, names, *, plus_one=False):
        self.names = names
        self.plus_one = plus_one

    def _map(self, value, name):
        least = -1.0 if self.plus_one else 0.0
        _refuse(value <= least, name, f"not above {least:g}")
        return value.log1p() if self.plus_one else value.log()

    def _map_back(self, value, name):
        # The largest number there is, rather than infinity.
        value = value.clamp(max=math.log(torch.finfo(value.dtype).max))
        return value.expm1() if self.plus_one else value.exp()

    def _log_slope(self, z, name):
        return -z


class Sqrt(Elementwise):
    r"""Take square roots.

    .. math:: z = \sqrt x, \quad \log |dz / dx| = -\tfrac12 \log x - \log 2

    Parameters
    ----------
    names : str or list of str
        The variables, at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.spaces import Sqrt
    >>> Sqrt("n").fit({"n": np.array([4.0])}).transform({"n": np.array([4.0])})
    {'n': array([2.])}
    """

    def __init__(self, names):
        self.names = names

    def _map(self, value, name):
        _refuse(value < 0.0, name, "below 0")
        return value.sqrt()

    def _map_back(self, value, name):
        return value.square()

    def _log_slope(self, z, name):
        tiny = torch.finfo(z.dtype).tiny
        return -z.clamp(min=tiny).log() - math.log(2.0)


def _refuse(bad, name, why):
    if bool(bad.any()):
        raise ValueError(f"{name!r} has {int(bad.sum())} value(s) {why}.")
