"""The files and trackers of a training run, written by its first rank: before it, while it goes on, and in the end."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from marl.checkpoints.checkpoint import list_checkpoints
from marl.checkpoints.checkpointer import AsyncCheckpointer, Checkpointer
from marl.core import Communicator
from marl.counters import Counter
from marl.distributed.broadcast import from_root
from marl.errors import InputError
from marl.experiments.config import Result
from marl.experiments.training_loop import FINAL
from marl.launchers.console import describe_evaluation, warn
from marl.launchers.reports.drawing import is_drawn
from marl.launchers.reports.trackers import Trackers, make_trackers
from marl.launchers.run.config_comparison import SCHEDULE_FIELDS, refuse_other_config
from marl.launchers.run.run_directory import RunDirectory
from marl.launchers.supervision.supervisor import rank_folder
from marl.launchers.supervision.watchdog import make_folder
from marl.launchers.training.options import ImageReading, TrainOptions
from marl.loggers import JournalLogger, MultiLogger, TerminalLogger
from marl.loggers.journal import plain_number

_MAY_DIFFER_ON_RESUME: Final = (
    *SCHEDULE_FIELDS,
    "exploitability_every",
    "recipe",
    "env_failures",
    "device",
    "algorithm.replay.checkpoint",
)


def _what_is_done(run: RunDirectory, options: TrainOptions[Any], config: dict[str, Any]) -> str | None:
    """A line to print, where there is nothing left to do; InputError where the run has another configuration."""
    refuse_other_config(run, config, ignore=_MAY_DIFFER_ON_RESUME)
    done = _steps_of_finished(run)
    if done < options.steps:
        return None
    return f"{run.path} is finished: {done:,} of {options.steps:,} steps; --steps with more lengthens it"


def _steps_of_finished(run: RunDirectory) -> int:
    """Environment steps of a run that came to its end; -1 of one that did not."""
    try:
        summary = run.summary or {}
        return int(summary.get("env_steps", -1))
    except (InputError, TypeError, ValueError):  # a damaged summary is written anew
        return -1


class RunRecorder:
    """Writes a run's files and trackers, on the first rank: run directory, journal, trackers and checkpoints.

    Where the first rank dies and others continue, the next one opens them; where it lives, they stay open.

    Args:
        path: the run directory; it exists where the run is to be resumed.
        options: of the command.
        config: the content of ``config.json``.
        title: printed at the beginning.
        held: takes the lock of the run directory.
        watched: whether ranks write down what they do.
    """

    def __init__(
        self,
        path: Path,
        options: TrainOptions[Any],
        config: dict[str, Any],
        title: str,
        held: contextlib.ExitStack,
        *,
        watched: bool,
    ) -> None:
        self._path, self._options, self._config, self._title = path, options, config, title
        self._held, self._watched = held, watched
        self._code = 1
        self._journal: JournalLogger | None = None
        self._trackers: Trackers | None = None
        self._claimed: RunDirectory | None = None
        self._terminal: TerminalLogger | None = None
        self.run: RunDirectory | None = None
        self.logger: MultiLogger | None = None
        self.checkpointer: AsyncCheckpointer | None = None

    def claim(self) -> str | None:
        """Holds the run directory, before anything is decided by what is in it; on the first rank.

        Returns:
            A line to print, where there is nothing left to do; else None.

        Raises:
            InputError: there is no run to resume, it has another configuration, another process works on it, or a run
                would be overwritten.
        """
        if not self._options.resume:
            self._claimed = self._held.enter_context(RunDirectory.claimed(self._path))
            return None
        run = RunDirectory.open(self._path)
        finished = _what_is_done(run, self._options, self._config)
        if finished is None:
            self._held.enter_context(run.locked())
            # Whoever held it until now may have come to the end.
            finished = _what_is_done(run, self._options, self._config)
            self._claimed = run
        if finished is not None:
            # A process that was killed at the very end may have left them.
            with (
                contextlib.suppress(InputError),
                run.locked(patience=0.0) if self._claimed is None else contextlib.nullcontext(),
            ):
                shutil.rmtree(rank_folder(run.path), ignore_errors=True)
        return finished

    def begins_anew(self) -> bool:
        """Returns whether a resumed run has nothing to go on from; on the first rank, which holds it."""
        # A run that was killed before its first checkpoint begins anew; one that lost its checkpoints does not.
        return not list_checkpoints(self._path / "checkpoints") and not (self._path / "summary.json").exists()

    def open(self, communicator: Communicator, counter: Counter, reading: ImageReading, *, again: bool) -> None:
        """Opens everything on the first rank, or cuts it back to where the experiment is. Collective.

        Args:
            communicator: the ranks.
            counter: where the experiment is.
            reading: of images, which the run's configuration keeps.
            again: whether some rank has opened the run before.
        """
        from_root(communicator, lambda: self._open(again=again))
        run = self.run
        if run is None:
            return
        # A run that was ended in its final evaluation evaluates once more.
        repeated = FINAL if counter.env_steps >= self._options.steps else None
        if self._journal is not None:
            self._journal.truncate_after(counter.updates, repeated=repeated)
            return
        ranks = f"{communicator.size} rank{'s' * (communicator.size > 1)}"
        print(f"{self._title}, {ranks}, into {run.path}", flush=True)
        if reading.line is not None:
            print(reading.line, flush=True)
            decided = {**self._config["algorithm"], "convolutions": reading.convolutions}
            self._config = {**self._config, "algorithm": decided}
            run.write_config(self._config)
        self._journal = JournalLogger(run.metrics)
        self._journal.truncate_after(counter.updates, repeated=repeated)
        self._trackers = make_trackers(
            self._options,
            run,
            resume=self._options.resume or again,
            resume_at=counter.env_steps or None,
            group=f"{self._config['name']} {self._config['env']}",
        )
        self._terminal = TerminalLogger(self._options.steps)
        self.logger = MultiLogger([self._journal, *self._trackers.loggers, self._terminal])
        self.checkpointer = AsyncCheckpointer(
            Checkpointer(run.checkpoints, keep=self._options.keep_checkpoints, before=self._journal.sync)
        )

    def _open(self, *, again: bool) -> None:
        run = self.run
        if run is None:
            run = self._claimed
            if run is None:  # the rank that held it is dead
                run = RunDirectory.open(self._path)
                self._held.enter_context(run.locked())
            self._held.callback(self.clean_up)
            if self._options.resume or again:
                run.write_config(self._config)
            else:
                run.begin(self._config)
        if self._watched:
            make_folder(rank_folder(self._path))
        self.run = run

    def tell(self, what: str, done: int, total: int) -> None:
        """Shows the progress of work between updates; see ``TrainingTask.progress``."""
        if self._terminal is not None:
            self._terminal.tell(what, done, total)

    def fail(self, error: BaseException, *, refused: bool) -> None:
        """Finishes the checkpoint that is being written, and says how to continue.

        Args:
            error: what ended the run.
            refused: whether it is about wrong input.

        Raises:
            InputError: there is no checkpoint yet; the message says so, and why the run ended.
        """
        if self.checkpointer is not None:
            _finish_writing(self.checkpointer)
        if self.run is not None and refused and (self._options.resume or not discard_empty_run(self.run)):
            _say_how_to_go_on(self.run, error)

    def close(self, code: int) -> None:
        """Closes everything that is open, with the exit code."""
        wandb = None if self._trackers is None else self._trackers.wandb
        if wandb is not None and self.run is not None:
            newest = Checkpointer(self.run.checkpoints).latest
            if newest is not None and code == 0:
                wandb.log_artifact(newest, self.run.path.resolve().name)
            wandb.close(code)
        if self.logger is not None:
            try:
                self.logger.close()
            except InputError:
                raise  # the journal could not be written
            except Exception as error:
                warn(f"closing a logger raised {type(error).__name__}: {error}; the journal has all rows")
        self._code = code

    def report(self, result: Result, communicator: Communicator, curve: str) -> None:
        """Writes the summary, draws the curve, and prints the results.

        Args:
            result: of training.
            communicator: the ranks.
            curve: the metric whose curve is drawn.
        """
        run = self.run
        if run is None:
            return
        counter = result.counter
        if result.stopped:
            print(f"stopped after {counter.env_steps:,} steps; go on with --resume --out {run.path}", flush=True)
            return
        summary: dict[str, Any] = {} if result.evaluation is None else dict(result.evaluation.summary())
        _write_summary(run, result, summary, communicator.size)
        keys = (*result.measured, curve, "episode_return/mean")
        drawn = bool(counter.episodes) and is_drawn(run.learning_curve.name, lambda: _draw_curve(run, keys))
        if summary:
            assert result.evaluation is not None
            print(f"evaluation: {describe_evaluation(summary, result.evaluation.mode)}", flush=True)
        if result.measured:
            print(", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in result.measured.items()))
        picture = f", {run.learning_curve.name}" * drawn
        print(f"saved in {run.path}: config.json, metrics.jsonl, checkpoints/, summary.json{picture}", flush=True)

    def clean_up(self) -> None:
        """Removes the files of ranks, unless they tell how a rank failed; called last of all."""
        if self._code != 1:
            shutil.rmtree(rank_folder(self._path), ignore_errors=True)


def discard_empty_run(run: RunDirectory) -> bool:
    """Removes a run that was refused before it had anything to show, so that --out can be used again."""
    if list_checkpoints(run.checkpoints) or (run.metrics.exists() and run.metrics.stat().st_size):
        return False
    shutil.rmtree(run.path, ignore_errors=True)
    return True


def _write_summary(run: RunDirectory, result: Result, summary: dict[str, Any], ranks: int) -> None:
    counter = result.counter
    run.write_summary(
        {
            **{key: plain_number(value) for key, value in (summary | dict(result.measured)).items()},
            "env_steps": counter.env_steps,
            "env_steps_per_second": counter.env_steps / max(counter.wall_seconds, 1e-9),
            "wall_seconds": counter.wall_seconds,
            "updates": counter.updates,
            "episodes": counter.episodes,
            "ranks": ranks,
        }
    )


def _draw_curve(run: RunDirectory, keys: Sequence[str]) -> None:
    """Draws the first of these metrics that the run has."""
    from marl.launchers.reports.curves import plot_runs

    for key in keys[:-1]:
        # A league whose player only ever met itself has no scores.
        with contextlib.suppress(InputError):
            plot_runs([run.path], run.learning_curve, key=key)
            return
    plot_runs([run.path], run.learning_curve, key=keys[-1])


def _finish_writing(checkpointer: AsyncCheckpointer) -> None:
    """Waits for the checkpoint that is being written while the run fails; says so if that fails too."""
    try:
        checkpointer.close()
    except InputError as error:
        warn(str(error))


def _say_how_to_go_on(run: RunDirectory, error: BaseException) -> None:
    if not list_checkpoints(run.checkpoints):
        raise InputError(f"{error}; there is no checkpoint yet, so --resume begins the run anew") from error
