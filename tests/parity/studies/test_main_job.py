"""The main job: which process climbs which pair."""

import io

from rich.console import Console

from parity.checking import Verdict
from parity.config import CheckConfig
from parity.studies import main_job

SAMPLE = CheckConfig(data="sample")


def on_a_tpu(monkeypatch, climbed):
    def no_process(*given, **named):
        raise AssertionError("a TPU takes one process")

    monkeypatch.setattr(main_job, "_on_tpu", lambda device: True)
    monkeypatch.setattr(main_job, "Child", no_process)
    monkeypatch.setattr(main_job, "climbed", climbed)
    return main_job.run(SAMPLE, Console(file=io.StringIO()))


def test_a_tpu_has_one_process_and_the_pairs_climb_in_turn(monkeypatch):
    report = on_a_tpu(
        monkeypatch, lambda tell, config, data, name: (Verdict(name, (), {}, {}), False)
    )
    assert [verdict.pair for verdict in report.verdicts] == ["scratch", "mlp"]
    assert not report.interrupted


def test_a_pair_that_an_interrupt_came_before_does_not_climb(monkeypatch):
    begun = []

    def stopped(tell, config, data, name):
        begun.append(name)
        return Verdict(name, (), {}, {}), True

    report = on_a_tpu(monkeypatch, stopped)
    assert begun == ["scratch"] and report.interrupted
    assert [verdict.pair for verdict in report.verdicts] == ["scratch", "mlp"]
