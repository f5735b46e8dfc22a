"""Models of other packages than transformers; each skips where its package is missing."""

import os

import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from zoo.derivatives import BY_DIFFERENCES, CE, SECOND, SURROGATE, plain_ce
from zoo.losses import labeled, network
from zoo.member import Case, mean_over, refused, right

# Their default choice is what is installed first; both must be said before the import.
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("DDE_BACKEND", "pytorch")


# Diffusion


@right("diffusers", needs=("diffusers",))
def unet_of_diffusers():
    from diffusers import DDPMScheduler, UNet2DModel

    model = UNet2DModel(
        sample_size=4,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(4, 4),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=2,
        attention_head_dim=2,
    )
    scheduler = DDPMScheduler(num_train_timesteps=50)
    loss = la.diffusion(model, scheduler, draws=2)
    alphas = scheduler.alphas_cumprod

    def plain(model, batch):
        total = 0.0
        for image in batch:
            noises, steps = loss._drawn(image)
            for noise, step in zip(noises, steps, strict=True):
                drawn = noise.to(image)
                noisy = alphas[step] ** 0.5 * image + (1 - alphas[step]) ** 0.5 * drawn
                guessed = model(noisy[None], torch.tensor([step]))[0][0]
                total = total + (guessed - drawn).square().mean() / 2
        return total, len(batch)

    return Case(model, loss, [torch.randn(n, 1, 4, 4) for n in (2, 1)], plain)


# Graphs


def graphs(count: int, features: int = 4):
    from torch_geometric.data import Batch, Data

    rows = []
    for index in range(count):
        nodes = 3 + index
        there = torch.arange(nodes)
        edges = torch.stack([there, (there + 1) % nodes])
        edges = torch.cat([edges, edges.flip(0)], 1)
        rows.append(Data(x=torch.randn(nodes, features), edge_index=edges, y=index % 3))
    return Batch.from_data_list(rows)


class GraphNetwork(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.first, self.head = layer(4, 6), nn.Linear(6, 3)

    def forward(self, data):
        from torch_geometric.nn import global_mean_pool

        hidden = torch.tanh(self.first(data.x, data.edge_index))
        return self.head(global_mean_pool(hidden, data.batch))


def of_graphs(layer) -> Case:
    def loss(model, data):
        return F.cross_entropy(model(data), data.y, reduction="none")

    def plain(model, data):
        return F.cross_entropy(model(data), data.y, reduction="sum"), data.num_graphs

    return Case(GraphNetwork(layer), loss, [graphs(4), graphs(2)], plain)


@right("graphs", needs=("torch_geometric",))
def convolution_on_graphs():
    from torch_geometric.nn import GCNConv

    return of_graphs(GCNConv)


@right("graphs", needs=("torch_geometric",))
def attention_on_graphs():
    from torch_geometric.nn import GATConv

    return of_graphs(GATConv)


@right("graphs", needs=("torch_geometric",))
def mean_over_graphs():
    """One number a batch of graphs: what it weighs is the number of graphs."""
    from torch_geometric.nn import GCNConv

    def loss(model, data):
        return F.cross_entropy(model(data), data.y)

    plain = mean_over(lambda data: data.num_graphs, loss)
    return Case(GraphNetwork(GCNConv), loss, [graphs(4), graphs(2)], plain)


# Gaussian processes


def gaussian_process(kernel: str) -> Case:
    import gpytorch

    x = torch.linspace(0, 1, 9)
    y = torch.sin(6 * x) + 0.1 * torch.randn(9)
    likelihood = gpytorch.likelihoods.GaussianLikelihood()

    class Exact(gpytorch.models.ExactGP):
        def __init__(self):
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            base = getattr(gpytorch.kernels, kernel)()
            self.covar_module = gpytorch.kernels.ScaleKernel(base)

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(
                self.mean_module(x), self.covar_module(x)
            )

    def loss(model, batch):
        x, y = batch
        covariance = model.covar_module(x).to_dense()
        covariance = covariance + model.likelihood.noise * torch.eye(len(x), dtype=x.dtype)
        centered = y - model.mean_module(x)
        # log_prob of gpytorch has a second derivative only by Cholesky.
        half = torch.linalg.cholesky(covariance)
        solved = torch.linalg.solve_triangular(half, centered[:, None], upper=False)
        return (solved.square().sum() / 2 + half.diagonal().log().sum()) / len(x)

    def plain(model, batch):
        """The kernel in elementary operations; gpytorch's own only in the parametrization."""
        x, y = batch
        scaled = x / model.covar_module.base_kernel.lengthscale
        gap = scaled.reshape(-1, 1) - scaled.reshape(1, -1)
        if kernel == "RBFKernel":
            shape = (-gap.square() / 2).exp()
        elif kernel == "RQKernel":
            alpha = model.covar_module.base_kernel.alpha
            shape = (1 + gap.square() / (2 * alpha)) ** -alpha
        else:
            far = 5**0.5 * gap.abs()
            shape = (1 + far + far.square() / 3) * (-far).exp()
        covariance = model.covar_module.outputscale * shape
        covariance = covariance + model.likelihood.noise * torch.eye(len(x), dtype=x.dtype)
        centered = y - model.mean_module.constant
        return (
            centered @ torch.linalg.solve(covariance, centered) + covariance.logdet()
        ) / 2, len(x)

    batches = [(x.double(), y.double())]
    return Case(Exact().double(), loss, batches, plain)


@refused("gaussian process", "curvature", SECOND, needs=("gpytorch",))
def gaussian_process_with_an_rbf_kernel():
    return gaussian_process("RBFKernel")


@refused("gaussian process", "curvature", SECOND, needs=("gpytorch",))
def gaussian_process_with_a_matern_kernel():
    return gaussian_process("MaternKernel")


@right("gaussian process", needs=("gpytorch",))
def gaussian_process_with_a_rational_kernel():
    return gaussian_process("RQKernel")


@right("gaussian process", needs=("gpytorch",), tolerances=(1e-9, 1e-8, 1e-3))
def gaussian_process_by_differences():
    case = gaussian_process("RBFKernel")
    return Case(case.model, case.loss, case.batches, case.plain, BY_DIFFERENCES)


# Differential equations


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))

    def forward(self, time, state):
        return self.net(state)


class Flow(nn.Module):
    def __init__(self, *, adjoint: bool):
        super().__init__()
        self.field, self.head, self.adjoint = Field(), nn.Linear(4, 3), adjoint

    def forward(self, x):
        import torchdiffeq

        solve = torchdiffeq.odeint_adjoint if self.adjoint else torchdiffeq.odeint
        times = torch.linspace(0, 1, 5, dtype=x.dtype)
        return self.head(solve(self.field, x, times, method="rk4")[-1])


@right("differential equations", needs=("torchdiffeq",))
def neural_differential_equation():
    return Case(Flow(adjoint=False), CE, labeled(4, 3, inputs=4), plain_ce)


@refused(
    "differential equations", "curvature", "(?s)(second|adjoint).*", needs=("torchdiffeq",)
)
def neural_differential_equation_by_its_adjoint():
    return Case(Flow(adjoint=True), CE, labeled(4, 3, inputs=4), plain_ce)


@right("differential equations", needs=("torchdiffeq",))
def adjoint_by_differences():
    batches = labeled(4, 3, inputs=4)
    return Case(Flow(adjoint=True), CE, batches, plain_ce, BY_DIFFERENCES)


# Densities


@right("flows", needs=("zuko",))
def neural_spline_flow():
    import zuko

    model = zuko.flows.NSF(2, transforms=2, hidden_features=(6,), bins=4)

    def loss(model, batch):
        return -model().log_prob(batch[0])

    def plain(model, batch):
        return -sum(model().log_prob(row) for row in batch[0]), len(batch[0])

    return Case(model, loss, [(torch.randn(n, 2),) for n in (5, 3)], plain)


@right("flows", needs=("zuko",))
def conditional_autoregressive_flow():
    import zuko

    model = zuko.flows.MAF(2, 3, transforms=2, hidden_features=(6,))

    def loss(model, batch):
        return -model(batch[1]).log_prob(batch[0])

    def plain(model, batch):
        return loss(model, batch).sum(), len(batch[0])

    batches = [(torch.randn(n, 2), torch.randn(n, 3)) for n in (5, 3)]
    return Case(model, loss, batches, plain)


# TensorDicts


@right("tensordict", needs=("tensordict",))
def modules_that_write_into_a_tensordict():
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule, TensorDictSequential

    model = TensorDictSequential(
        TensorDictModule(nn.Linear(6, 8), in_keys=["x"], out_keys=["hidden"]),
        TensorDictModule(nn.Sequential(nn.Tanh(), nn.Linear(8, 3)), ["hidden"], ["logits"]),
    )

    def loss(model, batch):
        return F.cross_entropy(model(batch)["logits"], batch["y"], reduction="none")

    def plain(model, batch):
        hidden = torch.tanh(model[0].module(batch["x"].to(torch.float64)))
        logits = model[1].module[1](hidden)
        return F.cross_entropy(logits, batch["y"], reduction="sum"), len(batch["y"])

    batches = [TensorDict({"x": x, "y": y}, batch_size=[len(y)]) for x, y in labeled(5, 3)]
    return Case(model, loss, batches, plain)


# Keras


@right("keras", needs=("keras",), double=False)
def keras_on_torch():
    import keras

    # Names of layers count up through a session.
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )
    batches = [(x.cpu(), y) for x, y in labeled(5, 3)]
    return Case(model, CE, batches, plain_ce)


# scikit-learn's way


@refused("skorch", "construction", "(?s)module_", needs=("skorch",))
def net_of_skorch():
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(network(), criterion=nn.CrossEntropyLoss).initialize()
    return Case(net, CE, labeled(5, 3), plain_ce)


@right("skorch", needs=("skorch",))
def module_of_skorch():
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(network(), criterion=nn.CrossEntropyLoss).initialize()
    return Case(net.module_, CE, labeled(5, 3), plain_ce)


# Sentences


@right("sentence-transformers", needs=("sentence_transformers",), step=1e-3)
def sentence_embeddings():
    """Batches of (features, labels), as the losses of sentence-transformers take them."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses as criteria

    class Encoder(nn.Module):
        """In place of a transformer, whose tokenizer would have to be downloaded."""

        def __init__(self):
            super().__init__()
            self.embed, self.mix = nn.Embedding(11, 6), nn.Linear(6, 6)

        def forward(self, features, **_):
            hidden = self.embed(features["input_ids"])
            kept = features["attention_mask"][..., None]
            mean = (hidden * kept).sum(1) / kept.sum(1)
            return {**features, "sentence_embedding": torch.tanh(self.mix(mean))}

    model = SentenceTransformer(modules=[Encoder()], device="cpu")
    criterion = criteria.CosineSimilarityLoss(model)

    def loss(model, batch):
        return criterion(*batch)

    def plain(model, batch):
        one, two = (model(f)["sentence_embedding"] for f in batch[0])
        return (F.cosine_similarity(one, two) - batch[1]).square().sum(), len(batch[1])

    batches = []
    for n in (4, 2):
        features = [
            {"input_ids": torch.randint(0, 11, (n, 5)), "attention_mask": torch.ones(n, 5)}
            for _ in range(2)
        ]
        batches.append((features, torch.rand(n)))
    return Case(model, loss, batches, plain)


# Spikes


@refused("spiking", "gradient", SURROGATE, needs=("snntorch",), double=False)
def leaky_neurons_of_snntorch():
    import snntorch

    class Spiking(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)
            self.leaky = snntorch.Leaky(beta=0.8)

        def forward(self, x):
            membrane, out = self.leaky.init_leaky(), 0.0
            for _ in range(4):
                spikes, membrane = self.leaky(self.a(x), membrane)
                out = out + self.b(spikes)
            return out

    return Case(Spiking(), CE, labeled(7, 4), plain_ce)


# Reinforcement learning


@refused(
    "torchrl",
    "construction",
    "(?s)TorchRL.*functional=False",
    needs=("torchrl", "tensordict"),
)
def loss_module_of_torchrl():
    from tensordict import TensorDict
    from torchrl.modules import QValueActor
    from torchrl.objectives import DQNLoss

    actor = QValueActor(network(classes=2), in_keys=["observation"], action_space="one-hot")
    n = 6
    after = {
        "observation": torch.randn(n, 6),
        "reward": torch.randn(n, 1),
        "done": torch.zeros(n, 1, dtype=torch.bool),
        "terminated": torch.zeros(n, 1, dtype=torch.bool),
    }
    data = TensorDict(
        {
            "observation": torch.randn(n, 6),
            "action": F.one_hot(torch.arange(n) % 2, 2),
            "next": after,
        },
        batch_size=[n],
    )
    module = DQNLoss(actor, action_space="one-hot", delay_value=True)
    module.make_value_estimator(gamma=0.9)

    def loss(model, batch):
        return model(batch)["loss"]

    return Case(module, loss, [data], mean_over(len, loss))


@right("torchrl", needs=("torchrl", "tensordict"))
def proximal_policy_of_torchrl():
    """A loss module that is not functionalized reads the parameters of its actor and critic."""
    from tensordict import TensorDict
    from tensordict.nn import ProbabilisticTensorDictModule, TensorDictModule
    from torch.distributions import Categorical
    from torchrl.modules import ProbabilisticActor, ValueOperator
    from torchrl.objectives import ClipPPOLoss

    head = TensorDictModule(network(classes=2), ["observation"], ["logits"])
    actor = ProbabilisticActor(
        head, in_keys=["logits"], distribution_class=Categorical, return_log_prob=True
    )
    assert isinstance(actor[-1], ProbabilisticTensorDictModule)
    critic = ValueOperator(network(classes=1), in_keys=["observation"])
    module = ClipPPOLoss(actor, critic, functional=False)

    def loss(model, batch):
        found = model(batch)
        return found["loss_objective"] + found["loss_critic"] + found["loss_entropy"]

    def plain(model, batch):
        state = batch["observation"].to(next(model.parameters()).dtype)
        logs = model.actor_network[0].module(state).log_softmax(1)
        new = logs.gather(1, batch["action"][:, None])[:, 0]
        ratio = (new - batch["action_log_prob"]).exp()[:, None]
        gain = batch["advantage"]
        kept = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
        entropy = -(logs.exp() * logs).sum(1).mean()
        value = model.critic_network.module(state)
        error = F.smooth_l1_loss(value, batch["value_target"].to(value))
        return (error - kept - 0.01 * entropy) * len(batch), len(batch)

    batches = [
        TensorDict(
            {
                "observation": torch.randn(n, 6),
                "action": torch.arange(n) % 2,
                "action_log_prob": torch.full((n,), -0.7),
                "advantage": torch.randn(n, 1),
                "value_target": torch.randn(n, 1),
            },
            batch_size=[n],
        )
        for n in (6, 4)
    ]
    return Case(module, loss, batches, plain)


# Physics


@right("deepxde", needs=("deepxde",), step=1e-3)
def equation_of_deepxde():
    """u'' + u = 0 with u = 0 at the ends; the loss is that of the DeepXDE model."""
    import deepxde as dde

    place = dde.geometry.Interval(-1, 1)

    def equation(x, u):
        return dde.grad.hessian(u, x) + u

    ends = dde.icbc.DirichletBC(place, lambda x: 0 * x, lambda _, there: there)
    data = dde.data.PDE(place, equation, ends, 6, 2, train_distribution="uniform")
    net = dde.nn.FNN([1, 6, 6, 1], "tanh", "Glorot normal")
    solver = dde.Model(data, net)
    solver.compile("adam", lr=1e-3, verbose=0)

    def loss(net, batch):
        return solver.outputs_losses_train(batch[0], None, None)[1].sum()

    def plain(net, batch):
        x = batch[0].detach().clone().requires_grad_()
        hidden = x
        for linear in net.linears[:-1]:
            hidden = torch.tanh(linear(hidden))
        u = net.linears[-1](hidden)
        first = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), x, create_graph=True)[0]
        inside = (second + u).square()[2:].mean()
        return (inside + u[:2].square().mean()) * len(x), len(x)

    return Case(net, loss, [(torch.as_tensor(data.train_x),)], plain)
