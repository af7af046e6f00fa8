"""Objectives against closed forms on models whose outputs are given, and each learning one batch with a real model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data.batch import KINDS, Batch
from model.config import (
    AttentionConfig,
    BinsHeadConfig,
    DenseConfig,
    FlowHeadConfig,
    ImageConfig,
    L1HeadConfig,
    LocalDecoderConfig,
    ModelConfig,
    RobotConfig,
)
from model.heads.bins import BinsHead
from model.heads.flow import Prefix
from model.init import Init
from model.model import Output, join
from model.moe import RouterStats
from tests.model.documents import VOCAB, pack, robot_document
from tests.model.weights import random_states
from tests.train.given import Given
from train.objectives import OBJECTIVES, bins, distill, flow, l1, next_token
from train.objectives.loss import with_router
from train.objectives.next_token import KINDS_WITH_TARGETS

pytestmark = pytest.mark.usefixtures("quick_compilation")
LENGTHS, T = (9, 12), 24
KEY = jax.random.key(0)
OF_ANSWERS = {"dpo", "reward", "grpo", "bond", "on_policy_distill"}  # which have files of their own


@pytest.fixture(scope="module")
def batch():
    """Two documents with several kinds of targets; weights also where nothing may be predicted."""
    rng = np.random.default_rng(0)
    packed = pack([robot_document(rng, length, i + 1) for i, length in enumerate(LENGTHS)], num_slots=T)
    weights = np.where(packed.loss_weights > 0, rng.uniform(0.5, 2, packed.loss_weights.shape), 0).astype("f4")
    weights[0, [0, 9, 22]] = 7.0  # first slots of both segments, and padding
    kinds = packed.kinds.copy()
    kinds[0, [7, 8, 17]], kinds[0, [19, 20]] = KINDS.index("action"), KINDS.index("point")
    return dataclasses.replace(packed, loss_weights=weights, kinds=kinds)


def given(seed: int, vocab: int = VOCAB, width: int = 5) -> Given:
    rng = np.random.default_rng(seed)
    return Given(*(jnp.array(rng.normal(size=size), jnp.float32) for size in ((1, T, width), (vocab, width))))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, "f8")
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def targets_of(batch):
    """(slot it is predicted from, slot of the target) of every target, slot by slot."""
    segment = batch.segment_ids[0]
    pairs = [(t, t + 1) for t in range(T - 1) if segment[t] > 0 and segment[t] == segment[t + 1]]
    return [(t, target) for t, target in pairs if batch.loss_weights[0, target] > 0]


def test_next_token_is_the_weighted_cross_entropy_inside_segments(batch):
    model = given(1)
    loss = jax.jit(lambda model: next_token.loss(model, batch, KEY))(model)
    log_p = log_softmax(model.token_logits(model.hidden_BTD)[0])
    pairs = targets_of(batch)
    nll = np.array([-log_p[t, batch.tokens[0, target]] for t, target in pairs])
    weight = np.array([batch.loss_weights[0, target] for _, target in pairs])
    np.testing.assert_allclose(loss.total, weight @ nll, rtol=1e-5)
    np.testing.assert_allclose(loss.weight, weight.sum(), rtol=1e-6)
    np.testing.assert_allclose(loss.metrics["loss"], (weight @ nll, weight.sum()), rtol=1e-5)
    for kind in ("text", "action", "point"):
        chosen = np.array([KINDS[batch.kinds[0, target]] == kind for _, target in pairs])
        assert chosen.any()
        np.testing.assert_allclose(loss.metrics[f"loss/{kind}"], (nll[chosen].sum(), chosen.sum()), rtol=1e-5)


def test_the_last_slot_of_a_full_row_does_not_predict_the_first():
    ones = np.ones((1, 6), np.int32)
    full = Batch(ones * 3, ones, np.arange(6)[None], 0 * ones, ones.astype("f4"), ones, {}, {})
    assert next_token.targets(full)[1].tolist() == [[1, 1, 1, 1, 1, 0]]


def test_kinds_with_targets_are_those_of_the_contract():
    assert {name: KINDS.index(name) for name in KINDS_WITH_TARGETS} == KINDS_WITH_TARGETS


@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (0.3, 2.5)])
def test_distillation_mixes_the_divergence_from_the_teacher_with_the_hard_label(batch, alpha, temperature):
    student, teacher = given(1), given(2)
    options = distill.Options(alpha=alpha, temperature=temperature)
    loss = jax.jit(lambda s, t: distill.loss(s, batch, KEY, teacher=t, options=options))(student, teacher)
    log_s, log_t = (log_softmax(model.token_logits(model.hidden_BTD)[0] / temperature) for model in (student, teacher))
    hard = log_softmax(student.token_logits(student.hidden_BTD)[0])
    total = divergence = 0.0
    for t, target in targets_of(batch):
        kl = np.sum(np.exp(log_t[t]) * (log_t[t] - log_s[t]))
        divergence += kl if batch.kinds[0, target] == 1 else 0
        nll = -hard[t, batch.tokens[0, target]]
        total += batch.loss_weights[0, target] * (alpha * temperature**2 * kl + (1 - alpha) * nll)
    np.testing.assert_allclose(loss.total, total, rtol=1e-5)
    np.testing.assert_allclose(loss.metrics["kl/text"][0], divergence, rtol=1e-5)


def test_a_student_equal_to_its_teacher_has_no_divergence_and_no_gradient(batch):
    options = distill.Options(alpha=1.0, temperature=2.0)
    total = lambda student: distill.loss(student, batch, KEY, teacher=given(1), options=options).total  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(total))(given(1))
    np.testing.assert_allclose(value, 0, atol=1e-5)
    jax.tree.map(lambda g: np.testing.assert_allclose(g, 0, atol=1e-5), gradient)


def test_pure_distillation_pulls_each_logit_by_the_difference_of_the_distributions(batch):
    """With alpha = 1 and T = 1, d loss / d logits = weight (softmax(student) - softmax(teacher))."""
    student, teacher = (dataclasses.replace(given(seed, width=VOCAB), table_VD=jnp.eye(VOCAB)) for seed in (1, 2))

    def total(student, teacher):
        options = distill.Options(alpha=1.0, temperature=1.0)
        return distill.loss(student, batch, KEY, teacher=teacher, options=options).total

    of_student, of_teacher = jax.jit(jax.grad(total, (0, 1)))(student, teacher)
    expected = np.zeros((T, VOCAB))
    for t, target in targets_of(batch):
        p, q = (np.exp(log_softmax(model.hidden_BTD[0, t])) for model in (student, teacher))
        expected[t] = batch.loss_weights[0, target] * (p - q)
    np.testing.assert_allclose(of_student.hidden_BTD[0], expected, atol=1e-5)
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), of_teacher)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda: distill.Options(alpha=0.0), "alpha is 0.0; allowed: above 0 and at most 1; use objective next_token"),
        (lambda: distill.Options(alpha=1.5), "alpha is 1.5; allowed"),
        (lambda: distill.Options(temperature=0.0), "temperature is 0.0; allowed: a positive number"),
        (lambda: flow.Options(samples=0), "samples is 0; allowed: at least 1"),
        (lambda: flow.Options(alpha=0.0), "alpha is 0.0; allowed: above 0 and at most 1; leave the teacher out for 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError) as error:
        options()
    assert str(error.value).startswith(message)


def partly_masked(batch):
    """The second chunk ends after two steps; entries of the unused third are called existing."""
    mask = batch.values["action_mask"].copy()
    mask[0, 1, 2:] = False
    assert batch.values["action_slot"][0, 2] == -1
    return dataclasses.replace(batch, values=batch.values | {"action_mask": mask})


def test_bins_is_the_cross_entropy_of_each_existing_action(batch):
    batch = partly_masked(batch)
    head = BinsHead(Init(KEY), BinsHeadConfig(num_bins=7, low=-1, high=1), RobotConfig(2, width=5, chunk=3), 6)

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class WithBins(Given):
        bins = head

    model = WithBins(*jax.tree.leaves(given(3, width=6)))
    loss = jax.jit(lambda model: bins.loss(model, batch, KEY))(model)
    total, error, count = 0.0, 0.0, 0
    for k, slot in enumerate((6, 15)):
        logits = np.einsum("d,dcan->can", model.hidden_BTD[0, slot], head.kernel[...])
        for c, a in np.argwhere(batch.values["action_mask"][0, k]):
            action = batch.values["action"][0, k, c, a]
            total -= log_softmax(logits[c, a])[int(np.clip((action + 1) / 2 * 7, 0, 6))]
            error += abs(-1 + (logits[c, a].argmax() + 0.5) * 2 / 7 - action)
            count += 1
    assert count == 5 * (3 + 2)
    np.testing.assert_allclose((loss.total, loss.weight), (total, count), rtol=1e-5)
    np.testing.assert_allclose(loss.metrics["error/action"], (error, count), rtol=1e-5)


def test_l1_is_the_mean_distance_of_each_existing_action(batch):
    batch = partly_masked(batch)

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Regressing(Given):
        """Predicts the first hidden number for each step and dim."""

        @property
        def l1(self):
            return self

        def predict(self, hidden_BKD, proprio_BKA, embodiment_BK):
            assert proprio_BKA.shape[:2] == embodiment_BK.shape
            return jnp.broadcast_to(hidden_BKD[..., :1, None], (*hidden_BKD.shape[:2], 3, 5))

    model = Regressing(*jax.tree.leaves(given(3)))
    loss = l1.loss(model, batch, KEY)
    mask = batch.values["action_mask"][0, :2]
    apart = np.abs(batch.values["action"][0, :2] - model.hidden_BTD[0, [6, 15], 0][:, None, None])[mask]
    np.testing.assert_allclose((loss.total, loss.weight), (apart.sum(), len(apart)), rtol=1e-5)
    assert loss.metrics["loss/action"] == (loss.total, loss.weight)


@dataclasses.dataclass(frozen=True)
class WithVelocity:
    """A model whose velocity field is the given function; prefixes carry which chunk they are of."""

    field: Any

    def __call__(self, batch, *, want_keys_values):
        assert want_keys_values
        return Output(jnp.zeros((1, T, 1)), (), (), None)

    def action_prefix(self, output, values):
        shape = values["action_slot"].shape
        index_BK = jnp.arange(shape[0] * shape[1]).reshape(shape)
        return Prefix((), index_BK[..., None], index_BK[..., None], index_BK, index_BK, index_BK)

    config = FlowHeadConfig(width=2, hidden_dim=1)

    @property
    def flow(self):
        return self

    def velocity(self, noisy_BKCA, tau_BK, embodiment_BK, prefix):
        indices = [
            prefix.hidden_BKD[..., 0],
            prefix.proprio_BKA[..., 0],
            prefix.lo_BK,
            prefix.hi_BK,
            prefix.position_BK,
        ]
        return self.field(noisy_BKCA, tau_BK[..., None, None], embodiment_BK[..., None, None], indices)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_velocity_of_zero_costs_the_mean_square_of_noise_minus_action(batch, samples):
    batch = partly_masked(batch)
    options = flow.Options(samples=samples)
    loss = flow.loss(WithVelocity(lambda noisy, *_: jnp.zeros_like(noisy)), batch, KEY, options=options)
    mask = np.repeat(batch.values["action_mask"] & (batch.values["action_slot"] >= 0)[..., None, None], samples, axis=1)
    noise = jax.random.normal(jax.random.split(KEY)[0], mask.shape)
    squares = (noise - np.repeat(batch.values["action"], samples, axis=1))[mask] ** 2
    assert loss.weight == len(squares) == samples * 5 * (3 + 2)
    np.testing.assert_allclose(loss.total / loss.weight, squares.mean(), rtol=1e-5)


def test_the_exact_velocity_costs_nothing_and_every_draw_has_its_chunks_prefix_and_robot(batch):
    """The field knows each chunk's action: (noisy - action) / tau = noise - action."""
    batch = partly_masked(batch)
    action, robots = batch.values["action"], batch.values["embodiment"]

    def exact(noisy, tau, embodiment, indices):
        for index in indices:
            np.testing.assert_array_equal(index, [[0, 0, 1, 1, 2, 2]])
        np.testing.assert_array_equal(embodiment[..., 0, 0], np.repeat(robots, 2, axis=1))
        return (noisy - np.repeat(action, 2, axis=1)) / tau

    loss = flow.loss(WithVelocity(exact), batch, KEY, options=flow.Options(samples=2))
    np.testing.assert_allclose(loss.total / loss.weight, 0, atol=1e-4)


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_a_teachers_velocity_takes_the_place_of_the_demonstrations_by_alpha(batch, alpha):
    """Of a field that is right about the teacher nothing is left but the (1 - alpha) of what the teacher gets wrong."""
    batch = partly_masked(batch)
    teacher = WithVelocity(lambda noisy, tau, *_: 3.0 * noisy + tau)
    options = flow.Options(samples=2, alpha=alpha)
    of = lambda field: flow.loss(WithVelocity(field), batch, KEY, teacher=teacher, options=options)  # noqa: E731
    same = of(teacher.field)
    wrong = flow.loss(teacher, batch, KEY, options=flow.Options(samples=2))
    np.testing.assert_allclose(same.total, (1 - alpha) ** 2 * wrong.total, rtol=1e-5, atol=1e-6)
    assert same.metrics["loss/taught"] == (same.total, same.weight)
    np.testing.assert_allclose(same.metrics["loss/action"][0], wrong.total, rtol=1e-6)
    assert of(lambda noisy, *_: 10.0 * noisy).total > same.total


def test_no_gradient_reaches_the_teacher(batch):
    def total(scale):
        teacher = WithVelocity(lambda noisy, *_: scale * noisy)
        student = WithVelocity(lambda noisy, *_: jnp.zeros_like(noisy))
        return flow.loss(student, partly_masked(batch), KEY, teacher=teacher, options=flow.Options()).total

    value, slope = jax.value_and_grad(total)(2.0)
    assert value > 0
    assert slope == 0


def test_flow_times_follow_the_beta_distribution_of_pi0():
    """0.001 + 0.999 Beta(1.5, 1): mean 0.6 of the Beta, distribution function u^1.5 (Kolmogorov-Smirnov)."""
    n = 20_000
    beta = np.sort((np.asarray(flow.flow_times(KEY, (n,)), "f8") - 0.001) / 0.999)
    assert beta[0] >= 0
    assert beta[-1] <= 1
    assert abs(beta.mean() - 0.6) < 4 * np.sqrt(0.6 * 0.4 / 3.5 / n)  # variance of Beta(1.5, 1): 0.24 / 3.5
    steps = np.arange(n + 1) / n
    distance = max(np.abs(beta**1.5 - steps[1:]).max(), np.abs(beta**1.5 - steps[:-1]).max())
    assert distance < 1.63 / np.sqrt(n)  # significance 1 %


def test_router_losses_enter_at_their_own_weight_however_long_the_batch():
    router = tuple(RouterStats(jnp.array([0.75, 0.25]), jnp.float32(0.1), jnp.float32(x), jnp.zeros(2)) for x in (2, 3))
    loss = with_router(jnp.float32(40), jnp.float32(8), {}, router)
    assert loss.total / loss.weight == 40 / 8 + 2 + 3
    assert loss.metrics["loss"] == (40, 8)
    np.testing.assert_array_equal(loss.metrics["router/load_layer1"][0], [0.75, 0.25])
    assert loss.metrics["router/max_load_layer0"][0] == 1.5


@pytest.mark.parametrize("objective", sorted(OBJECTIVES.keys() - OF_ANSWERS))
def test_a_tiny_model_learns_one_batch(batch, objective):
    """The loss halves in 60 steps of Adam; flow draws its noise once, so that there is one batch to learn."""
    config = ModelConfig(
        model_dim=16,
        num_layers=1,
        pattern=("global",),
        ffn=("dense",),
        global_attention=AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8),
        dense=DenseConfig(hidden_dim=32),
        image=ImageConfig(height=16, width=16, patch_size=8, stem_dim=4),
        robot=RobotConfig(num_embodiments=2, width=5, chunk=3),
        bins=BinsHeadConfig(num_bins=8) if objective in ("bins", "local_decoder") else None,
        l1=L1HeadConfig(hidden_dim=32) if objective == "l1" else None,
        local_decoder=LocalDecoderConfig(width=16, hidden_dim=32) if objective == "local_decoder" else None,
        flow=FlowHeadConfig(width=16, hidden_dim=32) if objective == "flow" else None,
    )
    graph, params, buffers = random_states(config, VOCAB, std=0.1)
    extra = {"options": OBJECTIVES[objective].Options()} if objective in ("distill", "flow") else {}
    if objective == "distill":
        extra = {"options": distill.Options(alpha=1.0), "teacher": join(*random_states(config, VOCAB, seed=9, std=0.4))}
    if objective == "local_decoder":
        felt = np.random.default_rng(3).normal(size=batch.values["action"].shape).astype("f4")
        batch = dataclasses.replace(batch, values=batch.values | {"chunk_proprio": felt})
    adam = optax.adam(2e-2)

    def mean(params, batch):
        loss = OBJECTIVES[objective].loss(join(graph, params, buffers), batch, KEY, **extra)
        return loss.total / loss.weight

    @jax.jit
    def learn(params, batch):
        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(mean)(params, batch)
            updates, state = adam.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, adam.init(params)), length=60)[1]

    losses = np.asarray(learn(params, batch))
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]
