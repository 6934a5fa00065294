"""The pipeline on a cluster: plans, arrays, gates and retries, on SLURM or on this machine's processes.

Special about it: the `.done` records on disk decide everything. Job ids and scheduler states only explain why something is
missing, so a cluster without accounting, a purged job or a killed gate costs nothing but the frame in hand.

    profile.py      what a cluster offers and what each phase asks for (jobs/profiles/*.toml)
    scheduler.py    every question put to SLURM, counted and bounded in time
    fit.py          whether a profile fits a cluster, and which one does
    plan.py         runs and immutable plan files: which scenes, in which array element
    estimate.py     seconds per frame as measured, packing of scenes, GPU hours
    submit.py       arrays through submitit: SLURM's executor or the local one
    worker.py       what an array task does: one phase script, watched; its records say how it ended
    queue_view.py   which scenes the queue holds, and the hours used
    failures.py     why scenes are unfinished, and what is retried
    stage_status.py what stands where in a stage, and the plans for what is next
    gate.py         after an array: retry, go on to the next stage, or stop and say why
    request.py      a submission as it is asked for
    preflight.py    what is refused before anything is queued
    dry_run.py      a submission that only tells
    commands.py     what jobs/*.sh call
    resume.py       `python -m pipeline resume`
    overview.py     what the queue adds to `python -m pipeline status`

It runs no phase itself: an array task starts the same scripts that a person types.
"""
