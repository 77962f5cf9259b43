"""Small environments with known answers. Every number in them depends on the seed and on global copy indices only."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from marl.core import EnvironmentRequest, State, VectorEnvironment
from marl.random_streams import Stream
from marl.specs import (
    AgentSpec,
    ArraySpec,
    ContinuousActions,
    DiscreteActions,
    EnvironmentSpec,
    GroupSpec,
    MultiDiscreteActions,
    group_agents,
)
from marl.types import Actions, FinalGroupStep, FinalStep, GroupStep, TimeStep


class Probe(VectorEnvironment):
    """Bookkeeping of episodes; subclasses say what is seen and what happens.

    ``memory`` holds whatever a copy remembers, (E, ...) each: ``time`` (steps since the episode began), ``alive``
    (E, N agents), and what a subclass puts there in ``begin``.
    """

    agents: tuple[AgentSpec, ...]
    state_spec: ArraySpec = ArraySpec(shape=(1,))
    turn_based = False
    uniforms_an_episode = 4

    def __init__(self, request: EnvironmentRequest) -> None:
        self.num_envs = request.num_envs
        groups = group_agents(self.agents, request.sharing)
        self.spec = EnvironmentSpec(
            groups=groups, state=self.state_spec if request.with_state else None, turn_based=self.turn_based
        )
        self.order = {agent.name: index for index, agent in enumerate(self.agents)}
        self.stream = Stream(
            request.seed, f"probe/{request.purpose}", first_env=request.first_env, num_envs=request.num_envs
        )
        rows = (request.num_envs, len(self.agents))
        self.memory: dict[str, Tensor] = {
            "time": torch.zeros(request.num_envs, dtype=torch.int64),
            "episode": torch.full((request.num_envs,), -1),
            "alive": torch.zeros(rows, dtype=torch.bool),
            "first": torch.zeros(request.num_envs, dtype=torch.bool),
            "rewards": torch.zeros(rows),
            "terminated": torch.zeros(rows, dtype=torch.bool),
            "truncated": torch.zeros(rows, dtype=torch.bool),
        }
        self.keep(uniforms=torch.zeros(request.num_envs, self.uniforms_an_episode))
        self.setup()

    # --- what subclasses say --------------------------------------------------------------------------------

    def setup(self) -> None:
        """Declares what is remembered, with ``keep``."""

    def observe(self, agent: str) -> Tensor:
        """(E, *shape)."""
        raise NotImplementedError

    def state(self) -> Tensor:
        return torch.zeros(self.num_envs, *self.state_spec.shape)

    def mask(self, agent: str) -> Tensor | None:
        return None

    def acting(self) -> Tensor:
        """(E, N) who must act, among those alive."""
        return torch.ones_like(self.memory["alive"])

    def play(self, actions: dict[str, Tensor], rewards: Tensor, terminated: Tensor, truncated: Tensor) -> None:
        """Fills (E, N) rewards and endings in; ``time`` counts the steps taken before this one."""
        raise NotImplementedError

    # --- what they use --------------------------------------------------------------------------------------

    def keep(self, **tensors: Tensor) -> None:
        self.memory |= tensors

    @property
    def time(self) -> Tensor:
        return self.memory["time"]

    @property
    def uniforms(self) -> Tensor:
        """(E, uniforms_an_episode), new ones each episode."""
        return self.memory["uniforms"]

    # --- VectorEnvironment ----------------------------------------------------------------------------------

    def reset(self) -> TimeStep:
        self._begin(torch.ones(self.num_envs, dtype=torch.bool))
        self.memory["first"].fill_(True)
        return self.current()

    def step(self, actions: Actions) -> TimeStep:
        memory = self.memory
        by_agent = {agent: actions[g.name][:, row] for g in self.spec.groups for row, agent in enumerate(g.agents)}
        for name in ("rewards", "terminated", "truncated"):
            memory[name].zero_()
        active = self.acting() & memory["alive"]
        self._check_legal(by_agent, active)
        self.play(by_agent, memory["rewards"], memory["terminated"], memory["truncated"])
        memory["alive"] &= ~(memory["terminated"] | memory["truncated"])
        memory["time"] += 1
        ended = ~memory["alive"].any(dim=1)
        memory["first"].copy_(ended)
        final = None
        if ended.any():
            envs = ended.nonzero().squeeze(-1)
            last = self.current()
            groups = {
                name: FinalGroupStep(
                    observations=step.observations[envs],
                    action_masks=None if step.action_masks is None else step.action_masks[envs],
                )
                for name, step in last.groups.items()
            }
            state = None if last.state is None else last.state[envs]
            final = FinalStep(envs=envs, groups=groups, state=state)
            self._begin(ended)
        current = self.current()
        return TimeStep(groups=current.groups, state=current.state, first=current.first, final=final)

    def current(self) -> TimeStep:
        groups = {group.name: self._group_step(group) for group in self.spec.groups}
        state = None if self.spec.state is None else self.state()
        return TimeStep(groups=groups, state=state, first=self.memory["first"].clone(), final=None)

    def env_state_dict(self) -> State:
        return {name: tensor.clone() for name, tensor in self.memory.items()}

    def load_env_state_dict(self, state: State) -> None:
        for name, tensor in self.memory.items():
            tensor.copy_(state[name])

    def _begin(self, envs: Tensor) -> None:
        memory = self.memory
        memory["episode"][envs] += 1
        memory["time"][envs] = 0
        memory["alive"][envs] = True
        fresh = self.stream.uniforms(memory["episode"], self.uniforms_an_episode)[0]
        memory["uniforms"][envs] = fresh[envs]
        self.begin(envs)

    def begin(self, envs: Tensor) -> None:
        """Begins episodes in the copies that are True."""

    def _columns(self, group: GroupSpec) -> list[int]:
        return [self.order[agent] for agent in group.agents]

    def _group_step(self, group: GroupSpec) -> GroupStep:
        columns = self._columns(group)
        masks = [self.mask(agent) for agent in group.agents] if group.masked else None
        memory = self.memory
        return GroupStep(
            observations=torch.stack([self.observe(agent) for agent in group.agents], dim=1),
            action_masks=None if masks is None else torch.stack(masks, dim=1),
            active=(self.acting() & memory["alive"])[:, columns],
            rewards=memory["rewards"][:, columns],
            terminated=memory["terminated"][:, columns],
            truncated=memory["truncated"][:, columns],
        )

    def _check_legal(self, actions: dict[str, Tensor], active: Tensor) -> None:
        for agent in self.agents:
            mask = self.mask(agent.name) if agent.masked else None
            if mask is not None:
                legal = mask.gather(1, actions[agent.name].view(self.num_envs, 1)).squeeze(1)
                assert bool(legal[active[:, self.order[agent.name]]].all()), f"{agent.name} moved illegally"


def team(count: int, observation: ArraySpec, action, *, masked: bool = False) -> tuple[AgentSpec, ...]:
    """Equal agents called agent_0, agent_1, …"""
    return tuple(
        AgentSpec(name=f"agent_{index}", observation=observation, action=action, masked=masked)
        for index in range(count)
    )


def one_hot(values: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(values, size).float()


class Terminates(Probe):
    """One step, reward 1, then nothing: V = 1."""

    agents = team(2, ArraySpec(shape=(3,)), DiscreteActions(num_actions=2))

    def observe(self, agent: str) -> Tensor:
        return torch.tensor([1.0, 0.0, 0.0]).expand(self.num_envs, 3)

    def play(self, actions, rewards, terminated, truncated) -> None:
        rewards.fill_(1.0)
        terminated.fill_(True)


class Truncates(Terminates):
    """One step, reward 1, then cut off: V = 1 + γV, if what is bootstrapped is the same observation again."""

    def play(self, actions, rewards, terminated, truncated) -> None:
        rewards.fill_(1.0)
        truncated.fill_(True)


class TruncatesElsewhere(Probe):
    """Two steps. What is seen last before the cut, C, is neither what is seen first, A, nor then, B.

    Values: reward 1 at A and at B, then C, which is only ever seen last. With V(C) = c, V(B) = 1 + γc and
    V(A) = 1 + γV(B). Bootstrapping the first observation of the next episode would make them grow to 1/(1-γ).
    """

    agents = team(1, ArraySpec(shape=(3,)), DiscreteActions(num_actions=2))

    def observe(self, agent: str) -> Tensor:
        return one_hot(self.time, 3)

    def play(self, actions, rewards, terminated, truncated) -> None:
        rewards.fill_(1.0)
        truncated.copy_((self.time == 1).unsqueeze(1).expand_as(truncated))


class HiddenInState(Probe):
    """The reward is +1 or -1, which only the state shows: a critic that reads it is exact, any other is off by 1."""

    agents = team(2, ArraySpec(shape=(3,)), DiscreteActions(num_actions=2))
    state_spec = ArraySpec(shape=(4,))

    def observe(self, agent: str) -> Tensor:
        return torch.tensor([0.0, 1.0, 0.0]).expand(self.num_envs, 3)

    def sign(self) -> Tensor:
        return (self.uniforms[:, 0] < 0.5).long()

    def state(self) -> Tensor:
        return one_hot(self.sign(), 4)

    def play(self, actions, rewards, terminated, truncated) -> None:
        rewards.copy_((2.0 * self.sign() - 1.0).unsqueeze(1).expand_as(rewards))
        terminated.fill_(True)


class DelayedCredit(Probe):
    """What is done first is rewarded after the second step, in which nothing matters."""

    agents = team(2, ArraySpec(shape=(5,)), DiscreteActions(num_actions=3))

    def setup(self) -> None:
        self.keep(chosen=torch.zeros(self.num_envs, 2, dtype=torch.int64))

    def observe(self, agent: str) -> Tensor:
        chosen = self.memory["chosen"][:, self.order[agent]]
        return torch.cat((one_hot(self.time.clamp(max=1), 2), one_hot(chosen, 3)), dim=1)

    def begin(self, envs: Tensor) -> None:
        self.memory["chosen"][envs] = 0

    def play(self, actions, rewards, terminated, truncated) -> None:
        second = (self.time == 1).unsqueeze(1)
        chosen = self.memory["chosen"]
        # The agents' right choices differ, so that ids are needed: agent_0's is 1, agent_1's is 2.
        right = chosen == torch.tensor([1, 2])
        rewards.copy_(torch.where(second, right.float(), 0.0))
        chosen.copy_(torch.where(second, chosen, torch.stack([actions["agent_0"], actions["agent_1"]], dim=1)))
        terminated.copy_(second.expand_as(terminated))


class OneLegalAction(Probe):
    """Masks leave one action, another one at each step; anything else fails at once."""

    agents = team(2, ArraySpec(shape=(4,)), DiscreteActions(num_actions=5), masked=True)

    def observe(self, agent: str) -> Tensor:
        return self.uniforms

    def legal(self, agent: str) -> Tensor:
        return (self.memory["episode"].clamp(min=0) + 3 * self.time + self.order[agent]) % 5

    def mask(self, agent: str) -> Tensor:
        return one_hot(self.legal(agent), 5).bool()

    def play(self, actions, rewards, terminated, truncated) -> None:
        rewards.fill_(1.0)
        terminated.copy_((self.time == 3).unsqueeze(1).expand_as(terminated))


class Deaths(Probe):
    """Agent i dies after i + 1 steps; each step alive brings 1. V_i(t) = 1 + γ + … up to its death."""

    agents = team(3, ArraySpec(shape=(5,)), DiscreteActions(num_actions=2))

    def observe(self, agent: str) -> Tensor:
        # What is seen after death is what was seen last.
        return one_hot(self.time.clamp(max=self.order[agent] + 1), 5)

    def play(self, actions, rewards, terminated, truncated) -> None:
        lives = torch.arange(1, 4)
        rewards.copy_((self.time.unsqueeze(1) < lives).float())
        terminated.copy_(self.time.unsqueeze(1) + 1 == lives)


class Sacrifice(Probe):
    """Whoever takes action 1 dies at once; the team then gets ``self.bonus`` a step while agent_1 lives, else 1.

    agent_1 may not die. Episodes last 8 steps. With a bonus above 1 dying helps the team.
    """

    agents = team(2, ArraySpec(shape=(3,)), DiscreteActions(num_actions=2))
    state_spec = ArraySpec(shape=(10,))
    bonus = 2.0

    def state(self) -> Tensor:
        alone = (~self.memory["alive"][:, 0]).float().unsqueeze(1)
        return torch.cat((one_hot(self.time, 9), alone), dim=1)

    def observe(self, agent: str) -> Tensor:
        alive = self.memory["alive"][:, self.order[agent]].float()
        return torch.stack((alive, 1.0 - alive, torch.zeros_like(alive)), dim=1)

    def play(self, actions, rewards, terminated, truncated) -> None:
        alone = ~self.memory["alive"][:, 0]
        rewards[:, 1] = torch.where(alone, self.bonus, 1.0)
        terminated[:, 0] = (actions["agent_0"] == 1) & ~alone
        last = (self.time == 7).unsqueeze(1)
        terminated |= last & self.memory["alive"]


class Alternating(Probe):
    """Two agents take turns, agent_0 first; agent_0's move 1 is paid, 3, only when agent_1 has moved after it.

    Six turns. agent_1's move 0 is paid 1 at once. Agents that wait see zeros, as in PettingZoo's games of turns.
    """

    agents = team(2, ArraySpec(shape=(8,)), DiscreteActions(num_actions=2), masked=True)
    turn_based = True

    def setup(self) -> None:
        self.keep(promised=torch.zeros(self.num_envs))

    def begin(self, envs: Tensor) -> None:
        self.memory["promised"][envs] = 0.0

    def acting(self) -> Tensor:
        mover = self.time % 2
        return torch.stack((mover == 0, mover == 1), dim=1)

    def observe(self, agent: str) -> Tensor:
        mine = self.acting()[:, self.order[agent]].unsqueeze(1)
        return one_hot(self.time, 8) * mine

    def mask(self, agent: str) -> Tensor:
        return torch.ones(self.num_envs, 2, dtype=torch.bool)

    def play(self, actions, rewards, terminated, truncated) -> None:
        first_moves = self.time % 2 == 0
        promised = self.memory["promised"]
        rewards[:, 0] = torch.where(first_moves, 0.0, promised)
        rewards[:, 1] = torch.where(first_moves, 0.0, (actions["agent_1"] == 0).float())
        promised.copy_(torch.where(first_moves, 3.0 * (actions["agent_0"] == 1), promised))
        terminated.copy_((self.time == 5).unsqueeze(1).expand_as(terminated))


class Remember(Probe):
    """A cue at the first step must be repeated at the fourth: 1 if right. Without memory nobody beats 1/2."""

    agents = team(2, ArraySpec(shape=(6,)), DiscreteActions(num_actions=2))
    state_spec = ArraySpec(shape=(4,))

    def cue(self) -> Tensor:
        return (self.uniforms[:, :2] < 0.5).long()

    def observe(self, agent: str) -> Tensor:
        cue = one_hot(self.cue()[:, self.order[agent]], 2) * (self.time == 0).unsqueeze(1)
        return torch.cat((cue, one_hot(self.time.clamp(max=3), 4)), dim=1)

    def play(self, actions, rewards, terminated, truncated) -> None:
        last = (self.time == 3).unsqueeze(1)
        said = torch.stack([actions["agent_0"], actions["agent_1"]], dim=1)
        rewards.copy_((last & (said == self.cue())).float())
        terminated.copy_(last.expand_as(terminated))


class Aim(Probe):
    """One step; the closer a continuous action is to what is shown, the better: 0 at best."""

    agents = team(2, ArraySpec(shape=(3,)), ContinuousActions(low=(-1.0, -1.0), high=(1.0, 1.0)))

    def target(self, agent: str) -> Tensor:
        side = (self.uniforms[:, self.order[agent]] < 0.5).float()
        return torch.stack((side - 0.5, 0.5 - side), dim=1)

    def observe(self, agent: str) -> Tensor:
        return torch.cat((self.target(agent), torch.zeros(self.num_envs, 1)), dim=1)

    def play(self, actions, rewards, terminated, truncated) -> None:
        for agent, index in self.order.items():
            rewards[:, index] = -(actions[agent] - self.target(agent)).square().sum(dim=1)
        terminated.fill_(True)


class Combination(Probe):
    """One step; both parts of a choice of 3 x 2 must be what is shown: 1 if so."""

    agents = team(2, ArraySpec(shape=(3,)), MultiDiscreteActions(nvec=(3, 2)))

    def shown(self, agent: str) -> Tensor:
        return (self.uniforms[:, self.order[agent]] * 3).long()

    def observe(self, agent: str) -> Tensor:
        return one_hot(self.shown(agent), 3)

    def play(self, actions, rewards, terminated, truncated) -> None:
        for agent, index in self.order.items():
            shown = self.shown(agent)
            rewards[:, index] = ((actions[agent][:, 0] == shown) & (actions[agent][:, 1] == shown % 2)).float()
        terminated.fill_(True)


class Anything(Probe):
    """Noise: whatever specs, observations and rewards at random, deaths, endings of both kinds at different times."""

    uniforms_an_episode = 64
    latest = 9
    width = 8

    def setup(self) -> None:
        self.table_step = torch.tensor(-1)

    def noise(self, count: int, salt: int) -> Tensor:
        """(E, count) in (0, 1), new ones each step."""
        step = self.memory["episode"].clamp(min=0) * 1000 + self.time * 20 + 10**6
        if count > self.width:
            return self.stream.uniforms(step + salt, count)[0]
        # One table a step serves all small requests.
        if not torch.equal(step, self.table_step):
            self.table, self.table_step = self.stream.uniforms(step, 20 * self.width)[0], step
        return self.table[:, salt * self.width : salt * self.width + count]

    def array(self, spec: ArraySpec, salt: int) -> Tensor:
        numbers = self.noise(spec.size, salt).view(self.num_envs, *spec.shape)
        return (numbers * 255).to(torch.uint8) if spec.dtype == torch.uint8 else (4.0 * numbers - 1.0).to(spec.dtype)

    def observe(self, agent: str) -> Tensor:
        spec = self.agents[self.order[agent]].observation
        return self.array(spec, self.order[agent])

    def state(self) -> Tensor:
        return self.array(self.state_spec, 19)

    def mask(self, agent: str) -> Tensor:
        action = self.agents[self.order[agent]].action
        assert not isinstance(action, ContinuousActions)
        mask = self.noise(action.mask_size, 18 - self.order[agent]) < 0.5
        nvec = action.nvec if isinstance(action, MultiDiscreteActions) else (action.num_actions,)
        start = 0
        for size in nvec:
            mask[:, start] = True
            start += size
        return mask

    def _check_legal(self, actions: dict[str, Tensor], active: Tensor) -> None:
        if not any(isinstance(agent.action, MultiDiscreteActions) for agent in self.agents):
            super()._check_legal(actions, active)

    def play(self, actions, rewards, terminated, truncated) -> None:
        alive = self.memory["alive"]
        for agent, index in self.order.items():
            assert bool(torch.isfinite(actions[agent].float()).all())
            lifetime = (self.uniforms[:, index] * self.latest).long()
            rewards[:, index] = torch.where(alive[:, index], self.noise(1, 10)[:, 0] - 0.3, 0.0)
            dies = alive[:, index] & (self.time >= lifetime)
            terminated[:, index] = dies & (self.uniforms[:, -1] < 0.5)
            truncated[:, index] = dies & ~(self.uniforms[:, -1] < 0.5)


def anything(*agents: AgentSpec, state: ArraySpec = ArraySpec(shape=(7,)), turns: bool = False) -> type[Anything]:  # noqa: B008
    """``Anything`` with these specs; with ``turns`` one agent after the other acts, and nobody dies early."""

    def acting(self: Anything) -> Tensor:
        return one_hot(self.time % len(agents), len(agents)).bool()

    def play(self: Anything, actions, rewards, terminated, truncated) -> None:
        rewards.copy_(self.noise(len(agents), 10) - 0.3)
        over = self.time >= (self.uniforms[:, 0] * self.latest).long()
        terminated.copy_((over & (self.uniforms[:, 1] < 0.5)).unsqueeze(1).expand_as(terminated))
        truncated.copy_((over & ~(self.uniforms[:, 1] < 0.5)).unsqueeze(1).expand_as(truncated))

    ordered = tuple(sorted(agents, key=lambda agent: agent.name))
    members = {"agents": ordered, "state_spec": state, "turn_based": turns}
    return type("Something", (Anything,), members | ({"acting": acting, "play": play} if turns else {}))


def geometric(discount: float, count: int) -> float:
    """1 + γ + γ² + …, so many terms."""
    return math.fsum(discount**k for k in range(count))


Factory = Callable[[EnvironmentRequest], VectorEnvironment]
