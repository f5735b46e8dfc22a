"""Models of other packages than transformers; each skips where its package is missing."""

import os

import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from zoo.derivatives import CE, SECOND, SURROGATE, plain_ce
from zoo.losses import labelled, network
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
                noise = noise.to(image)
                noisy = alphas[step] ** 0.5 * image + (1 - alphas[step]) ** 0.5 * noise
                guessed = model(noisy[None], torch.tensor([step]))[0][0]
                total = total + (guessed - noise).square().mean() / 2
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
        centred = y - model.mean_module(x)
        # log_prob of gpytorch has a second derivative only by Cholesky.
        half = torch.linalg.cholesky(covariance)
        solved = torch.linalg.solve_triangular(half, centred[:, None], upper=False)
        return (solved.square().sum() / 2 + half.diagonal().log().sum()) / len(x)

    def plain(model, batch):
        """The kernel in elementary operations; gpytorch's own only in the parametrization."""
        x, y = batch
        scaled = x / model.covar_module.base_kernel.lengthscale
        gap = scaled.reshape(-1, 1) - scaled.reshape(1, -1)
        if kernel == "RBFKernel":
            shape = (-gap.square() / 2).exp()
        else:
            far = 5**0.5 * gap.abs()
            shape = (1 + far + far.square() / 3) * (-far).exp()
        covariance = model.covar_module.outputscale * shape
        covariance = covariance + model.likelihood.noise * torch.eye(len(x), dtype=x.dtype)
        centred = y - model.mean_module.constant
        return (
            centred @ torch.linalg.solve(covariance, centred) + covariance.logdet()
        ) / 2, len(x)

    batches = [(x.double(), y.double())]
    return Case(Exact().double(), loss, batches, plain)


@refused("gaussian process", "curvature", SECOND, needs=("gpytorch",))
def gaussian_process_with_an_rbf_kernel():
    return gaussian_process("RBFKernel")


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
    return Case(Flow(adjoint=False), CE, labelled(4, 3, inputs=4), plain_ce)


@refused(
    "differential equations", "curvature", "(?s)(second|adjoint).*", needs=("torchdiffeq",)
)
def neural_differential_equation_by_its_adjoint():
    return Case(Flow(adjoint=True), CE, labelled(4, 3, inputs=4), plain_ce)


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

    batches = [TensorDict({"x": x, "y": y}, batch_size=[len(y)]) for x, y in labelled(5, 3)]
    return Case(model, loss, batches, plain)


# Keras


@refused("keras", "construction", "(?s)Keras.*Variable.*torch.nn", needs=("keras",))
def keras_on_torch():
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )
    batches = [(x.cpu(), y) for x, y in labelled(5, 3)]
    return Case(model, CE, batches, plain_ce)


# scikit-learn's way


@refused("skorch", "construction", "(?s)module_", needs=("skorch",))
def net_of_skorch():
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(network(), criterion=nn.CrossEntropyLoss).initialize()
    return Case(net, CE, labelled(5, 3), plain_ce)


@right("skorch", needs=("skorch",))
def module_of_skorch():
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(network(), criterion=nn.CrossEntropyLoss).initialize()
    return Case(net.module_, CE, labelled(5, 3), plain_ce)


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


@refused("spiking", "gradient", SURROGATE, needs=("snntorch",))
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

    return Case(Spiking(), CE, labelled(7, 4), plain_ce)


# Reinforcement learning


def policy_and_data():
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.modules import QValueActor

    actor = QValueActor(network(classes=2), in_keys=["observation"], action_space="one-hot")
    n = 6
    data = TensorDict(
        {
            "observation": torch.randn(n, 6),
            "action": F.one_hot(torch.arange(n) % 2, 2),
            "next": {
                "observation": torch.randn(n, 6),
                "reward": torch.randn(n, 1),
                "done": torch.zeros(n, 1, dtype=torch.bool),
                "terminated": torch.zeros(n, 1, dtype=torch.bool),
            },
        },
        batch_size=[n],
    )
    return actor, data, TensorDictModule


@refused(
    "torchrl",
    "construction",
    "(?s)TorchRL.*(actor|parameters of their own)",
    needs=("torchrl", "tensordict"),
)
def loss_module_of_torchrl():
    from torchrl.objectives import DQNLoss

    actor, data, _ = policy_and_data()
    module = DQNLoss(actor, action_space="one-hot", delay_value=True)
    module.make_value_estimator(gamma=0.9)

    def loss(model, batch):
        return model(batch)["loss"]

    return Case(module, loss, [data], mean_over(len, loss))


# Physics


@right("deepxde", needs=("deepxde",), step=1e-3)
def network_of_deepxde():
    """The residual of u'' = -sin(x) on the network of a DeepXDE model."""
    import deepxde

    model = deepxde.nn.FNN([1, 6, 6, 1], "tanh", "Glorot normal")

    def loss(model, batch):
        with torch.enable_grad():
            x = batch[0].detach().clone().requires_grad_()
            u = model(x)
            first = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
            second = torch.autograd.grad(first.sum(), x, create_graph=True)[0]
            return (second + torch.sin(x)).square()[:, 0]

    def plain(model, batch):
        return loss(model, batch).sum(), len(batch[0])

    return Case(model, loss, [(torch.rand(n, 1),) for n in (5, 4)], plain)
