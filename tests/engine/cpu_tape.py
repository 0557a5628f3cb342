"""A step recorded on the CPU as a CUDA graph records it: every operator with the arguments that it had, at the same
addresses, repeated without the code that called it. What a graph cannot hold is refused while it is recorded."""

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FROM_THE_HOST = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor}
TO_THE_HOST = {Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__bool__, Tensor.__float__, Tensor.__int__}
WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class OnTheHost(TorchFunctionMode):
    """Refuses calls that would make tensors on the host, send numbers from there or fetch them."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in FROM_THE_HOST | TO_THE_HOST:
            raise RuntimeError(f"{function.__name__} sends numbers between host and device")
        if function in _device_constructors() and kwargs.get("device") is None:
            raise RuntimeError(f"{function.__name__} without a device makes a tensor on the host")
        return function(*args, **kwargs)


class Operators(TorchDispatchMode):
    """Takes down what reaches the device, forward and backward."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        refuse(function, args, kwargs)
        out = function(*args, **kwargs)
        self.calls.append((function, args, kwargs, out))
        return out


def refuse(function, args, kwargs):
    name = function.__name__
    if name.startswith("index"):
        given = [leaf for leaf in tree_leaves(args[1:]) if isinstance(leaf, Tensor)]
        if any(index.dtype in (torch.bool, torch.uint8) for index in given[:1]):
            raise RuntimeError(f"{name} counts the elements of a mask, and so waits for the device")
    elif WAITING & {*function.tags}:
        raise RuntimeError(f"{name} waits for the device")
    if torch.Tag.nondeterministic_seeded in function.tags and not no_dropout(args, kwargs, name):
        raise RuntimeError(f"{name} draws random numbers that do not follow from the seed")


def no_dropout(args, kwargs, name):
    """Attention is marked as random, whatever its dropout."""
    return "attention" in name and not any(
        isinstance(value, float) and value for value in (*args, kwargs.get("dropout_p"))
    )


class CpuTape:
    """`recorder.Tape`. Recording takes the step, so that the first replay has nothing left to do."""

    def __init__(self, strict=True):
        self.strict, self.calls, self.taken = strict, [], False
        self.recordings = self.replays = 0

    def eagerly(self, body):
        return body()

    def watched(self, body):
        return body(), None

    def record(self, body):
        with OnTheHost(), Operators() as operators:
            losses = body()
        self.calls, self.taken, self.recordings = operators.calls, True, self.recordings + 1
        return losses

    @torch.no_grad()
    def replay(self):
        if not self.taken:
            for call in self.calls:
                repeat(*call)
            self.replays += 1
        self.taken = False

    def recover(self):
        pass


def repeat(function, args, kwargs, out):
    """The operator again; what it makes goes to where it went when it was recorded."""
    there = {storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    before = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    if not function._schema.is_mutable and all(storage(tensor) in there for tensor in before):
        return  # a view: what it looks at has changed
    after = [leaf for leaf in tree_leaves(function(*args, **kwargs)) if isinstance(leaf, Tensor)]
    for old, new in zip(before, after, strict=True):
        if storage(old) not in there:
            old.copy_(new)


def storage(tensor):
    return tensor.untyped_storage()._cdata
