"""The filter obeys the laws that every filter must obey; at length 0 it changes nothing."""

from zs2kit_example import Example

from zs2kit.testing import check_filter


def test_it_keeps_the_laws():
    check_filter(Example(), neutral={"length": 0.0})
