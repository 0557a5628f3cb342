"""Errors that name the argument, what it was and what it must be; the values of a tensor are never read."""

from torch import Tensor


def refusal(name: str, was: object, must: str) -> ValueError:
    """
    >>> refusal("keep", -1, "from 1 to 196")
    ValueError('keep: -1; must be from 1 to 196')
    """
    return ValueError(f"{name}: {described(was) if isinstance(was, Tensor) else repr(was)}; must be {must}")


def described(tensor: Tensor) -> str:
    shape = ", ".join(map(str, tensor.shape))
    return f"{str(tensor.dtype).removeprefix('torch.')} [{shape}] on {tensor.device}"


def floating(name: str, tensor: Tensor, dimensions: str) -> None:
    """`dimensions` is what the shape means, as in "[B, P, D]": it gives the number of axes."""
    axes = dimensions.count(",") + 1
    if tensor.dim() != axes or not tensor.dtype.is_floating_point:
        raise refusal(name, tensor, f"a floating point tensor {dimensions}")


def beside(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        raise refusal(name, tensor, f"on {other.device}, as {other_name} is")
