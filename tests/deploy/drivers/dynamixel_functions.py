"""What is used of the functions below vikashplus's driver of Dynamixels; a group of parameters is a dict here."""


def groupSyncWriteClearParam(group):  # noqa: N802 - its name there
    group.clear()
