import pytest
import torch
from torch import nn

from implicit_em.models import Abs, Encoder, SparseAutoencoder, TopK
from implicit_em.trained.loading import load
from implicit_em.training.directory import RunDirectory

ENCODER = {"_target_": "implicit_em.models.Encoder", "in_features": 64, "hidden": 5}
SAE = ENCODER | {"_target_": "implicit_em.models.SparseAutoencoder"}
TIED = ENCODER | {"_target_": "implicit_em.models.TopK", "k": 2, "tied": True}
LEAKY = {"_target_": "torch.nn.LeakyReLU", "negative_slope": 0.3}
ABS = {"_target_": "implicit_em.models.Abs"}


class Doubled(Encoder):
    def forward(self, x):
        return 2 * super().forward(x)


class Cubed(nn.Module):
    def forward(self, z):
        return z**3


def path_of(cls):
    return f"{cls.__module__}.{cls.__qualname__}"


def saved(directory, model, spec, shape=(8, 8)):
    RunDirectory(directory).write_model(model, spec, shape)
    return directory


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("model", "spec"),
    [
        (Encoder(64, 5), ENCODER),
        (Encoder(64, 5, nn.LeakyReLU(0.3)), ENCODER | {"activation": LEAKY}),
        (Encoder(64, 5, Abs()), ENCODER | {"activation": ABS}),
        (Encoder(64, 5, nn.PReLU()), ENCODER | {"activation": {"_target_": "torch.nn.PReLU"}}),
        (SparseAutoencoder(64, 5, nn.LeakyReLU(0.3)), SAE | {"activation": LEAKY}),
        (TopK(64, 5, k=2, tied=True), TIED),
    ],
)
def test_a_model_comes_back_bit_for_bit(tmp_path, model, spec, dtype):
    model = model.to(dtype)
    loaded = load(saved(tmp_path, model, spec))
    x = torch.randn(9, 64, dtype=dtype)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded(x), model(x))
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in model.state_dict().items())


def test_what_is_no_model_is_named(tmp_path):
    for missing in ("model.json", "model.safetensors"):
        saved(tmp_path, Encoder(64, 5), ENCODER)
        (tmp_path / missing).unlink()
        with pytest.raises(FileNotFoundError, match=missing):
            load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such directory; on the Hugging Face hub: hub:"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"^blocks.3: no classes; on the .* hub: hub:OWNER"):
        load("release", "blocks.3")


def test_weights_that_are_views_are_saved(tmp_path):
    model = Encoder(64, 5)
    model.linear.weight = nn.Parameter(torch.randn(64, 5).T)
    assert torch.equal(load(saved(tmp_path, model, ENCODER)).weight, model.weight)


def test_your_own_classes_are_built_where_they_are_given(tmp_path):
    model = Doubled(64, 5, Cubed())
    spec = ENCODER | {"_target_": path_of(Doubled), "activation": {"_target_": path_of(Cubed)}}
    saved(tmp_path, model, spec)
    loaded = load(tmp_path, classes=[Doubled, Cubed])
    x = torch.randn(9, 64)
    assert type(loaded) is Doubled
    assert torch.equal(loaded(x), model(x))
    with pytest.raises(ValueError, match=r"classes=\[Cubed\]"):
        load(tmp_path, classes=[Doubled])
    with pytest.raises(ValueError, match=r"classes=\[Doubled\]"):
        load(tmp_path)
    spec = ENCODER | {"activation": {"_target_": "torch.nn.Softmax", "dim": -1}}
    saved(tmp_path, Encoder(64, 5, nn.Softmax(-1)), spec)
    assert type(load(tmp_path, classes=[nn.Softmax]).activation) is nn.Softmax
    with pytest.raises(ValueError, match=r"needs torch\.nn\.Softmax: .* classes=\[Softmax\]"):
        load(tmp_path)
