"""A transform by functions of the user's, whose Jacobian is found by autograd."""

import numpy as np
import torch

from skmdn.bridge import to_tensor

from .transform import Transform, by_torch, listed

__all__ = ["Custom"]


class Custom(Transform):
    r"""Map a variable by your own function and its inverse.

    .. math:: z = f(x), \quad \log \Bigl|\det \frac{\partial z}{\partial x}\Bigr|
        \text{ by automatic differentiation}

    Parameters
    ----------
    names : str or list of str
        The variables, mapped one by one.
    forward, inverse : callable
        Functions of torch that map rows ``(n_samples, ...)`` to rows of the same
        shape, each row by itself.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skmdn.spaces import Custom
    >>> step = Custom("x", torch.sinh, torch.asinh).fit({"x": np.array([1.0])})
    >>> step.log_det_jacobian({"x": np.array([1.0])}).round(6) == np.round(
    ...     np.log(np.cosh(1.0)), 6)
    array([ True])
    """

    def __init__(self, names, forward, inverse):
        self.names = names
        self.forward = forward
        self.inverse = inverse

    def _fit(self, variables):
        for name in self._pick(variables, listed(self.names)):
            value = variables[name]
            value = value.detach() if isinstance(value, torch.Tensor) else value
            value = to_tensor(value) if isinstance(value, np.ndarray) else value
            there = self.forward(value)
            if there.shape != value.shape:
                raise ValueError(
                    f"forward changed the shape of {name!r} from "
                    f"{tuple(value.shape)} to {tuple(there.shape)}."
                )
            back = self.inverse(there)
            if not torch.allclose(back, value, rtol=1e-6, atol=1e-8):
                raise ValueError(
                    f"inverse does not undo forward for {name!r}: it misses by up to "
                    f"{float((back - value).abs().max()):.3g}."
                )

    def _forward(self, variables):
        return self._each(variables, self.forward)

    def _inverse(self, variables):
        return self._each(variables, self.inverse)

    def _each(self, variables, function):
        mapped = dict(variables)
        for name in self._pick(variables, listed(self.names)):
            mapped[name] = by_torch(function, mapped[name])
        return mapped

    def _log_det(self, variables):
        return self._summed(variables, self.forward)

    def _inverse_log_det(self, variables):
        return self._summed(variables, self.inverse)

    def _summed(self, variables, function):
        total = 0.0
        for name in self._pick(variables, listed(self.names)):
            total = total + by_torch(
                lambda v: self._log_det_of_rows(v, function), variables[name]
            )
        return total

    def _log_det_of_rows(self, value, function):
        keep = value.requires_grad
        flat = value.reshape(len(value), -1)
        with torch.enable_grad():
            flat = flat if keep else flat.detach().requires_grad_()
            mapped = function(flat.reshape(value.shape)).reshape(flat.shape)
            # Rows do not meet, so a sum over them has the gradients of all.
            rows = [
                torch.autograd.grad(column.sum(), flat, create_graph=True)[0]
                for column in mapped.unbind(1)
            ]
            log_det = torch.linalg.slogdet(torch.stack(rows, 1)).logabsdet
        return log_det if keep else log_det.detach()
