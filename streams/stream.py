"""Plays a schedule: every item is a pure function of (schedule, seed, size, index), so a run can resume anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from streams._prefetch import Prefetcher, Worker
from streams._visit import KnownStatistics, Source, VisitPlan, VisitPlayer
from streams._workers import WorkerGroup, items_ahead
from streams.datasets import DatasetSettings, DatasetSource
from streams.errors import StreamError
from streams.frame import ClassSet, StreamItem
from streams.schedule import MAX_SIDE, MIN_SIDE, Schedule, Visit
from streams.sources.folder import FolderSource, scan_folder
from streams.sources.town import TOWN_SIZE, TownSource, route_seed


class Stream:
    """The frames of a schedule with their truth.

    Opening checks every source: structure, sizes, and the ids of some labels. Iterating twice, from anywhere, with or
    without prefetch gives the same bytes.

    Args:
        schedule: From `streams.schedule.load_schedule`.
        seed: Chooses the town's route and the weather's drops.
        size: Height and width of frames; None takes the schedule's, else a folder's own or the town's 256 x 512.
            Labels of folders and data sets always keep their own size.
        frames: Upper bound on the frames of each visit.
        prefetch: Items made ahead in a background thread; 0 makes each when it is asked for.
        workers: With ``prefetch``: processes that make the items for the thread; 0 leaves that to the thread. May be
            set until iteration begins.

    Raises:
        StreamError: A source is faulty, or an argument out of range.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        seed: int = 0,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        prefetch: int = 0,
        workers: int = 0,
    ) -> None:
        if frames is not None and frames < 1:
            raise StreamError(f"frames: a visit needs at least 1 frame, got {frames}")
        if size is not None and not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
            raise StreamError(f"size: height and width must be {MIN_SIDE} to {MAX_SIDE}, got {size[0]} x {size[1]}")
        if min(seed, prefetch, workers) < 0:
            raise StreamError(f"seed, prefetch and workers must be 0 or more, got {seed}, {prefetch} and {workers}")
        self.schedule = schedule
        self.seed = seed
        self._size = size or schedule.size
        self._prefetch = prefetch
        self.workers = workers
        self._groups: list[WorkerGroup] = []
        self._cap = frames
        self._folders: dict[str, FolderSource] = {}
        self._datasets: dict[DatasetSettings, tuple[DatasetSource, DatasetSource]] = {}  # and the same with depth
        self.visits = self._plan(frames)
        self._workers: list[Worker[StreamItem]] = []

    @property
    def classes(self) -> ClassSet:
        """Names and ids of the labels."""
        return self.schedule.class_set

    @property
    def fps(self) -> float:
        """Frames per second of the schedule's clock."""
        return self.schedule.fps

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Stream index of the first frame of every visit whose domain differs from the visit before."""
        pairs = zip(self.visits, self.visits[1:], strict=False)
        return tuple(after.first for before, after in pairs if before.domain != after.domain)

    @property
    def length(self) -> int:
        """Number of frames, bad ones included; streams that have no known end give None here."""
        return len(self)

    def stop(self) -> None:
        """For streams that may wait for a frame: this one never does."""

    def figures(self) -> None:
        """What the summary says of a stream that is no schedule; nothing here."""

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the first visit's frames."""
        first = self.schedule.visits[0]
        if self._size is not None or (first.folder is None and first.dataset is None):
            return self._size or TOWN_SIZE
        return self._dataset(first).size if first.dataset is not None else self._folder(first).size

    def sources(self) -> list[dict[str, Any]]:
        """What the summary says of every visit's frames: of which data they are, and what made their weather."""
        return [
            {"domain": visit.domain, "source": source, "weather": weather}
            for visit in self.schedule.visits
            for source, weather in [self._origin(visit)]
        ]

    def _origin(self, visit: Visit) -> tuple[str, str | None]:
        listing = self._dataset(visit).listing if visit.dataset is not None else None
        source = listing.what if listing is not None else "town" if visit.town is not None else str(visit.folder)
        if not visit.weather:
            return source, None if visit.dataset is None else visit.dataset.WEATHER
        if visit.town is not None or (listing is not None and listing.has_depth):
            return source, "rendered on metric depth"
        return source, "rendered on an assumed street canyon, without depth"

    def __len__(self) -> int:
        return self.visits[-1].first + self.visits[-1].frames

    def __iter__(self) -> Iterator[StreamItem]:
        return self.iterate()

    def __getitem__(self, index: int) -> StreamItem:
        """Item `index`; costs the opening of its visit, so iterate where many are wanted."""
        if not 0 <= index < len(self):
            raise IndexError(f"stream index {index} is not in 0 to {len(self) - 1}")
        return next(self._items(index))

    def iterate(self, start: int = 0) -> Iterator[StreamItem]:
        """Items from `start` to the end; `start` equal to the length gives none.

        Raises:
            StreamError: `start` lies outside; later, a label is faulty.
        """
        if not 0 <= start <= len(self):
            raise StreamError(f"a stream of {len(self)} frames cannot start at frame {start}")
        items = self._items(start)
        if not self._prefetch:
            return items
        if self.workers and start < len(self):
            options = {"seed": self.seed, "size": self._size, "frames": self._cap}
            group = WorkerGroup(self.schedule, options, self.workers)
            self._groups = [other for other in self._groups if other.alive] + [group]
            items = items_ahead(group, self.maker(), start, len(self), self._prefetch)
        ahead = Prefetcher(items, self._prefetch)
        self._workers = [worker for worker in self._workers if worker.alive] + [ahead.worker]
        return ahead

    @property
    def warm(self) -> bool:
        """Whether the worker processes of every iteration are up, or there are none."""
        return all(group.warm for group in self._groups)

    def close(self) -> None:
        """Stops the background threads and processes of all iterations."""
        for worker in self._workers:
            worker.tell_to_stop()
        for group in self._groups:
            group.close()
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _plan(self, cap: int | None) -> tuple[VisitPlan, ...]:
        plans: list[VisitPlan] = []
        first = 0
        for index, visit in enumerate(self.schedule.visits):
            frames = visit.frames or self.schedule.frames
            if visit.folder is not None:
                available = len(self._folder(visit))
                if visit.frames is not None and visit.frames > available:
                    raise StreamError(f"visits.{index}: asks for {frames} frames, {visit.folder} has {available}")
                frames = min(frames or available, available)
            elif visit.dataset is not None:
                try:
                    available = len(self._dataset(visit))
                except StreamError as error:
                    raise StreamError(f"visits.{index}.{visit.dataset.NAME}: {error}") from None
                if visit.frames is not None and visit.frames > available:
                    raise StreamError(f"visits.{index}: asks for {frames} frames, there are {available}")
                frames = min(frames or available, available)
            if frames is None:
                raise StreamError(f"visits.{index}: give 'frames'; this source has no end")
            frames = min(frames, cap or frames)
            plans.append(VisitPlan(visit.domain, index, first, frames))
            first += frames
        return tuple(plans)

    def _folder(self, visit: Visit) -> FolderSource:
        """One source a folder, however often it is visited: its files are checked once."""
        assert visit.folder is not None
        key = str(visit.folder)
        if key not in self._folders:
            self._folders[key] = FolderSource(scan_folder(visit.folder), self.classes, self._size)
        return self._folders[key]

    def _dataset(self, visit: Visit) -> DatasetSource:
        """One source a part of a data set; depth is read where there is weather to render."""
        assert visit.dataset is not None
        if visit.dataset not in self._datasets:
            bare = DatasetSource(visit.dataset.scan(), self.classes, self._size)
            self._datasets[visit.dataset] = bare, bare.with_depth()
        return self._datasets[visit.dataset][bool(visit.weather)]

    def _items(self, start: int) -> Iterator[StreamItem]:
        return map(self.maker(), range(start, len(self)))

    def maker(self) -> Callable[[int], StreamItem]:
        """What makes an item from its index; opens a visit when it first meets one of its frames."""
        towns: dict[int, TownSource] = {}  # of this maker alone: a drive may keep scratch memory
        known: KnownStatistics = WeakKeyDictionary()
        player: VisitPlayer | None = None

        def make(index: int) -> StreamItem:
            nonlocal player
            if player is None or not player.holds(index):
                plan = next(plan for plan in self.visits if plan.first <= index < plan.first + plan.frames)
                visit = self.schedule.visits[plan.visit]
                player = VisitPlayer(plan, visit, self._source(plan, visit, towns), self.seed, self.fps, known)
            return player.item(index)

        return make

    def _source(self, plan: VisitPlan, visit: Visit, towns: dict[int, TownSource]) -> Source:
        if visit.dataset is not None:
            return self._dataset(visit)
        if visit.town is None:
            return self._folder(visit)
        own_visit = plan.visit if visit.town.route == "per_visit" else None
        seed = route_seed(self.seed, visit.town.seed, own_visit)
        if seed not in towns:
            towns.clear()  # one town in memory at a time
            towns[seed] = TownSource(seed, self._size or TOWN_SIZE, self.fps)
        return towns[seed]
