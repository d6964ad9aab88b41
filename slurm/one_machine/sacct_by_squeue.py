"""A stand-in for `sacct` where no accounting runs: the same questions, answered from the controller's memory.

It knows a job only until MinJobAge seconds after its end, and no element of an array that was cancelled while waiting.
Runs by itself, without the project's packages, because it is started for every question.
"""

import argparse
import subprocess
import sys

FIELDS = {
    "jobid": "%i",
    "jobname": "%j",
    "partition": "%P",
    "state": "%T",
    "reason": "%r",
    "nodelist": "%N",
    "user": "%u",
    "submit": "%V",
    "start": "%S",
    "end": "%e",
    "elapsed": "%M",
    "timelimit": "%l",
    "alloccpus": "%C",
}
"""field of sacct -> squeue's letter"""
BETWEEN = "\x1f"
"""no name of a job has it"""


def main() -> None:
    """Answer one question. Leaves with 2 where it does not know the field asked for."""
    options = _arguments()
    names = [name.split("%")[0] for name in options.format.split(",")]
    unknown = [name for name in names if name.lower() not in FIELDS]
    if unknown:
        sys.exit(f"sacct (by squeue): error: no field {unknown[0]}; there are: {', '.join(FIELDS)}")
    # All jobs: asked for one that it has forgotten, squeue would fail, where sacct just leaves it out.
    letters = BETWEEN.join(["%i", *(FIELDS[name.lower()] for name in names)])
    command = ["squeue", "--noheader", "--all", "--states=all", f"--format={letters}"]
    if options.array:
        command.append("--array")
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        sys.exit(answer.stderr.strip() or f"squeue left with {answer.returncode}")
    if not options.noheader:
        print("|".join(names))
    wanted = {job for jobs in options.jobs for job in jobs.split(",")}
    for line in answer.stdout.splitlines():
        job, *values = line.split(BETWEEN)
        if not wanted or job in wanted or _array_of(job, wanted):
            print("|".join(values))


def _array_of(job: str, wanted: set[str]) -> bool:
    """Whether an array's row, 12_3 or 12_[4-9%2], answers the question for 12; the latter also for any of 12_*."""
    array, _, element = job.partition("_")
    return array in wanted or (element.startswith("[") and any(name.startswith(f"{array}_") for name in wanted))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sacct", description=__doc__, allow_abbrev=False)
    parser.add_argument("-j", "--jobs", action="append", default=[])
    parser.add_argument("-o", "--format", default="JobID,JobName,Partition,State")
    parser.add_argument("-n", "--noheader", action="store_true")
    parser.add_argument("-a", "--array", action="store_true")
    # what would change nothing here
    parser.add_argument("-P", "--parsable2", action="store_true")
    parser.add_argument("-X", "--allocations", action="store_true")
    parser.add_argument("-D", "--duplicates", action="store_true")
    parser.add_argument("-S", "--starttime")
    return parser.parse_args()


if __name__ == "__main__":
    main()
