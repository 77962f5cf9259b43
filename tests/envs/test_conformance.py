import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import numpy as np
from toy_environments import Countdown, Relay

from marl.envs.conformance import examine, examine_callable


def broken_rules(findings):
    return {finding.rule for finding in findings if not finding.ok}


def test_a_sound_environment_breaks_nothing():
    for name in ("mpe2.simple_spread_v3", "classic/tictactoe-v3"):
        findings = examine(name, steps=20)
        assert len(findings) >= 10
        assert not any(finding.fatal and not finding.ok for finding in findings)
        assert broken_rules(findings) <= {"PettingZoo's API test warns"}
    assert not any(finding.fatal and not finding.ok for finding in examine_callable(Relay, steps=20))


def test_an_environment_that_cannot_be_made_gives_one_finding():
    (finding,) = examine("classic/nothing_like_it-v1")
    assert not finding.ok
    assert finding.fatal
    assert "no environment" in finding.message


def test_findings_name_rule_and_agent():
    class Broken(Countdown):
        def step(self, actions):
            observed, rewards, *rest = super().step(actions)
            rewards["agent_1"] = np.nan
            return observed, rewards, *rest

    (finding, *_) = [one for one in examine_callable(Broken, steps=10) if one.fatal and not one.ok]
    assert finding.rule == "rewards are finite"
    assert finding.agent == "agent_1"


def test_randomness_without_the_seed_is_reported():
    class Random(Countdown):
        def observe(self, agent):
            return np.random.default_rng().uniform(size=3).astype(np.float32)

    findings = examine_callable(lambda: Random((9, 9)), steps=10)
    assert "equal seeds and actions give equal steps" in broken_rules(findings)
    assert "it can be resumed exactly in the middle of an episode" in broken_rules(findings)


def test_an_episode_that_remembers_the_one_before_is_reported():
    class Remembering(Countdown):
        episodes = 0

        def reset(self, seed=None, options=None):
            self.episodes += 1
            return super().reset(seed, options)

        def observe(self, agent):
            return np.array([0, self.steps, self.episodes], np.float32)

    findings = examine_callable(lambda: Remembering((3, 3)), steps=10)
    assert broken_rules(findings) >= {"a reset with a seed forgets the episode before"}
    assert not any(finding.fatal and not finding.ok for finding in findings)
