"""What goes wrong in a user's module or environment is shown in one line, with its place and the way out."""

import re
import sys
import types

import pytest

from marl.core import EnvironmentRequest
from marl.envs.factory import make_factory
from marl.errors import InputError

OLD = """
from gymnasium import spaces
from pettingzoo import AECEnv
from pettingzoo.utils import agent_selector

class Old(AECEnv):
    metadata = {"name": "old"}
    possible_agents = ["a", "b"]
    def observation_space(self, agent): return spaces.Discrete(2)
    def action_space(self, agent): return spaces.Discrete(2)
    def reset(self, seed=None, options=None):
        self.agents = self.possible_agents[:]
        self.agent_selection = agent_selector(self.agents).next()

class OldFromTheStart(Old):
    def __init__(self): agent_selector(["a"])
"""
LATE = """
from toy_environments import Countdown

class Late(Countdown):
    def __init__(self):
        super().__init__((3, 3))
        self.later = self.spaces
        del self.spaces
    def reset(self, seed=None, options=None):
        self.spaces = self.later
        return super().reset(seed, options)
"""
FILES = {
    "wrong_value": "def check():\n    raise ValueError('size must be odd')\ncheck()\n",
    "wrong_syntax": "def f(:\n",
    "wrong_exit": "import sys\nsys.exit(3)\n",
    "wrong_name": "from pettingzoo.utils import nothing_there\n",
    "wrong_package": "import sklearn.nothing\n",
    "wrong_env": "def fails():\n    raise RuntimeError('no licence')\ndef needs(size):\n    return size\n",
    "old_env": OLD,
    "late_env": LATE,
}
ONE = EnvironmentRequest(num_envs=1)


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    yield
    for name in FILES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong_value:env", r"cannot be imported: ValueError: size must be odd \(.*wrong_value\.py, line 2\)"),
        ("wrong_syntax:env", r"cannot be imported: SyntaxError: .*wrong_syntax\.py, line 1"),
        ("wrong_exit", r"cannot be imported: SystemExit: 3 \(.*wrong_exit\.py, line 2\)"),
        ("wrong_name", r"cannot be imported: ImportError: cannot import name 'nothing_there'"),
        ("wrong_package", r"pip install scikit-learn"),
        ("wrong_env:fails", r"cannot be made: RuntimeError: no licence \(.*wrong_env\.py, line 2\)"),
        ("wrong_env:needs", r"missing 1 required positional argument: 'size'.*--env-kwargs"),
        ("wrong_env.fails", r"did you mean 'wrong_env:fails'\?"),
        ("json:loads", r"cannot be made: TypeError"),
        ("os:getcwd", r"is a str, neither a PettingZoo ParallelEnv nor an AECEnv"),
        (".nothing", r"is no name of an environment"),
        ("cv2_is_not_there.x", r"no package 'cv2_is_not_there' is installed$"),
        ("old_env:Old", r"cannot be reset: TypeError.*old_env\.py, line 13\); it was written for an older PettingZoo"),
        ("old_env:OldFromTheStart", r"cannot be made: TypeError.*AgentSelector as agent_selector"),
    ],
)
def test_the_cause_and_its_place_are_named(name, said):
    with pytest.raises(InputError, match=said) as caught:
        make_factory(name)(ONE)
    assert "\n" not in str(caught.value)


def test_a_module_that_a_package_holds_by_another_name_is_found(monkeypatch):
    package, held = types.ModuleType("holding"), types.ModuleType("somewhere.else_v1")
    package.__path__ = []
    held.parallel_env = lambda: 3
    package.else_v1 = held
    monkeypatch.setitem(sys.modules, "holding", package)
    package.__spec__ = types.SimpleNamespace(submodule_search_locations=[], name="holding")
    with pytest.raises(InputError, match="3 is a int"):
        make_factory("holding.else_v1")(ONE)


def test_missing_roms_come_with_ale_py(monkeypatch):
    from toy_environments import Countdown

    def make():
        raise OSError("rom pong is not installed. Please install roms using AutoROM tool")

    monkeypatch.setattr(sys.modules[Countdown.__module__], "make_pong", make, raising=False)
    with pytest.raises(InputError, match=re.escape('pip install ale-py, and --env-kwargs \'{"auto_rom_install_path"')):
        make_factory("toy_environments:make_pong")(ONE)


def test_spaces_that_exist_only_after_a_reset_are_read_then():
    assert make_factory("late_env:Late")(ONE).spec.agents == ("agent_0", "agent_1")
