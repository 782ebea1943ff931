"""The one error every loader raises for data it cannot use."""


class DatasetError(ValueError):
    """A data set that is missing, damaged or of no supported form: one line that names the file."""
