"""The plugin obeys the laws that every plugin must obey; at width 0 it changes nothing."""

from zs2kit_example import Example

from zs2kit.testing import check_plugin


def test_it_keeps_the_laws():
    check_plugin(Example(), neutral={"width": 0.0})
