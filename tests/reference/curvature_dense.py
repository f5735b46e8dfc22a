"""Dense curvature matrices by plain autograd: slow, obvious, for tiny networks only."""

import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossatlas.objective.batches import batch_size


def flat(params):
    return torch.cat([value.reshape(-1) for value in params.values()])


def unflat(vector, params):
    parts = vector.split([value.numel() for value in params.values()])
    return {
        name: part.reshape(value.shape)
        for (name, value), part in zip(params.items(), parts, strict=True)
    }


def hessian(objective):
    """Second derivatives of the mean loss, a row at a time."""

    def mean_loss(vector):
        weights = unflat(vector, objective.params)
        total, count = 0.0, 0
        for batch in objective.iter_batches():
            inputs, targets = batch
            loss = objective.loss.criterion(_output(objective, weights, inputs), targets)
            total, count = total + batch_size(batch) * loss, count + batch_size(batch)
        return total / count

    point = flat(objective.params).clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        gradient = torch.autograd.grad(mean_loss(point), point, create_graph=True)[0]
        rows = [torch.autograd.grad(g, point, retain_graph=True)[0] for g in gradient]
    return torch.stack(rows)


def gauss_newton(objective):
    """J^T H J, with the Jacobian of all outputs and the Hessian of the loss in them."""
    total, count = 0.0, 0
    point = flat(objective.params)
    for batch in objective.iter_batches():
        inputs, targets = batch

        def outputs(vector, inputs=inputs):
            return _output(objective, unflat(vector, objective.params), inputs)

        z = outputs(point)
        with sdpa_kernel(SDPBackend.MATH):
            jacobian = torch.autograd.functional.jacobian(outputs, point).reshape(z.numel(), -1)
        inner = torch.autograd.functional.hessian(
            lambda u, targets=targets: objective.loss.criterion(u, targets), z
        ).reshape(z.numel(), z.numel())
        total = total + batch_size(batch) * jacobian.T @ inner @ jacobian
        count += batch_size(batch)
    return total / count


def hessian_of_model(model, loss, batches):
    """The same for any loss(model, batch), in the parameters of the model as they are."""
    leaves = [value for value in model.parameters() if value.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        total, count = 0.0, 0
        for batch in batches:
            size = batch_size(batch)
            total, count = total + size * loss(model, batch).mean(), count + size
        slopes = torch.autograd.grad(total / count, leaves, create_graph=True)
        flat_slopes = torch.cat([slope.reshape(-1) for slope in slopes])
        rows = [
            torch.autograd.grad(slope, leaves, retain_graph=True, materialize_grads=True)
            for slope in flat_slopes
        ]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


def fisher(objective):
    """The mean of g g^T over examples and classes, each class as likely as the model says."""
    total, count = 0.0, 0
    for inputs, _ in objective.iter_batches():
        for x in inputs.split(1):
            point = flat(objective.params).clone().requires_grad_()
            chances = _output(objective, unflat(point, objective.params), x).log_softmax(1)
            for chance in chances[0]:
                score = torch.autograd.grad(chance, point, retain_graph=True)[0]
                total = total + chance.exp().detach() * torch.outer(score, score)
            count += 1
    return total / count


def empirical_fisher(objective):
    """The mean of g g^T over examples."""
    rows = []
    for inputs, targets in objective.iter_batches():
        for index in range(len(inputs)):

            def loss(vector, x=inputs[index : index + 1], y=targets[index : index + 1]):
                weights = unflat(vector, objective.params)
                return objective.loss.criterion(_output(objective, weights, x), y)

            point = flat(objective.params).clone().requires_grad_()
            rows.append(torch.autograd.grad(loss(point), point)[0])
    gradients = torch.stack(rows)
    return gradients.T @ gradients / len(gradients)


def matrix_of(product):
    """A product applied to every unit vector."""
    return torch.stack(
        [product.flat(row) for row in torch.eye(product.size, dtype=product.dtype)]
    )


def _output(objective, weights, inputs):
    with objective.session():
        return functional_call(objective.model, weights, (inputs,))
