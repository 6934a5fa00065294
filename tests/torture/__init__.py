"""An attack on the pipeline's promises, seeded and reproducible by case number: `make torture`.

machine.py     processes in sessions and namespaces, small disks, what is left running
subjects.py    what is disturbed: phases 2, 3, 5 and 6, apply_bokeh, the trainer
disturb.py     kills, stops past the lease, second workers, namespaces, full and read-only disks, links
campaign.py    rounds of disturbances, each ended by an undisturbed run that is compared byte by byte
mutations.py   how bytes, JSON and arrays are damaged
formats.py     every format that is read, with a sample and its readers
fuzz.py        mutated inputs through those readers, watched for time and memory
__main__.py    the command and its closing table
"""
