"""Plans: documents that merge with their places, defaults, digests, differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from online_uda._documents import nested, overlaid, part
from online_uda.config import NUMBERS_UNTOUCHED, RunConfig, RunPlan, differences, find_method
from online_uda.errors import UserError
from online_uda.inputs import frame_size, open_inputs
from online_uda.resolve import resolve, resume_plan
from streams.errors import StreamError
from streams.sources.town import TOWN_SIZE
from streams.yaml_config import ConfigError, load_yaml
from tests.run_kit import SIZE, Kit, write_kit


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


def plan_of(kit: Kit, *overrides: str, **options: object) -> RunPlan:
    asked = {"schedule": str(kit.schedule), "network": str(kit.network), "method": "tent"}
    return resolve({**asked, **options}, overrides)


def stored(kit: Kit, plan: RunPlan) -> Path:
    path = kit.root / "config.yaml"
    path.write_text(yaml.safe_dump(plan.on_machine("cpu", 1, "fp32").as_dict()))
    return path


def test_documents_merge_and_remember_their_places(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("a: {x: 1, y: 2}\nb: [1, 2]\nc: 3\n")
    (tmp_path / "high.yaml").write_text("deep:\n  a: {y: 5, z: {w: 1}}\n  b: [7]\n")
    low, high = load_yaml(tmp_path / "low.yaml"), part(load_yaml(tmp_path / "high.yaml"), "deep")
    merged = overlaid(low, high)
    assert merged.data == {"a": {"x": 1, "y": 5, "z": {"w": 1}}, "b": [7], "c": 3}
    assert low.data["a"] == {"x": 1, "y": 2}
    places = {("a", "x"): "low.yaml:1:8", ("a", "y"): "high.yaml:2:10", ("a", "z", "w"): "high.yaml:2:20"}
    places |= {("b", 0): "high.yaml:3:7", ("c",): "low.yaml:3:4"}
    for path, place in places.items():
        assert merged.place(path) == f"{tmp_path}/{place}"
    assert merged.place(("a", "y"), of_key=True) == f"{tmp_path}/high.yaml:2:7"
    assert part(nested(merged, "top"), "top").place(("c",)) == merged.place(("c",))
    assert part(merged, "absent").data == {}
    with pytest.raises(StreamError, match=r"low\.yaml:3:4: c: expected keys and values"):
        part(merged, "c")


def test_defaults_are_the_storm_in_the_town() -> None:
    plan = resolve({})
    assert (plan.schedule.name, plan.method_name, plan.network_name) == ("cs2rain", "default", "segformer_b0_town")
    assert (plan.run.seed, plan.run.device, plan.run.precision, plan.run.tensorboard) == (0, "auto", "auto", True)
    assert frame_size(plan) == TOWN_SIZE


def test_names_become_paths_and_paths_absolute(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kit.root)
    plan = resolve({"schedule": "storm.yaml", "network": "network", "method": "tent", "source": "source"})
    assert (plan.run.schedule, plan.run.network, plan.run.source) == (
        str(kit.schedule), str(kit.network), str(kit.source),
    )  # fmt: skip
    assert plan.run.method == "tent"
    assert resolve({"schedule": "quick", "source": "town", "method": "tent"}).run.source == "town"


def test_a_config_object_and_flags_give_the_same_plan(kit: Kit) -> None:
    words = {"schedule": str(kit.schedule), "network": str(kit.network), "seed": "3", "size": "64x96", "frames": "2"}
    config = RunConfig(schedule=str(kit.schedule), network=str(kit.network), seed=3, size=(64, 96), frames=2)
    assert resolve(words) == resolve(config)
    with pytest.raises(ValidationError, match="Instance is frozen"):
        config.seed = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "value"),
    [("frames", 2), ("seed", 1), ("size", "64x64"), ("device", "cuda"), ("threads", 2), ("source", "town")],
)
def test_digest_covers_what_numbers_depend_on(kit: Kit, key: str, value: object) -> None:
    assert plan_of(kit).digest() != plan_of(kit, **{key: value}).digest()


def test_digest_covers_method_and_schedule_and_nothing_idle(kit: Kit) -> None:
    digests = [plan_of(kit, *o).digest() for o in ([], ["anchor.pull=0.1"], ["schedule.fps=9"], ["run.precision=bf16"])]
    assert len(set(digests)) == 4
    shown = ["run.save_video=x.mp4", "run.save_masks=x", "run.mask_ids=colour", "run.show=true", "run.serve=8080"]
    kept = [
        "run.snapshot_every=7",
        "run.tensorboard=false",
        "run.report=false",
        "run.stream_timeout=1",
        "run.workers=2",
        "run.beside=true",
    ]
    assert plan_of(kit, *shown, *kept, out="x").digest() == digests[0]
    assert len(NUMBERS_UNTOUCHED) == len(shown) + len(kept) + 1


def test_only_a_method_that_cannot_move_is_frozen(kit: Kit) -> None:
    assert plan_of(kit, method="frozen").is_frozen
    assert not plan_of(kit, method="tent").is_frozen


def test_differences_name_every_leaf() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": [1]}
    new = {"a": 1, "b": {"c": [1, 3], "d": "x"}, "e": [1, 2], "f": True}
    assert differences(old, new) == [
        "b.c.1: 2 in the run, 3 now", 'b.d: null in the run, "x" now', "e: [1] in the run, [1, 2] now",
        "f: null in the run, true now",
    ]  # fmt: skip
    assert differences(old, old) == []


def test_resume_takes_what_was_stored_whatever_happened_to_the_files(kit: Kit) -> None:
    plan = plan_of(kit, "anchor.pull=0.3", "schedule.fps=5", seed=2)
    path = stored(kit, plan)
    kit.schedule.write_text("classes: camvid11\nvisits: [{domain: x, folder: dusk}]\n")
    again = resume_plan(path, {})
    assert again.as_dict() == plan.on_machine("cpu", 1, "fp32").as_dict()
    assert again.digest() == plan.on_machine("cpu", 1, "fp32").digest()
    assert again.method_name == "tent"


def test_resume_accepts_the_same_wishes_and_idle_ones(kit: Kit) -> None:
    kit.schedule.write_text(kit.schedule.read_text() + "methods: {tent: {anchor: {pull: 0.4}}}\n")
    path = stored(kit, plan_of(kit, seed=2))
    again = {"seed": "2", "device": "auto", "schedule": str(kit.schedule), "method": "tent"}
    assert resume_plan(path, again).method.anchor.pull == 0.4
    assert resume_plan(path, {}, ["anchor.pull=0.4", "run.precision=fp32"]).run.seed == 2
    assert resume_plan(path, {}, ["run.snapshot_every=7"]).run.snapshot_every == 7
    with pytest.raises(UserError, match=r"run\.precision: \"fp32\" in the run, \"bf16\" now"):
        resume_plan(path, {}, ["run.precision=bf16"])
    with pytest.raises(UserError, match=r"method\.anchor\.pull: 0\.4 in the run, 0\.5 now"):
        resume_plan(path, {"method": "tent"}, ["anchor.pull=0.5"])
    with pytest.raises(ConfigError, match=r"anchor\.pul: unknown key"):
        resume_plan(path, {}, ["anchor.pul=0.5"])


def test_a_damaged_stored_configuration_is_named(kit: Kit) -> None:
    path = stored(kit, plan_of(kit))
    path.write_text(path.read_text().replace("seed: 0", "seed: zero"))
    with pytest.raises(ConfigError, match=r"config\.yaml:[0-9]+:[0-9]+: seed: expected a whole number"):
        resume_plan(path, {})
    path.write_text("run: {}\n")
    with pytest.raises(UserError, match="not the configuration of a run"):
        resume_plan(path, {})


def test_method_files_by_name_and_path(tmp_path: Path) -> None:
    assert find_method("tent").name == "tent.yaml"
    (tmp_path / "own.yaml").write_text("")
    assert find_method(str(tmp_path / "own.yaml")) == tmp_path / "own.yaml"
    with pytest.raises(UserError, match="did you mean 'tent'"):
        find_method("tnt")


def test_inputs_open_a_source_only_where_one_is_needed(kit: Kit) -> None:
    inputs = open_inputs(plan_of(kit))
    assert inputs.source is None
    assert inputs.size == SIZE
    assert len(inputs.stream) == 14
    asked = open_inputs(plan_of(kit, source=str(kit.source), size="64x96"))
    assert asked.source is not None
    assert asked.source[0].image.shape == (*asked.source[0].label.shape, 3) == (64, 96, 3)
    own = open_inputs(plan_of(kit, method="hamlet", source=str(kit.source)))
    assert own.source is not None
    assert own.source[0].image.shape == (*SIZE, 3)


def test_the_town_replays_as_many_images_as_the_buffer_holds_at_the_frames_size() -> None:
    plan = resolve({"schedule": "quick", "method": "hamlet", "size": "64x128"}, ["replay.frames=5"])
    source = open_inputs(plan).source
    assert source is not None
    assert len(source) == 5
    assert source[1].image.shape == (64, 128, 3)
