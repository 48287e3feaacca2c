"""One job of several processes: who makes what, and how all of it ends when one of them does.

`jax.distributed` joins the processes of a cluster. Where a mesh fits into one process, prompts are
divided over them and nothing crosses hosts but the news that all is done; else, or where there are
fewer prompts than processes, all of them search together, and branches are divided. Every process
keeps a sign of life with the first one's service; whoever misses one, ends.
"""

import atexit
import contextlib
import itertools
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from absl import flags

from experiments.cli import EXIT_BAD_INPUT, EXIT_FAULT, EXIT_INTERRUPTED, RunFault, UsageError

PATIENCE = 60
_BEAT = 0.5
_RESTART = "the same command in all processes goes on from what is done"
_jobs = itertools.count()
_FOREVER = 10**9  # milliseconds; what a process waits for may take days, and a dead one is noticed
# What launchers set, and how many processes it says there are.
_CLUSTERS: Mapping[str, Callable[[str], int]] = {
    "SLURM_STEP_NUM_TASKS": int,
    "OMPI_COMM_WORLD_SIZE": int,
    "TPU_WORKER_HOSTNAMES": lambda names: len(names.split(",")),
    "MEGASCALE_NUM_SLICES": int,
}


def define(values: flags.FlagValues) -> None:
    """Flags of a program that many processes can run."""
    flags.DEFINE_bool(
        "distributed",
        None,
        "join the processes of a cluster (default: where SLURM, Open MPI or GKE started several)",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "patience",
        PATIENCE,
        "seconds without a sign of life of another process after which a job ends",
        lower_bound=2,
        flag_values=values,
    )


@dataclass(frozen=True)
class Team:
    """The processes of a job.

    Attributes:
      index, count: of this process, and of all.
      job: which of those that these processes run.
    """

    index: int = 0
    count: int = 1
    job: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes what is there once."""
        return self.index == 0

    def agree(self, name: str, value: str = "") -> str:
        """The first process's value, in all of them.

        Raises:
          RunFault: the first process has ended.
        """
        if self.count == 1:
            return value
        with _talking():
            key = f"{self.job}/agreed/{name}"
            if self.leads:
                _client().key_value_set(key, f"={value}")
            return _client().blocking_key_value_get(key, _FOREVER)[1:]

    def wait(self, name: str) -> None:
        """Until all processes have come here.

        Raises:
          RunFault: one of them has ended.
        """
        if self.count > 1:
            with _talking():
                _client().wait_at_barrier(f"{self.job}/{name}", _FOREVER)


class SharedStore:
    """Keeps a search that all processes make together: the first one writes, and all read."""

    def __init__(self, store, team: Team, name: str):
        """Touches nothing yet.

        Args:
          store: where the search is kept, see `tts_jax.search.Store`.
          team: the processes.
          name: of the search in this job.
        """
        self._store, self._team, self._name = store, team, name

    def load(self):
        """What was saved last; None if nothing was.

        Raises:
          UsageError: not all processes see the same.
        """
        saved = self._store.load()
        rounds = str(len(saved.rounds) if saved else 0)
        there = self._team.agree(f"rounds of {self._name}", rounds)
        if rounds != there:
            raise UsageError(
                f"process {self._team.index} finds {rounds} saved rounds where process 0 finds "
                f"{there}; choose a --workdir that all hosts see"
            )
        return saved

    def save(self, saved) -> None:
        """Has the first process keep this."""
        if self._team.leads:
            self._store.save(saved)


def in_cluster() -> bool:
    """Whether a launcher has started several processes."""
    for name, count in _CLUSTERS.items():
        with contextlib.suppress(KeyError, ValueError):
            if count(os.environ[name]) > 1:
                return True
    return False


@contextlib.contextmanager
def job(options: flags.FlagValues) -> Iterator[Team]:
    """Joins the other processes, if there are any, for the length of a program.

    Args:
      options: the flags of `define`.

    Raises:
      UsageError: no cluster is found.
      RunFault: the others cannot be reached, or one of them has ended.
    """
    if not (in_cluster() if options.distributed is None else options.distributed):
        yield Team()
        return
    from jax.errors import JaxRuntimeError  # after --help

    team, over = _join(options.patience), threading.Event()
    if team.count == 1:
        yield team
        return
    arguments = team, options.patience, over
    threading.Thread(target=_watch, args=arguments, daemon=True).start()
    try:
        yield team
        team.wait("the end")
    except BaseException as error:
        over.set()
        _leave_at_exit(error)
        _tell(team, error)
        if isinstance(error, JaxRuntimeError):  # of devices that wait for those of another process
            line = f"process {team.index} of {team.count}: {_line(error)}; {_RESTART}"
            raise RunFault(line) from error
        raise
    over.set()


def _join(patience: int) -> Team:
    import jax

    if not jax.distributed.is_initialized():
        try:
            jax.distributed.initialize(
                initialization_timeout=max(patience, 300),
                heartbeat_timeout_seconds=patience + 100,  # ends with a trace, after `_watch`
            )
        except ValueError as error:
            raise UsageError(
                f"--distributed finds no cluster: {error}; start one process on each host by "
                "SLURM, Open MPI, GKE or on a TPU slice"
            ) from error
        except RuntimeError as error:
            raise RunFault(f"the processes of the job do not meet: {_line(error)}") from error
    return Team(jax.process_index(), jax.process_count(), next(_jobs))


def _client():
    from jax._src.distributed import global_state  # jax offers its service by no other name

    return global_state.client


def _watch(team: Team, patience: int, over: threading.Event) -> None:
    """Gives signs of life, and ends this process when another one gives none."""
    changed = dict.fromkeys(map(str, range(team.count)), (None, 0))
    for beat in itertools.count():
        if over.wait(_BEAT):
            return
        try:
            own = f"{team.job}/alive/{team.index}"
            _client().key_value_set(own, str(beat), allow_overwrite=True)
            for key, value in _client().key_value_dir_get(f"{team.job}/alive/"):
                if changed[number := key.rpartition("/")[2]][0] != value:
                    changed[number] = value, beat
            faults = [value for _, value in _client().key_value_dir_get(f"{team.job}/fault/")]
        except Exception as error:
            faults = [f"the first process of {team.count} has ended: {_line(error)}"]
        faults += [
            f"process {number} of {team.count} gives no sign of life for {patience} s"
            for number, (_, last) in changed.items()
            if (beat - last) * _BEAT > patience  # a machine that is slow beats slowly, too
        ]
        if faults and not over.is_set():
            print(f"error: {faults[0]}; {_RESTART}", file=sys.stderr, flush=True)
            os._exit(EXIT_FAULT)


def _tell(team: Team, error: BaseException) -> None:
    """Lets the others know why this process ends."""
    why = "is interrupted" if isinstance(error, KeyboardInterrupt) else f"fails: {_line(error)}"
    with contextlib.suppress(Exception):
        _client().key_value_set(f"{team.job}/fault/{team.index}", f"process {team.index} {why}")


def _leave_at_exit(error: BaseException) -> None:
    """Has this process end without the wait for the others that jax would begin."""
    code = EXIT_BAD_INPUT if isinstance(error, UsageError) else EXIT_FAULT
    if isinstance(error, KeyboardInterrupt):
        code = EXIT_INTERRUPTED

    def leave():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RunFault(f"another process has ended: {_line(error)}; {_RESTART}") from error


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:300]


def devices_for(mesh: Mapping[str, int], prompts: int | None = None) -> list:
    """The devices of this process, or those of all where they have to search together.

    Args:
      mesh: sizes of its axes, `config.mesh`.
      prompts: how many there are to divide; None for enough.
    """
    import jax

    wanted = math.prod(max(1, size) for size in mesh.values())
    few = prompts is not None and prompts < jax.process_count()
    return jax.devices() if few or wanted > jax.local_device_count() else jax.local_devices()


def check_own(mesh, what: str) -> None:
    """Refuses a mesh of several processes.

    Args:
      mesh: of a search.
      what: who needs one for each process, as in "a sweep divides its prompts".

    Raises:
      UsageError: it has devices of others.
    """
    from tts_jax.parallel import is_shared

    if is_shared(mesh):
        raise UsageError(
            f"{what} over processes, but a mesh of {mesh.size} devices does not fit into one "
            "process"
        )


def share(mesh, count: int) -> range:
    """Which of so many prompts this process searches for, alone or with all others."""
    import jax

    from tts_jax.parallel import is_shared

    if is_shared(mesh):
        return range(count)
    return range(jax.process_index(), count, jax.process_count())
