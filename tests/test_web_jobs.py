"""The jobs of the web page, without a browser, and what the page does to its folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zs2kit
from zs2kit.errors import UsageError, Zs2Error, receiving
from zs2kit.files import locked
from zs2kit.journal import saved
from zs2kit.testing import drawn_clip
from zs2kit.web.jobs import Job, Jobs, Models, Wanted
from zs2kit.web.views import job_list

COMMAND = Path(sys.executable).with_name("zs2kit")
FILTER: dict[str, Any] = {"work": "filter", "filters": {"smooth": {"factor": "2"}}}


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A clip where the page finds those that were uploaded."""
    (tmp_path / "uploads" / "ab12").mkdir(parents=True)
    return zs2kit.write(tmp_path / "uploads" / "ab12" / "disc.mp4", drawn_clip(3))


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    (tmp_path / "jobs").mkdir()
    made = Jobs(tmp_path / "jobs", tmp_path / "uploads", Models())
    yield made
    made.close()


def ended(job: Job) -> str:
    """Wait until a job has ended; return its state."""
    for _ in range(1200):
        if job.state not in ("waiting", "running"):
            break
        threading.Event().wait(0.05)
    return job.state


def test_an_upload_that_is_gone_costs_only_its_own_job(jobs: Jobs, upload: Path) -> None:
    wanted = Wanted(clip=str(upload), **FILTER)
    first = jobs.add(wanted)
    upload.unlink()  # as once a day
    with pytest.raises(UsageError, match=r"disc\.mp4 is no longer here; upload it again"):
        jobs.add(wanted)
    zs2kit.write(upload, drawn_clip(3))
    second = jobs.add(wanted)
    assert (ended(first), ended(second), first.says) == ("done", "done", "")


def test_uploads_that_no_job_uses_make_room(jobs: Jobs, upload: Path) -> None:
    size = upload.stat().st_size
    job = jobs.add(Wanted(clip=str(upload), **FILTER))
    assert ended(job) == "done"
    unused = upload.parent.with_name("cd34") / "old.mp4"
    unused.parent.mkdir()
    unused.write_bytes(bytes(1000))
    jobs.most = size + 1000
    assert jobs.room() == 1000  # a clip that a job uses counts once, and what none uses can go
    assert jobs.make_room(1000) and not unused.exists() and upload.exists()
    assert not jobs.make_room(1001) and upload.exists()
    jobs.remove(job)
    assert jobs.make_room(1001) and not upload.exists()


def test_further_prompts_count_from_the_first_frame_used(upload: Path) -> None:
    wanted = Wanted("edit", str(upload), first=1, prompt="spring", later=[(2, "summer")])
    assert wanted.how().prompt == {0: "spring", 1: "summer"}
    assert Wanted(**json.loads(json.dumps(asdict(wanted)))).how() == wanted.how()
    for later in ([(1, "summer")], [(3, "summer")]):
        with pytest.raises(UsageError, match="but the frames are 1 to 2; use one after 1"):
            replace(wanted, later=later).how()
    with pytest.raises(UsageError, match="start at the same frame"):
        replace(wanted, later=[(2, "summer"), (2, "autumn")]).how()
    with pytest.raises(UsageError, match="no prompt for the beginning"):
        replace(wanted, prompt="").how()
    text = Wanted("generate", prompt="spring", frames=9, later=[(8, "summer")])
    assert text.how().prompt == {0: "spring", 8: "summer"}


def test_a_filter_knows_the_cuts(jobs: Jobs, upload: Path) -> None:
    job = jobs.add(
        Wanted(clip=str(upload), **FILTER, settings={"cuts": "0:00.083"}, output={"codec": "ffv1"})
    )
    assert ended(job) == "done"
    made = [frame.image for frame in zs2kit.read(job.result)]
    assert np.array_equal(made[0], made[1])  # nothing is put in between two shots
    assert not np.array_equal(made[2], made[3])


def test_a_folder_that_is_no_job_is_left_alone(jobs: Jobs, upload: Path) -> None:
    (jobs.root / "0007").mkdir()
    (jobs.root / "0007" / "mine.txt").write_text("mine")
    assert jobs.add(Wanted(clip=str(upload), **FILTER)).folder == jobs.root / "0008"
    assert os.listdir(jobs.root / "0007") == ["mine.txt"]


def test_a_job_whose_folder_is_gone_holds_nobody_up(jobs: Jobs, upload: Path, tmp_path: Path) -> None:
    first = jobs.add(Wanted(clip=str(upload), **FILTER))
    ended(first)
    shutil.rmtree(first.folder)
    first.state = "failed"
    jobs.resume(first)
    second = jobs.add(Wanted(clip=str(upload), **FILTER))
    assert (ended(first), ended(second)) == ("failed", "done")
    assert "done" in job_list(jobs, first, tmp_path)


def test_a_job_that_was_stopped_before_it_began_does_nothing(jobs: Jobs, upload: Path) -> None:
    folder = jobs.root / "0001"
    folder.mkdir()
    job = Job(1, folder, Wanted(clip=str(upload), **FILTER))
    jobs.stop(job)
    job.run(jobs.models)
    assert job.state == "stopped" and not job.result.exists()
    jobs.resume(job)
    assert ended(job) == "done" and job.result.exists()


def test_a_damaged_journal_doesn_t_break_the_list(jobs: Jobs, upload: Path, tmp_path: Path) -> None:
    job = jobs.add(Wanted(clip=str(upload), **FILTER))
    ended(job)
    job.state = "stopped"
    journal = job.result.with_name(f".{job.result.name}.zs2kit")
    journal.mkdir()
    (journal / "journal.json").write_text("{")
    with pytest.raises(Zs2Error, match="damaged"):
        saved(job.result)
    assert ">stopped<" in job_list(jobs, job, tmp_path)


def test_jobs_of_another_version_are_left_out(upload: Path, tmp_path: Path) -> None:
    root = tmp_path / "jobs"
    for number, change in enumerate(
        [{}, {"output": {"codec": "new"}}, {"brush": "x"}, {"work": "paint"}, {"settings": {"brush": "3"}}]
    ):
        (root / f"{number:04}").mkdir(parents=True)
        wanted = {"clip": str(upload), **FILTER, **change}
        (root / f"{number:04}" / "job.json").write_text(json.dumps({"wanted": wanted, "state": "stopped"}))
    said: list[zs2kit.Notice] = []
    with receiving(said.append):
        jobs = Jobs(root, tmp_path / "uploads", Models())
    assert [job.number for job in jobs] == [4, 0] and job_list(jobs, None, tmp_path)
    assert [each.message.partition(" can't")[0] for each in said] == [
        str(root / f"000{i}") for i in (1, 2, 3)
    ]
    edit = jobs.find(4)
    assert edit is not None
    edit.wanted = replace(edit.wanted, work="edit")
    jobs.resume(edit)
    assert ended(edit) == "failed" and "Settings has no option 'brush'" in edit.says
    jobs.close()


def test_two_models_are_never_in_memory_at_once(tiny_folders: Mapping[str, Path]) -> None:
    one, other = (str(tiny_folders[each]) for each in ("epsilon", "v_prediction"))
    models = Models([one, other])
    waits, got = threading.Event(), threading.Event()

    def use() -> None:
        with models.use(other, (), waits.set):
            got.set()

    with models.use(one, (), lambda: None) as model, models.use(one, (), lambda: None) as same:
        assert model is same
        second = threading.Thread(target=use)
        second.start()
        assert waits.wait(30) and not got.is_set()
    assert got.wait(30)
    second.join()

    def give_up() -> None:
        raise zs2kit.Stopped("stopped")

    with models.use(one, (), lambda: None), pytest.raises(zs2kit.Stopped):
        models.use(other, (), give_up).__enter__()


def test_previews_end_with_the_jobs(upload: Path, tmp_path: Path, tiny_folders: Mapping[str, Path]) -> None:
    (tmp_path / "jobs").mkdir()
    jobs = Jobs(tmp_path / "jobs", tmp_path / "uploads", Models([str(tiny_folders["epsilon"])]))
    steps = {"num_inference_steps": "1000"}
    preview = jobs.add(Wanted("preview", str(upload), model=jobs.models.names[0], settings=steps))
    jobs.close()
    assert preview.state == "stopped"


def test_a_folder_has_one_page(tmp_path: Path) -> None:
    upload = tmp_path / "zs2kit-uploads" / "of another page.mp4"
    upload.parent.mkdir()
    upload.write_bytes(b"uploaded")
    (tmp_path / "jobs").mkdir()
    lock = os.open(tmp_path / "jobs" / "lock", os.O_RDWR | os.O_CREAT)
    assert locked(lock)
    over = subprocess.run([COMMAND, "web", "-o", tmp_path], capture_output=True, text=True)
    os.close(lock)
    assert over.returncode == 2 and upload.exists()
    assert over.stderr == f"zs2kit: error: another page uses {tmp_path}; name another folder: --out\n"
