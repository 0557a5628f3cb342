"""The encoders of a whole DILEMMA step are graphs without a break: the student under its plan, and its teacher."""

import torch

from vitkiln.engine import methods
from vitkiln.engine.settings import Encoder, dilemma
from vitkiln.engine.vocabulary import Batch

ENCODER = Encoder(image_size=32, patch_size=8, width=32, depth=2, heads=2, layer_scale=0.5, drop_path=0.3)
SETTINGS = dilemma.Settings(hidden=32, output=16, keep=0.5)


def test_loss_and_gradients_of_a_step_with_compiled_encoders_are_those_without():
    torch.manual_seed(0)
    method = methods.find("dilemma")(SETTINGS, ENCODER)
    torch.nn.init.normal_(method.backbone().cls_token, std=0.5)  # at 1e-6 its norm would magnify every rounding
    plain = step(method)
    student, teacher, graphs = method.backbone(), method.base.teacher[0], []
    student.forward = whole(student.forward, graphs)
    teacher.class_token = whole(teacher.class_token, graphs)
    compiled = step(method)
    assert len(graphs) == 2
    assert len(plain) > 30
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-6)


def whole(function, graphs):
    """The function in one graph, its gradients in another."""

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    return torch.compile(function, fullgraph=True, backend=backend)


def step(method):
    """The loss, and the gradient of every parameter that learns."""
    method.zero_grad(set_to_none=True)
    views = torch.randint(0, 256, (2, 6, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    total = method(Batch(tuple(views), torch.arange(6), torch.tensor([0, 5]))).total
    total.backward()
    learning = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    return {"loss": total.detach(), **learning}
