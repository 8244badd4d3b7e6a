import dataclasses
import hashlib
import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from medidiff.diffusion.condition import Condition
from medidiff.errors import PriorError
from medidiff.prior import Card, Prior, build_denoiser
from medidiff.prior import weights as weights_module

CARD = Card(
    name="tiny",
    summary="A network of no use, for tests.",
    modality="MR",
    contrasts=("T1w",),
    channels=(4, 8),
    blocks=(1, 1, 1),
    sigma_data=0.35,
    sigma_detail=0.12,
    noise=(0.004, 0.25),
    images=16,
    licence="Apache-2.0",
    sources=("scan.nii.gz (CC0)",),
    data_fingerprint="0" * 64,
)


@pytest.fixture(scope="module")
def prior():
    """A network whose every weight is random, so that none is lost unnoticed."""
    generator = torch.Generator().manual_seed(3)
    denoiser = build_denoiser(CARD).requires_grad_(False)
    for weights in denoiser.parameters():
        weights.copy_(0.1 * torch.randn(weights.shape, generator=generator))
    return Prior(denoiser, CARD)


@pytest.fixture
def card_path(prior, tmp_path):
    return prior.save(tmp_path)


def rewrite(card_path, change, *, honest=True):
    """Change the weights beside a card; the card's hash follows when `honest`."""
    path = card_path.with_suffix(".safetensors")
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    if honest:
        sign(card_path)


def sign(card_path):
    """Write the hash of the weights, whatever they are, into the card."""
    digest = hashlib.sha256(card_path.with_suffix(".safetensors").read_bytes()).hexdigest()
    edit(card_path, weights_sha256=digest)


def edit(card_path, **entries):
    values = json.loads(card_path.read_text(encoding="utf-8"))
    card_path.write_text(json.dumps(values | entries), encoding="utf-8")


# What is saved is loaded


def test_a_prior_survives_in_half_precision(prior, card_path):
    loaded = Prior.load(card_path)
    for name, weights in prior.denoiser.backbone.state_dict().items():
        found = loaded.denoiser.backbone.state_dict()[name]
        assert found.dtype == torch.float32
        assert torch.equal(found, weights.half().float())
    assert dataclasses.replace(loaded.card, weights_sha256="") == CARD


def test_a_loaded_prior_answers_alike(prior, card_path, generator):
    x = torch.randn((1, 1, 8, 12, 8), generator=generator)
    condition = Condition(x + 0.1, torch.ones_like(x), torch.full_like(x, 0.05))
    answers = [each.denoiser(x, torch.tensor(0.3), condition) for each in (prior, Prior.load(card_path))]
    assert float((answers[0] - answers[1]).abs().max()) < 1e-3
    assert float((answers[0] - x).abs().max()) > 1e-2  # the network has a say


def test_a_loaded_prior_does_not_train(card_path):
    loaded = Prior.load(card_path).denoiser
    assert not loaded.training
    assert not any(weights.requires_grad for weights in loaded.parameters())


def test_the_same_weights_always_have_the_same_hash(prior, tmp_path):
    hashes = {Prior.load(prior.save(tmp_path / str(number))).card.weights_sha256 for number in range(5)}
    assert len(hashes) == 1


def test_weights_are_found_from_either_file(card_path):
    assert Prior.load(card_path.with_suffix(".safetensors")).card == Prior.load(str(card_path)).card


def test_saving_leaves_two_files(prior, tmp_path):
    prior.save(tmp_path)
    prior.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.json", "tiny.safetensors"]


def test_loading_leaves_the_global_generator_alone(card_path):
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    Prior.load(card_path)
    assert torch.equal(torch.rand(3), wanted)


# What is broken is refused


def wrong_shape(weights):
    name = next(name for name in sorted(weights) if weights[name].ndim > 1)
    weights[name] = weights[name][:-1].contiguous()


def poisoned(weights):
    next(iter(weights.values())).view(-1)[0] = float("nan")


CHANGES = {
    "a tensor is missing": lambda weights: weights.pop(sorted(weights)[0]),
    "a tensor is too many": lambda weights: weights.update(extra=torch.zeros(1)),
    "a tensor has another shape": wrong_shape,
    "a number is not finite": poisoned,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_weights_unlike_the_card_are_refused(change, card_path):
    rewrite(card_path, change)
    with pytest.raises(PriorError, match="E-WEIGHTS") as caught:
        Prior.load(card_path)
    assert "SHA-256" not in str(caught.value)


def test_rewriting_alone_is_not_refused(card_path):
    """The negative: weights that were opened, closed and signed again are as good as before."""
    rewrite(card_path, lambda weights: None)
    Prior.load(card_path)


def test_weights_that_were_changed_behind_the_cards_back_are_refused(card_path):
    rewrite(card_path, lambda weights: next(iter(weights.values())).add_(0.01), honest=False)
    with pytest.raises(PriorError, match="SHA-256"):
        Prior.load(card_path)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_cut_weights_are_refused_even_when_the_card_agrees(kept, card_path):
    path = card_path.with_suffix(".safetensors")
    path.write_bytes(path.read_bytes()[:kept])
    sign(card_path)
    with pytest.raises(PriorError, match="not a safetensors file"):
        Prior.load(card_path)


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (exec, (f"open({self.path!r}, 'w').close()",))


@pytest.mark.parametrize("write", [lambda bomb, file: pickle.dump(bomb, file), torch.save], ids=["pickle", "torch"])
def test_a_pickle_with_another_name_is_refused_and_not_run(write, card_path, tmp_path):
    with card_path.with_suffix(".safetensors").open("wb") as file:
        write(Bomb(tmp_path / "exploded"), file)
    sign(card_path)
    with pytest.raises(PriorError, match="not a safetensors file"):
        Prior.load(card_path)
    assert not (tmp_path / "exploded").exists()


def test_the_bomb_is_a_bomb(tmp_path):
    """The negative: whoever unpickles it runs its code."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


def test_weights_beyond_all_measure_are_not_even_read(card_path, monkeypatch):
    monkeypatch.setattr(weights_module, "LARGEST_BYTES", 1000)
    with pytest.raises(PriorError, match="<= 1000"):
        Prior.load(card_path)


def test_missing_weights_are_named(card_path):
    card_path.with_suffix(".safetensors").unlink()
    with pytest.raises(PriorError, match=r"tiny\.safetensors.*missing"):
        Prior.load(card_path)


@pytest.mark.parametrize("source", ["no-such-prior", "../../etc/passwd"])
def test_an_unknown_prior_is_refused(source):
    with pytest.raises(PriorError, match="E-PRIOR"):
        Prior.load(source)


# The card


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
cards = st.builds(
    Card,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
    **dict.fromkeys(("summary", "modality", "licence", "data_fingerprint", "weights_sha256"), st.text()),
    **dict.fromkeys(("contrasts", "sources", "limits"), st.lists(st.text(), max_size=3).map(tuple)),
    **dict.fromkeys(("sigma_data", "sigma_detail"), st.floats(1e-6, 1e6)),
    channels=st.tuples(st.integers(1, 1024), st.integers(1, 1024)),
    blocks=st.tuples(*[st.integers(0, 64)] * 3),
    noise=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    images=st.integers(0, 10**9),
    intended_use=st.text(),
    recipe=st.dictionaries(st.text(), json_values, max_size=3),
    metrics=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)


@settings(max_examples=20, deadline=None)
@given(card=cards)
def test_a_card_survives_json(card):
    assert Card.from_json(card.to_json()) == card
    assert Card.from_json(card.to_json()).to_json() == card.to_json()


BROKEN = [
    ({"colour": "red"}, "colour"),
    ({"images": "many"}, "images"),
    ({"channels": [0, 8]}, "channels.0"),
    ({"channels": [4, 10**6]}, "channels.1"),
    ({"blocks": [1, 1]}, "blocks.2"),
    ({"sigma_data": 0}, "sigma_data"),
    ({"contrasts": None}, "contrasts"),
]


@pytest.mark.parametrize(("entries", "entry"), BROKEN, ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_card_is_refused_by_entry(entries, entry, card_path):
    edit(card_path, **entries)
    with pytest.raises(PriorError, match="E-CARD") as caught:
        Prior.load(card_path)
    assert (caught.value.attribute, caught.value.file) == (entry, "tiny.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_card_that_is_no_card_is_refused(text, card_path):
    card_path.write_text(text, encoding="utf-8")
    with pytest.raises(PriorError, match="E-CARD"):
        Prior.load(card_path)


@pytest.mark.parametrize("size", [{"channels": [8, 8]}, {"channels": [1024, 1024], "blocks": [64, 64, 64]}], ids=str)
def test_a_card_of_another_network_is_refused(size, card_path):
    """However large: the second would take 30 GB."""
    edit(card_path, **size)
    with pytest.raises(PriorError, match="unlike the card's network"):
        Prior.load(card_path)
