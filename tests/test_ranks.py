"""Several processes that train one run: the numbers of one process, and an end for all when one of them fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ends_of_ranks import end_badly, wait_for_stop
from work_of_ranks import CASES, train_all, trained

from ssldet.errors import TrainingError
from ssldet.util.rank_processes import RankStopped, run_on_ranks
from ssldet.util.ranks import ALONE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes make of every strategy: started once, since starting takes longer than training."""
    made: dict[str, Any] = run_on_ranks(train_all, [tmp_path_factory.mktemp("ranks")], [CPU, CPU])
    return made


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_does(name: str, on_two: dict[str, Any]) -> None:
    """Losses of six steps, the log with its pseudo-labels and gradient norms, weights, running statistics, averages."""
    one, two = trained(name), on_two[name]
    assert two["clips"] == one["clips"]
    for term, values in one["losses"].items():
        assert two["losses"][term] == pytest.approx(values, rel=1e-5, abs=1e-5), term
    assert len(one["lines"]) == len(two["lines"])
    for ours, theirs in zip(one["lines"], two["lines"], strict=True):
        assert theirs["pseudo_labels"] == ours["pseudo_labels"]
        for part in ("losses", "parts", "gradient_norms"):
            assert theirs[part] == pytest.approx(ours[part], rel=1e-4, abs=1e-5), part
    assert one["state"].keys() == two["state"].keys()
    for what, value in one["state"].items():
        torch.testing.assert_close(two["state"][what], value, rtol=1e-3, atol=1e-4, msg=lambda m, w=what: f"{w}: {m}")


def test_one_process_gathers_what_it_has() -> None:
    rows = torch.arange(3)
    assert ALONE.gather(rows) is rows and list(ALONE.share(4)) == [0, 1, 2, 3]
    assert ALONE.from_first(lambda: 7) == 7 and not ALONE.any(False)


def test_a_strategy_that_keeps_to_what_one_process_saw_is_refused(on_two: dict[str, Any]) -> None:
    said = on_two["refused"]
    assert said.startswith("strategy/mean is not the same in all 2 processes") and "Progress.gather" in said


@pytest.mark.parametrize(
    ("how", "said"), [("error", r"rank 1 \(cpu\) failed: ValueError: no such luck"), ("kill", r"rank 1 .*SIGKILL")]
)
def test_one_that_fails_ends_all_with_its_message(how: str, said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        run_on_ranks(end_badly, [how], [CPU, CPU])


def test_all_leave_together_when_asked_to_stop() -> None:
    heard: list[str] = []
    with pytest.raises(RankStopped, match="stopped when asked"):
        run_on_ranks(wait_for_stop, [], [CPU, CPU], on_message=heard.append, stop=lambda: bool(heard))
    assert heard == ["at work"]
