"""Which process this is, by the names that launchers set; which rows are its own."""

import pytest

from mlp_core.processes import Place, ProcessesError, check, first_host, launched, part, place

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29500",
}  # fmt: skip
SRUN = {
    "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "node[07-08]", "SLURM_JOB_ID": "4097",
}  # fmt: skip


def test_torchrun_and_srun_say_which_process_this_is():
    assert place(4, TORCHRUN) == Place(3, 4, 1, "a", 29500)
    assert place(4, SRUN) == Place(3, 4, 1, "node07", 61441)
    assert (launched(TORCHRUN), launched(SRUN), launched({})) == (4, 4, 1)


@pytest.mark.parametrize(
    "nodes, first",
    [("n1", "n1"), ("n1,n2", "n1"), ("n[001-015],b", "n001"), ("n[3,7-9]", "n3"), ("a,n[1]", "a")],
)
def test_the_first_host_of_a_list_of_nodes(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    "count, names, message",
    [
        (2, {}, "2 processes were asked for, but 1 was launched; start them with: torchrun"),
        (2, TORCHRUN, "2 processes were asked for, but 4 were launched"),
        (4, {**TORCHRUN, "RANK": "4"}, "process 4, expected 0 to 3"),
        (4, {**TORCHRUN, "WORLD_SIZE": "x"}, "WORLD_SIZE is 'x', expected a number"),
        (4, {"WORLD_SIZE": "4"}, "RANK is not set, as torchrun or srun set it"),
    ],
)
def test_what_does_not_fit_together_is_refused(count, names, message):
    with pytest.raises(ProcessesError, match=message):
        place(count, names)


def test_copies_that_are_not_connected_are_refused_unless_meant():
    for asked, connected, names in ((None, 1, {}), (None, 4, TORCHRUN), (1, 1, TORCHRUN),
                                    (None, 4, {}), (4, 4, {})):  # fmt: skip
        check(asked, connected, names)
    with pytest.raises(ProcessesError, match="4 processes were launched, and this one is not"):
        check(None, 1, TORCHRUN)
    with pytest.raises(ProcessesError, match="2 processes were asked for, and this one is not"):
        check(2, 1, {})
    with pytest.raises(ProcessesError, match="2 processes were asked for, but 4 are connected"):
        check(2, 4, TORCHRUN)


@pytest.mark.parametrize("size", [0, 1, 5, 8, 96])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_row_belongs_to_one_process(size, count):
    rows = range(size)
    assert [i for rank in range(count) for i in rows[part(size, rank, count)]] == [*rows]
