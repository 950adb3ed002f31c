"""How a training process ends. Apart from what uses them, since launchers need no torch."""

EXIT_DONE = 0  # the last step is done and the weights are exported
EXIT_FAILED = 1  # an error; starting again meets it again
EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: stopped with its state saved, or hung; start it again
EXIT_FORCED = 128  # plus the signal's number: a second signal; start again from the checkpoint before
