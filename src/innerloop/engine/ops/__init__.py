"""Operators closed under differentiation: the derivative of each is made of operators of the same family.

torch's own convolutions and pooling leave the graph of a meta-update with many further operators in second order.
These do not, and so a few rules in `engine.c` cover derivatives of every order. In the order a trace meets them:

- `substitute`: puts the operators below in place of torch's own, while a function is traced.
- `convolution`: the convolution, its transpose (gradient by the input) and its gradient by the weights.
- `pooling`: max-pooling as argmax, gather and scatter.
- `separable`: average pooling and interpolation as products with constant matrices.
- `registration`: what both need to register derivatives and rules for `vmap` with torch.

Nothing here imports from the rest of the engine.
"""

from .substitute import closed_operators

__all__ = ["closed_operators"]
