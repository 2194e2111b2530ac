"""A real Slurm of one node on loopback: its own daemons, ports and directory, gone at the end."""

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from helpers.ports import free_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1
SlurmdParameters=config_overrides
MailProg=/bin/true
JobRequeue=0
KillWait=10
NodeName=localhost NodeAddr=127.0.0.1 NodeHostname={hostname} CPUs={cpus}
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""
"""JobRequeue=0: launchers have to ask for requeuing. cred_expire: how long a job waits after it."""


def missing():
    """Return why there can be no Slurm here; or ``None``."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "Slurm's daemons take root here"


@contextmanager
def running(cpus):
    """Start it and give the environment in which its commands find it; shut it down at the end.

    Args:
        cpus: of the node, whatever the machine has.
    """
    directory = Path(tempfile.mkdtemp(prefix="slurm-"))
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(directory / "slurm.conf")}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o755)  # whoever may use MUNGE's socket
        for name in ("state", "spool"):
            (directory / name).mkdir()
        hostname = subprocess.check_output(["hostname", "-s"], text=True).strip()
        controller, node = free_ports(2)
        (directory / "slurm.conf").write_text(
            CONFIGURATION.format(
                directory=directory, controller=controller, node=node, hostname=hostname, cpus=cpus
            )
        )
        key = directory / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = [
            f"--{name}-file={directory}/munge.{name}" for name in ("key", "pid", "log", "seed")
        ]
        munge = directory / "munge.socket"
        daemons = []
        for command, ready in (
            (["munged", "--foreground", f"--socket={munge}", *files], munge.exists),
            (["slurmctld", "-D", "-c"], lambda: _says("scontrol ping", environment)),
            (["slurmd", "-D", "-N", "localhost"], lambda: _says("sinfo -h -t idle", environment)),
        ):
            daemons.append(stack.enter_context(_daemon(command, environment, directory)))
            _wait_for(ready, daemons, directory)
        stack.callback(_cancel_all, environment)
        yield environment


@contextmanager
def _daemon(command, environment, directory):
    with (directory / f"{command[0]}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _cancel_all(environment):
    """End what still runs: the processes of a job outlive Slurm's daemons."""
    subprocess.run(["scancel", "--signal=KILL", "--full", "--user=root"], env=environment)
    subprocess.run(["scancel", "--user=root"], env=environment)
    end = time.monotonic() + 20
    while _says("squeue -h", environment) and time.monotonic() < end:
        time.sleep(0.2)


def _says(command, environment):
    done = subprocess.run(command.split(), env=environment, capture_output=True, text=True)
    return done.stdout.strip()


def _wait_for(ready, daemons, directory, seconds=60):
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end or any(daemon.poll() is not None for daemon in daemons):
            logs = [f"{log.name}:\n{log.read_text()[-3000:]}" for log in directory.glob("*.log")]
            raise RuntimeError("Slurm does not start\n" + "\n".join(logs))
        time.sleep(0.1)
