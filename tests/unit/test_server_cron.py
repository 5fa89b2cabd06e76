import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtune.errors import UserError
from pipelines.server.schedules import next_starts, six_fields


@pytest.mark.parametrize(
    ("expression", "six"),
    [
        ("0 3 * * 1", "0 0 3 * * 1"),
        ("  */5  *  * * ? ", "0 */5 * * * ?"),
        ("30 0 3 * * MON-FRI", "30 0 3 * * MON-FRI"),
        ("0 3 1,15 jan-mar *", "0 0 3 1,15 jan-mar *"),
        ("0 3 * * 1/2", "0 0 3 * * 1/2"),
        ("7 7 7 7 *", "0 7 7 7 7 *"),
    ],
)
def test_five_fields_become_six(expression: str, six: str) -> None:
    assert six_fields(expression) == six


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "wants 5 or 6 fields, not 0"),
        ("@daily", "wants 5 or 6 fields, not 1"),
        ("0 3 * *", "wants 5 or 6 fields, not 4"),
        ("0 0 3 * * * 2027", "wants 5 or 6 fields, not 7"),
        ("60 3 * * *", "cannot be read"),
        ("0 25 * * *", "cannot be read"),
        ("0 3 * * FRE", "cannot be read"),
        ("0 3 L * *", "Kubeflow does not know L"),
        ("0 3 * * 1#2", "Kubeflow does not know 1#2"),
        ("0 3 ** * *", "Kubeflow does not know **"),
        ("0 3 * * 7", "Sunday is 0"),
        ("0 3 * * 5-7", "Sunday is 0"),
        ("0 3 31 2 *", "there is no such day in any year"),
    ],
)
def test_what_kubeflow_would_not_take_is_refused(expression: str, why: str) -> None:
    with pytest.raises(UserError, match=re.escape(why)) as raised:
        six_fields(expression)
    assert str(raised.value).startswith(f"cron '{expression}': ")


@given(st.integers(0, 59), st.integers(0, 23), st.integers(0, 6))
def test_the_next_starts_are_at_the_time_that_was_meant(minute: int, hour: int, weekday: int) -> None:
    starts = next_starts(six_fields(f"{minute} {hour} * * {weekday}"), 3)
    assert [(start.second, start.minute, start.hour, start.isoweekday() % 7) for start in starts] == [
        (0, minute, hour, weekday)
    ] * 3
    assert {(later - earlier).days for earlier, later in pairwise(starts)} == {7}


@given(st.text(alphabet="0123456789*/,-? LW#MONJAN", max_size=20))
def test_any_text_is_taken_whole_or_refused_in_one_line(text: str) -> None:
    try:
        six = six_fields(text)
    except UserError as error:
        refusal = str(error)
    else:
        assert len(six.split()) == 6
        return
    assert "\n" not in refusal
