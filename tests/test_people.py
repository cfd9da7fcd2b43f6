"""People: the bundled networks against LiteRT, several people, frames alone, and following them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import zs2kit
from zs2kit.bench.people import Scene
from zs2kit.people import Person, Tracker, draw_skeletons, find_people, silhouette, to_openpose
from zs2kit.people.convert import dense
from zs2kit.people.detection import Region, letterbox, tiles
from zs2kit.people.network import WEIGHTS
from zs2kit.people.pose import look, network, read_people
from zs2kit.people.tracking import one_euro
from zs2kit.puppets.skeleton import draw_skeleton

HERE = Path(__file__).parent / "people"
TURNS = {
    "upright": lambda image: image,
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "turned": lambda image: np.ascontiguousarray(np.rot90(image)),
}
LEFT_RIGHT = [0, 4, 5, 6, 1, 2, 3, 8, 7, 10, 9]  # BlazePose's points, as a mirror swaps them
LEFT_RIGHT += [each + 1 if each % 2 else each - 1 for each in range(11, 33)]


@pytest.fixture(scope="module")
def crop():
    """A woman who walks, of 256 by 256 pixels; people/NOTICE says whence."""
    return cv2.imread(str(HERE / "crop.png"))[..., ::-1].copy()


@pytest.fixture(scope="module")
def litert():
    with np.load(HERE / "litert.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def woman(crop):
    (people,) = find_people([crop])
    assert len(people) == 1
    return people[0]


def whole(image) -> Region:
    """The region that is the whole of a square picture."""
    return Region((len(image) - 1) / 2, (len(image) - 1) / 2, len(image), 0)


def apart(one, other) -> float:
    """How far apart two people's points are on average, in pixels."""
    return float(np.linalg.norm(one[:, :2] - other[:, :2], axis=1).mean())


@pytest.mark.parametrize("turn", TURNS)
def test_landmarks_are_those_of_litert(crop, litert, turn):
    image, expected = TURNS[turn](crop), litert[f"{turn} points"] - 0.5  # it counts from the pixel's edge
    (found,) = read_people(network("landmarks"), image, [whole(image)])
    assert np.abs(found.points[:, :2] - expected).max() < 0.5
    assert found.score == pytest.approx(litert[f"{turn} presence"], abs=0.01)
    (moved,) = read_people(network("landmarks"), np.roll(image, 2, axis=1), [whole(image)])
    assert np.abs(moved.points[:, :2] - expected).max() > 0.5  # the control


@pytest.mark.parametrize("turn", TURNS)
def test_silhouettes_are_those_of_litert(crop, litert, turn):
    image = TURNS[turn](crop)
    expected = litert[f"{turn} shape"].astype(np.float32)

    def shape(image):
        picture = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        return network("landmarks")(picture, "shape")[0][0, 0, ::4, ::4].sigmoid().numpy()

    assert np.abs(shape(image) - expected).max() < 0.01
    assert np.abs(shape(np.roll(image, 2, axis=1)) - expected).max() > 0.1  # the control


@pytest.mark.parametrize("turn", TURNS)
def test_detections_are_those_of_litert(crop, litert, turn):
    def sure(image):
        boxes, logits = network("detector")(letterbox(image, 224)[0], "boxes", "scores")
        scores = logits[0, :, 0].sigmoid().numpy()
        return boxes[0].numpy(), scores, np.flatnonzero(scores >= 0.5)

    boxes, scores, chosen = sure(TURNS[turn](crop))
    expected = litert[f"{turn} sure"]
    assert set(chosen) == set(expected)
    assert np.abs(scores[expected] - litert[f"{turn} scores"]).max() < 0.002
    assert np.abs(boxes[expected] - litert[f"{turn} boxes"]).max() < 0.1  # of 224 pixels
    moved, _, _ = sure(np.roll(TURNS[turn](crop), 2, axis=1))
    assert np.abs(moved[expected] - litert[f"{turn} boxes"]).max() > 0.1  # the control


def test_the_weights_come_with_their_licence_and_are_small():
    notice = (WEIGHTS / "NOTICE").read_text()
    assert "Apache License" in notice and "mediapipe 0.10.21" in notice
    files = {path.name for path in WEIGHTS.iterdir()}
    assert files == {"NOTICE", "detector.safetensors", "landmarks.safetensors"}
    assert all(name in notice for name in files - {"NOTICE"})
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 12.5e6


def test_sparse_weights_are_written_out():
    numbers = np.arange(1, 6, dtype=np.float16)
    segments, indices = np.array([0, 2, 2, 3, 5]), np.array([0, 2, 1, 0, 1])
    expected = [[[1, 0, 2], [0, 0, 0]], [[0, 3, 0], [4, 5, 0]]]
    np.testing.assert_array_equal(dense(numbers, [2, 2, 3], [2, 2, (segments, indices)]), expected)


def test_nobody_is_found_where_nobody_is():
    noise = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
    frames = [np.zeros((64, 64, 3), np.uint8), noise, np.full((300, 50, 3), 200, np.uint8)]
    assert find_people(frames) == [[], [], []]
    assert not silhouette(frames[0], []).any()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_picture_has_the_same_person(crop, woman, turns):
    (people,) = find_people([np.rot90(crop, -turns)])
    assert len(people) == 1
    points = people[0].points.copy()
    for _ in range(turns):  # back again
        points[:, 0], points[:, 1] = points[:, 1].copy(), 255 - points[:, 0]
    # Left and right may be taken for one another in a profile, so that only the spine is compared.
    spine = [points[pair, :2].mean(axis=0) for pair in ([11, 12], [23, 24])]
    expected = [woman.points[pair, :2].mean(axis=0) for pair in ([11, 12], [23, 24])]
    assert np.abs(np.array(spine) - expected).max() < 8
    assert np.abs(points[0, :2] - woman.points[0, :2]).max() < 8


def test_two_people_side_by_side_are_both_found(crop, woman):
    street = np.hstack([crop, crop[:, ::-1]])
    (people,) = find_people([street])
    assert len(people) == 2
    left, right = sorted(people, key=lambda person: person.region.x)
    assert apart(left.points, woman.points) < 6
    mirrored = right.points[LEFT_RIGHT].copy()
    mirrored[:, 0] = 511 - mirrored[:, 0]
    as_they_are = right.points.copy()
    as_they_are[:, 0] = 511 - as_they_are[:, 0]
    assert min(apart(mirrored, woman.points), apart(as_they_are, woman.points)) < 8
    assert apart(left.points, right.points) > 100  # the control
    mask = silhouette(street, people)
    for person in people:
        x, y = person.points[[11, 12, 23, 24], :2].mean(axis=0).round().astype(int)
        assert mask[y, x] > 0.9
    assert mask[:, 250:262].max() < 0.1  # between them
    assert mask.min() >= 0 and mask.max() <= 1 and mask.dtype == np.float32


def small_crowd(crop, columns=4):
    """Two rows of women, each 110 of 448 pixels in a grey picture."""
    small = cv2.resize(crop, (140, 140), interpolation=cv2.INTER_AREA)
    image = np.full((448, 1 + 200 * columns, 3), 128, np.uint8)
    for top in (50, 270):
        for column in range(columns):
            image[top : top + 140, 40 + 200 * column : 180 + 200 * column] = small[:, :: 1 - 2 * (column % 2)]
    return image


def test_small_people_are_found_on_finer_squares(crop):
    image = small_crowd(crop)
    (people,) = find_people([image])
    places = {(round((each.region.x - 110) / 200), round((each.region.y - 120) / 220)) for each in people}
    assert len(people) == len(places) == 8
    assert len(look(image, "cpu")) < 8  # the control: not finely
    mask = silhouette(image, people)
    for person in people:
        assert mask[round(person.region.y), round(person.region.x)] > 0.5


def test_frames_depend_on_themselves_alone(crop):
    frames = [crop, crop[:, ::-1], np.hstack([crop, crop])]
    alone = [find_people([frame])[0] for frame in frames]
    for together, apart in zip(find_people(frames), alone, strict=True):
        for one, other in zip(together, apart, strict=True):
            np.testing.assert_array_equal(one.points, other.points)


@pytest.mark.parametrize(
    ("size", "squares", "fine"),
    [
        ((100, 100), 0, 9),
        ((994, 1768), 3, 21),
        ((1920, 1080), 3, 21),
        ((10, 2000), 0, 0),
    ],
)
def test_pictures_are_looked_at_in_squares_too(size, squares, fine):
    assert len(tiles(*size)) == 1 + squares
    parts = tiles(*size, fine=True)
    assert parts[: 1 + squares] == tiles(*size) and len(parts) == 1 + squares + fine
    assert parts[0] == (0, size[0], 0, size[1])
    for side, count in ((min(size), squares), (min(size) // 2, fine)):
        lying = [part for part in parts[1:] if part[1] - part[0] == part[3] - part[2] == side]
        assert len(lying) == count
        half = side // 2
        # Whoever is half as long as a square lies whole in one of them.
        for top in range(0, size[0] - half, max(1, half // 3)) if count else ():
            for left in range(0, size[1] - half, max(1, half // 3)):
                assert any(
                    part[0] <= top and top + half <= part[1] and part[2] <= left and left + half <= part[3]
                    for part in lying
                )


def test_a_region_cuts_and_pastes():
    image = np.zeros((60, 80, 3), np.uint8)
    image[10:30, 40:70] = 255
    region = Region(54.5, 19.5, 40, 0.5)
    pasted = region.paste(region.cut(image, 40)[..., 0].astype(np.float32), 60, 80)
    assert np.abs(pasted[12:28, 45:65] - 255).max() < 1
    assert pasted[50:].max() == 0 == pasted[:, :20].max()
    np.testing.assert_allclose(region.place(np.array([0.5, 0.5])), (54.5, 19.5))
    upright = Region.around(np.array([5.0, 5.0]), np.array([5.0, 1.0]))
    assert upright.angle == 0 and upright.side == pytest.approx(10)


def test_openpose_gets_its_points(woman):
    body = to_openpose(woman.points)
    assert body.shape == (18, 3)
    np.testing.assert_array_equal(body[4, :2], woman.points[16, :2])  # the right wrist
    np.testing.assert_array_equal(body[11, :2], woman.points[23, :2])  # the left hip
    np.testing.assert_allclose(body[1, :2], woman.points[[11, 12], :2].mean(axis=0))  # the neck
    hidden = woman.points.copy()
    hidden[12, 2] = 0.1
    assert to_openpose(hidden)[[1, 2], 2].tolist() == [0, 0] and to_openpose(hidden)[5, 2] > 0
    drawn = draw_skeletons([body], 256, 256)
    np.testing.assert_array_equal(drawn, draw_skeleton(body, 256, 256))
    aside = body + np.float32([30, 0, 0])
    assert (draw_skeletons([body, aside], 256, 256) > 0).sum() > (drawn > 0).sum()
    assert not draw_skeletons([], 32, 32).any()


def walkers(frames, seed=0, noise=2.0):
    """Two people who walk to the right, trembling; the second comes late, and is away for three frames."""
    generator = np.random.default_rng(seed)
    shape = generator.uniform(-60, 60, (33, 2))
    scenes = []
    for index in range(frames):
        scene = []
        for number, x in enumerate((100, 400)):
            if number == 1 and (index < 5 or index in (12, 13, 14)):
                continue
            places = shape + np.array([x + 3 * index, 200]) + generator.normal(0, noise, (33, 2))
            points = np.column_stack([places, np.ones(33)]).astype(np.float32)
            scene.append(Person(points, 1.0, Region(x + 3 * index, 200, 200, 0)))
        scenes.append(scene[:: 1 if index % 2 else -1])  # in no order
    return scenes


def test_numbers_last():
    tracker = Tracker(rate=30)
    scenes = [tracker.link(scene) for scene in walkers(30)]
    for scene in scenes:
        for person in scene:
            assert person.number == (0 if person.region.x < 300 else 1)
    tracker.link([])
    for _ in range(20):  # longer than anybody is waited for
        tracker.link([])
    assert tracker.link(walkers(30)[-1])[0].number == 2  # the control


def test_people_are_followed_alike_in_chunks_and_as_a_whole():
    scenes = walkers(24)
    tracker = Tracker(rate=25)
    as_a_whole = [tracker.link(scene) for scene in scenes]
    state, in_chunks = None, []
    for start in (0, 7, 13):  # the second person is away in between
        tracker = Tracker(rate=25, state=state)
        in_chunks += [tracker.link(scene) for scene in scenes[start : {0: 7, 7: 13, 13: 24}[start]]]
        state = tracker.state
    forgetful = Tracker(rate=25)
    without = [forgetful.link(scene) for scene in scenes[13:]]
    for whole_scene, chunk_scene in zip(as_a_whole, in_chunks, strict=True):
        for one, other in zip(whole_scene, chunk_scene, strict=True):
            assert one.number == other.number
            np.testing.assert_array_equal(one.points, other.points)
    assert not np.array_equal(without[0][0].points, as_a_whole[13][0].points)  # the control


def street(crop, frames=8):
    """A woman who goes to the right, and one more who is there from the fourth frame on."""
    images = []
    for index in range(frames):
        image = np.full((300, 640, 3), 128, np.uint8)
        image[30:286, 4 * index : 4 * index + 256] = crop
        if index >= 3:
            image[60:230, 440:610] = cv2.resize(crop, (170, 170), interpolation=cv2.INTER_AREA)
        images.append(image)
    return images


def test_people_are_followed_through_frames(crop):
    images = street(crop)
    tracker = Tracker(rate=14, smooth=False)  # the picture is looked at in every second frame
    found = [tracker.follow(image) for image in images]
    assert [sorted(person.number for person in each) for each in found] == [[0]] * 4 + [[0, 1]] * 4
    for person in find_people(images[-1:])[0]:
        assert min(apart(person.points, each.points) for each in found[-1]) < 8
    assert apart(found[0][0].points, found[-1][0].points) > 20  # the control
    tracker, again = Tracker(rate=14, smooth=False), []
    for image in images:
        tracker = Tracker(rate=14, smooth=False, state=tracker.state)
        again.append(tracker.follow(image))
    for whole_scene, chunk_scene in zip(found, again, strict=True):
        for one, other in zip(whole_scene, chunk_scene, strict=True):
            assert one.number == other.number
            np.testing.assert_array_equal(one.points, other.points)


def test_one_alone_is_followed_until_lost(crop):
    images = street(crop)
    tracker = Tracker(rate=4, alone=True)  # forgets whoever is away for more than two frames
    found = [[person.number for person in tracker.follow(image)] for image in images]
    assert found[:4] == [[0]] * 4 and found[5:] == [[0]] * 3
    assert sorted(found[4]) == [0, 1]  # the whole picture is looked at once a second
    left = [image.copy() for image in images[3:7]]
    for image in left:
        image[:, :420] = 128
    leaders = []
    for image in left:
        tracker.follow(image)
        leaders.append(tracker.leader()[:, 0].mean() > 400)
    assert leaders == [False, False, True, True]


def test_points_are_steadied():
    def tremble(smooth):
        tracker = Tracker(rate=30, smooth=smooth)
        scenes = [tracker.link(scene) for scene in walkers(30)]
        first = [next(each for each in scene if each.number == 0).points[:, :2] for scene in scenes]
        return np.diff(first, n=2, axis=0).std()

    assert tremble(smooth=True) < 0.6 * tremble(smooth=False)


def test_one_euro_lets_haste_through():
    def rest(step):  # what is missing of a step three frames after it
        value = speed = np.zeros(1)
        for _ in range(3):
            value, speed = one_euro(np.array([step]), value, speed, 30)
        return 1 - value[0] / step

    assert rest(0.5) < 0.1 < rest(0.001)


@pytest.fixture(scope="session")
def demo(wheel, tmp_path_factory):
    """The clip that comes with sports2d, as pip fetches it."""
    path = tmp_path_factory.mktemp("sports2d") / "demo.mp4"
    with wheel("sports2d==0.8.34") as archive:
        path.write_bytes(archive.read("Sports2D/Demo/demo.mp4"))
    return path


@pytest.mark.slow
def test_real_people_are_found(demo):
    images = [frame.image for frame in islice(zs2kit.read(demo), 149)]
    tracker = Tracker(rate=30)
    people = [tracker.follow(image) for image in images]
    assert sum(bool(each) for each in people) >= 130
    # The walking woman is right of the middle from frame 60 on, and the man on the roof left of it.
    numbers = [{person.number for person in each} for each in people]
    assert all({0, 1} <= each for each in numbers[60:])
    assert len(set().union(*numbers)) <= 4
    for index in (0, 50, 100):  # each by itself
        (alone,) = find_people([images[index]])
        for person in alone:
            assert min(apart(person.points, each.points) for each in people[index]) < 0.1 * person.height


@pytest.mark.slow
def test_most_of_a_crowd_are_found(demo):
    """Twenty people in two rows, cut out of a real clip, from a fifth to half as tall as the picture."""
    image, places = Scene.of(demo).crowd(0)
    tracker = Tracker(rate=30)
    for _ in range(2):
        people = tracker.follow(image)
        assert len(places) == 20
        assert sum(place.found_in(people) for place in places) >= 14
        assert len(people) <= 20
    assert sum(place.found_in(look(image, "cpu")) for place in places) < 6  # the control: not finely
