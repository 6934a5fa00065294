"""Whether a cluster has what a profile asks for, and which of the shipped profiles is made for it."""

from pipeline.checkout import checkout
from pipeline.cluster.profile import Profile, profile_path
from pipeline.cluster.scheduler import Partition
from pipeline.errors import UsageError


def check_fits(profile: Profile, partitions: dict[str, Partition], phases: tuple[str, ...]) -> None:
    """Whether what a profile asks for exists on this cluster.

    Raises:
        UsageError: names the phase, what it asks for, what there is and what to change.
    """
    edit = f"choose another --profile or edit {profile.file}"
    for phase in phases:
        wants = profile.resources(phase)
        if not wants.partition:
            continue
        offers = partitions.get(wants.partition)
        if offers is None:
            there = ", ".join(sorted(partitions)) or "none"
            raise UsageError(
                f"profile {profile.name!r} sends {phase} to partition {wants.partition!r}, which this cluster does not "
                f"have; its partitions: {there}; {edit}"
            )
        where = f"profile {profile.name!r}: {phase} asks partition {wants.partition!r} for"
        if wants.gpus > offers.gpus:
            has = f"no more than {offers.gpus}" if offers.gpus else "none"
            raise UsageError(f"{where} {wants.gpus} GPU a task, and its nodes have {has}; {edit}")
        if wants.cpus > offers.cpus:
            raise UsageError(f"{where} {wants.cpus} CPUs a task, and its nodes have {offers.cpus}; {edit}")
        if wants.mem_gb > offers.mem_gb:
            raise UsageError(f"{where} {wants.mem_gb:g} GB a task, and its nodes have {offers.mem_gb:.0f} GB; {edit}")
        if offers.max_minutes is not None and wants.minutes > offers.max_minutes:
            raise UsageError(f"{where} {wants.hours:g} h, and its limit is {offers.max_minutes / 60:g} h; {edit}")


def detect_profile(partitions: dict[str, Partition]) -> str:
    """The shipped profile whose partitions this cluster has.

    Raises:
        UsageError: none fits.
    """
    if "workq" in partitions and "gpu" not in partitions:
        return "isambard"
    if {"gpu", "cpu"} <= set(partitions):
        return "generic"
    shipped = "jobs/profiles/generic.toml" if checkout() else profile_path("generic")
    raise UsageError(
        f"no profile fits this cluster's partitions ({', '.join(sorted(partitions)) or 'none'}): copy "
        f"{shipped} to jobs/profiles/NAME.toml, put your partitions in, and say --profile NAME or export "
        f"BOKEHFLOW_PROFILE=NAME"
    )
