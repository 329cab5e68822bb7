"""What TensorBoard reads of sessions of its HPARAMS page, by its own reader and as the page asks for it."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.backend_context import Context


def session_of(folder: Path) -> tuple[dict, dict]:
    """Settings and metrics of a session, from its event file."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    begun = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    assert metadata.SESSION_END_INFO_TAG in events.PluginTagToContent(metadata.PLUGIN_NAME)
    settings = metadata.parse_session_start_info_plugin_data(begun).hparams
    values = {key: getattr(value, value.WhichOneof("kind")) for key, value in settings.items()}
    return values, {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}


def columns(root: Path) -> tuple[dict[str, bool], set[tuple[str, str]]]:
    """Settings of the page with whether runs differ in them, and its metrics with the runs' part of the name."""
    runs = EventMultiplexer().AddRunsFromDirectory(str(root))
    runs.Reload()
    provider = MultiplexerDataProvider(runs, str(root))
    context, request = Context(TBContext(data_provider=provider)), RequestContext()
    known = context.hparams_metadata(request, "")
    found = context.experiment_from_metadata(request, "", True, known, [])
    return (
        {info.name: info.differs for info in found.hparam_infos},
        {(info.name.group, info.name.tag) for info in found.metric_infos},
    )
