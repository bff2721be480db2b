"""What the suites of reported faults share."""

import pytest

from kvae_nb.core.errors import InputError


def refuses(run, *args, **kwargs):
    "Asserts that the call ends in one sentence, an `InputError`."
    with pytest.raises(InputError):
        run(*args, **kwargs)
