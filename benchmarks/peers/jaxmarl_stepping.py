"""Steps JaxMARL's jitted simple_spread with random actions, and prints the median of environment steps a second.

python jaxmarl_stepping.py ENVS SECONDS, in an environment that has JaxMARL.
"""

import sys
import time

import jax
import jax.numpy as jnp
from jaxmarl import make
from timing import print_median_rate

LENGTH = 100
"""Steps a call."""


def main() -> None:
    envs, seconds = int(sys.argv[1]), float(sys.argv[2])
    environment = make("MPE_simple_spread_v3")
    reset = jax.vmap(environment.reset)
    step = jax.vmap(environment.step)

    def advance(carry, key):
        states, total = carry
        for_actions, for_steps = jax.random.split(key)
        drawn = jax.random.randint(for_actions, (environment.num_agents, envs), 0, 5)
        actions = {agent: drawn[index] for index, agent in enumerate(environment.agents)}
        observations, states, rewards, _, _ = step(jax.random.split(for_steps, envs), states, actions)
        # What nobody reads would not be computed.
        seen = sum(observations[agent].sum() + rewards[agent].sum() for agent in environment.agents)
        return (states, total + seen), None

    @jax.jit
    def steps(states, key):
        (states, total), _ = jax.lax.scan(advance, (states, jnp.float32(0)), jax.random.split(key, LENGTH))
        return states, total

    key = jax.random.PRNGKey(0)
    _, states = reset(jax.random.split(key, envs))

    def rate():
        nonlocal key, states
        key, now = jax.random.split(key)
        began = time.perf_counter()
        states, total = steps(states, now)
        total.block_until_ready()
        return LENGTH * envs / (time.perf_counter() - began)

    print_median_rate(rate, seconds)


main()
