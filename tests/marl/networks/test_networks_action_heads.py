import pytest
import torch
from action_distributions import uniforms
from torch import Tensor

from marl.networks.action_heads import make_distribution, num_outputs, num_uniforms, relaxed_sample
from marl.networks.categorical import MultiCategorical
from marl.networks.gaussian import LOG_STD_RANGE, DiagonalGaussian
from marl.random_streams import Stream
from marl.specs import ContinuousActions, DiscreteActions, MultiDiscreteActions

CONTINUOUS = ContinuousActions(low=(-1.0,) * 3, high=(1.0,) * 3)


@pytest.mark.parametrize(
    ("spec", "options", "outputs", "numbers"),
    [
        (DiscreteActions(num_actions=5), {}, 5, 1),
        (MultiDiscreteActions(nvec=(2, 3)), {}, 5, 2),
        (CONTINUOUS, {"log_std": torch.zeros(3)}, 3, 3),
        (CONTINUOUS, {"log_std": torch.zeros(3), "squashed": True}, 3, 3),
        (CONTINUOUS, {}, 6, 3),
        (CONTINUOUS, {"squashed": True}, 6, 3),
    ],
)
@pytest.mark.parametrize("leading", [(), (0,), (4, 2)])
def test_distributions_are_made_for_every_kind_of_action(spec, options, outputs, numbers, leading):
    assert num_outputs(spec, state_dependent_std="log_std" not in options) == outputs
    assert num_uniforms(spec) == numbers
    distribution = make_distribution(spec, torch.randn(*leading, outputs), None, **options)
    actions, log_probs = distribution.sample_and_log_prob(torch.rand(*leading, numbers))
    for tensor in (actions, distribution.mode()):
        assert tensor.shape == (*leading, *spec.array.shape)
        assert tensor.dtype == spec.array.dtype
    assert log_probs.shape == distribution.log_prob(actions).shape == distribution.entropy().shape == leading


@pytest.mark.parametrize(
    ("spec", "squashed"),
    [
        (DiscreteActions(num_actions=5), False),
        (MultiDiscreteActions(nvec=(2, 3)), False),
        (CONTINUOUS, False),
        (CONTINUOUS, True),
    ],
)
def test_distributions_can_be_compiled_without_a_break(spec, squashed):
    outputs, numbers = torch.randn(4, num_outputs(spec, state_dependent_std=True)), uniforms(4, num_uniforms(spec))

    def statistics(outputs: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        distribution = make_distribution(spec, outputs, None, squashed=squashed)
        return (*distribution.sample_and_log_prob(numbers), distribution.entropy())

    compiled = torch.compile(statistics, backend="eager", fullgraph=True)
    for one, two in zip(compiled(outputs, numbers), statistics(outputs, numbers), strict=True):
        torch.testing.assert_close(one, two)


def test_masks_reach_the_choices():
    mask = torch.tensor([False, True, True, False, False])
    assert make_distribution(MultiDiscreteActions(nvec=(2, 3)), torch.zeros(5), mask).mode().tolist() == [1, 0]
    assert make_distribution(DiscreteActions(num_actions=5), torch.zeros(5), mask).mode().item() == 1


def test_a_networks_standard_deviations_stay_in_range():
    outputs = torch.tensor([0.0, 0.0, -1e9, 1e9])
    distribution = make_distribution(ContinuousActions(low=(0.0, 0.0), high=(1.0, 1.0)), outputs, None)
    assert isinstance(distribution, DiagonalGaussian)
    assert tuple(distribution.log_std.tolist()) == LOG_STD_RANGE


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"last dimension 4, but .* needs 5"):
        make_distribution(DiscreteActions(num_actions=5), torch.zeros(2, 4), None)
    with pytest.raises(ValueError, match="mask has shape"):
        make_distribution(DiscreteActions(num_actions=5), torch.zeros(2, 5), torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="cannot be masked"):
        make_distribution(CONTINUOUS, torch.zeros(2, 6), torch.ones(2, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="needs 3"):
        make_distribution(CONTINUOUS, torch.zeros(2, 6), None, log_std=torch.zeros(3))
    with pytest.raises(ValueError, match="mask has shape"):
        MultiCategorical(torch.zeros(2, 5), (2, 3), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="sum of nvec"):
        MultiCategorical(torch.zeros(2, 6), (2, 3))


def test_relaxed_samples_are_one_hot_samples_of_the_choices():
    spec = MultiDiscreteActions(nvec=(3, 2))
    logits = torch.tensor([1.0, 0.0, -1.0, 0.3, -0.3])
    uniforms = Stream(0, "relaxed", num_envs=20_000).uniforms(0, 5)[0]
    drawn = relaxed_sample(spec, logits.expand(20_000, 5), None, uniforms, temperature=0.3)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    expected = torch.cat((logits[:3].softmax(0), logits[3:].softmax(0)))
    torch.testing.assert_close(drawn.mean(0), expected, atol=0.015, rtol=0)


@pytest.mark.parametrize("temperature", [1e-3, 0.5, 2.0])
def test_gradients_of_relaxed_samples_are_those_of_the_relaxation(temperature):
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    uniforms, weights = torch.rand(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    drawn = relaxed_sample(DiscreteActions(num_actions=4), logits, None, uniforms, temperature=temperature)
    (ours,) = torch.autograd.grad((weights * drawn).sum(), logits)
    soft = ((logits - torch.log(-torch.log(uniforms))) / temperature).softmax(-1)
    (theirs,) = torch.autograd.grad((weights * soft).sum(), logits)
    torch.testing.assert_close(ours, theirs)


def test_relaxed_samples_are_legal_and_send_no_gradient_into_illegal_logits():
    logits = torch.tensor([[50.0, 0.0, 1.0], [3.0, 2.0, 1.0]], requires_grad=True)
    mask = torch.tensor([[False, True, True], [False, False, True]])
    drawn = relaxed_sample(DiscreteActions(num_actions=3), logits, mask, torch.rand(2, 3), temperature=0.1)
    assert not drawn[~mask].any()
    assert drawn.sum(-1).tolist() == [1.0, 1.0]
    (drawn * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[~mask].any()


def test_relaxed_samples_of_shapes_that_do_not_fit_are_refused():
    spec = DiscreteActions(num_actions=3)
    with pytest.raises(ValueError, match="uniforms have shape"):
        relaxed_sample(spec, torch.zeros(2, 3), None, torch.rand(2, 1))
    with pytest.raises(ValueError, match="logits have shape"):
        relaxed_sample(spec, torch.zeros(2, 4), None, torch.rand(2, 4))
