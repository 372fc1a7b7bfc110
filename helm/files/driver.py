"""Runs one cluster as a Ray job: submits it, watches it, and stops it when this pod is stopped.

The job is `python -m cluster up --reload`, on Ray's head, which has the cluster's file and sees it
change: a change of pools is the job's to follow, and this process goes on. The job's log is on the
head; this process tells what becomes of the job. When the job ends by itself, this process ends
too, and Kubernetes starts another one, later and later where that happens again and again. A job
that still runs, because the pod of a driver before this one vanished, is watched from then on.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

ENTRYPOINT = "python -m cluster up --reload -c {}"
CONNECT_S = 600.0
WATCH_S = 2.0
SILENT_S = 60.0
UNKNOWN = "status code 404"
CLUSTER = "tandem/cluster"


class Driver:
    def __init__(self, environ, stopping):
        self._name = environ["TANDEM_CLUSTER"]
        self._pod = environ["POD_NAME"]
        self._address = environ["TANDEM_RAY_JOBS"]
        self._entrypoint = ENTRYPOINT.format(environ["TANDEM_CLUSTER_FILE"])
        self._state = Path(environ["TANDEM_STATE_DIR"])
        self._stop_s = float(environ["TANDEM_STOP_S"])
        self._stopping = stopping
        self._silent_since = None

    def run(self):
        """Until the job ends or this process is told to stop; the exit status."""
        self._state.mkdir(parents=True, exist_ok=True)
        self._mark("running", False)
        client = self._connect()
        if client is None:
            return 0
        job = self._take_over(client)
        if job is None:
            job = self._submit(client)
            say(f"{job} submitted to {self._address}: {self._entrypoint}")
        while not self._stopping.wait(WATCH_S):
            self._mark("alive", True)
            status = self._status(client, job)
            self._mark("running", status == JobStatus.RUNNING)
            if status is not None and status.is_terminal():
                say(f"{job} {status}: {client.get_job_info(job).message}")
                say(client.get_job_logs(job)[-4000:])
                return 1
        self._mark("running", False)
        say(f"stopping {job}: its requests may end")
        self._stop(client, job)
        return 0

    def _connect(self):
        """Ray's head may take its time, as long as its image does."""
        deadline = time.monotonic() + CONNECT_S
        while not self._stopping.is_set():
            self._mark("alive", True)
            try:
                return JobSubmissionClient(self._address)
            except (ConnectionError, RuntimeError) as error:
                if time.monotonic() > deadline:
                    raise
                say(f"{self._address} does not answer yet: {first_line(error)}")
            self._stopping.wait(WATCH_S)
        return None

    def _status(self, client, job):
        """None when Ray's head does not say it, which it may not for SILENT_S in a row."""
        try:
            status = client.get_job_status(job)
        except (OSError, RuntimeError) as error:
            now = time.monotonic()
            self._silent_since = now if self._silent_since is None else self._silent_since
            if UNKNOWN in str(error) or now - self._silent_since > SILENT_S:
                raise
            say(f"{self._address} does not tell of {job}: {first_line(error)}")
            return None
        self._silent_since = None
        return status

    def _take_over(self, client):
        """The job of a driver before this one, if it runs the same command; others are stopped."""
        found = None
        for job in self._running_jobs(client):
            if found is None and job.entrypoint == self._entrypoint:
                found = job.submission_id
                say(f"{found} of a driver before this one runs: it goes on")
            else:
                say(f"{job.submission_id} is of a driver before this one: stopping it")
                self._stop(client, job.submission_id)
        return found

    def _running_jobs(self, client):
        return [
            job
            for job in client.list_jobs()
            if job.metadata and job.metadata.get(CLUSTER) == self._name
            if job.submission_id and not job.status.is_terminal()
        ]

    def _submit(self, client):
        return client.submit_job(
            entrypoint=self._entrypoint,
            submission_id=f"{self._pod}-{time.time_ns() // 1_000_000}",
            metadata={CLUSTER: self._name},
            runtime_env={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(int(self._stop_s))}},
        )

    def _stop(self, client, job):
        client.stop_job(job)
        deadline = time.monotonic() + self._stop_s + 5
        while time.monotonic() < deadline:
            self._mark("alive", True)
            status = self._status(client, job)
            if status is not None and status.is_terminal():
                say(f"{job} stopped")
                return
            time.sleep(0.5)
        say(f"{job} has not stopped within {self._stop_s + 5:.0f} s")

    def _mark(self, name, wanted):
        """A file that the pod's probes look for."""
        file = self._state / name
        file.touch() if wanted else file.unlink(missing_ok=True)


def first_line(error):
    return (str(error) or type(error).__name__).splitlines()[0]


def say(line):
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main():
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    sys.exit(Driver(os.environ, stopping).run())


if __name__ == "__main__":
    main()
