# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `coloscope`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from dissector.errors import CannotDo
from dissector.protocol import SECRETS, SHAREABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from analysis.capture import Capture
    from analysis.reading import Reading
    from analysis.window import Bound
    from dissector.findings import Finding

_FORMATS = ("table", "csv", "json", "jsonl", "parquet")
_NOTHING, _VIOLATED, _FAILED = 0, 1, 2


class Failure(click.ClickException):
    """An end with exit status 2 and one line."""

    exit_code = _FAILED

    def show(self, file: Any = None) -> None:
        _say(self.message)


def _say(text: str) -> None:
    """One line on stderr, whatever names of files are in it."""
    from analysis.escape import printable

    click.echo(f"coloscope: {printable(text)}", err=True)


_CONNECTION = click.option("--connection", metavar="N|ADDRESS:PORT",
                           help="Only this connection: Wireshark's tcp.stream, or one of its ends.")
_OUTPUT = click.option("-o", "output", metavar="FILE", help="Write to a file instead of stdout.")
_FORMAT = click.option("--format", "kind", type=click.Choice(_FORMATS),
                       help="Default: table on a terminal, csv in a pipe or a file.")
_FILES = click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=str))


def _common(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--to", "until", metavar="TIME|FRAME",
                     help="Only what lies wholly before this frame or time."),
        click.option("--from", "since", metavar="TIME|FRAME",
                     help="Only what lies wholly behind this frame (123), time (ISO 8601, or "
                     "seconds since the epoch) or distance from the start (+1.5)."),
        _CONNECTION, _OUTPUT, _FORMAT, _FILES,
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="coloscope", prog_name="coloscope")
def main() -> None:
    """See what a Xen migration, Remus or COLO pair says on the wire, and how long each step takes.

    FILE is a capture of the replication link: pcap or pcapng, plain, gzip or zstd, "-" for stdin;
    several files are one capture (a ring), in the order given.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without the arrows and lines of our tables must still show the numbers.
            stream.reconfigure(errors="replace")


@main.command()
@click.option("--all", "every", is_flag=True, help="List the other TCP connections, too, and what "
              "they seem to be.")
@_common
def connections(files: tuple[str, ...], every: bool, **options: Any) -> None:
    """List the TCP connections that carry a migration stream."""
    with _ends():
        capture = _read(files, lenient=every)
        _write(capture, "connections", options, every=every)


@main.command()
@_common
def records(files: tuple[str, ...], **options: Any) -> None:
    """List every record, header and text, with its times."""
    with _ends():
        _write(_read(files), "records", options)


@main.command()
@_common
def syncs(files: tuple[str, ...], **options: Any) -> None:
    """List every sync-point of COLO."""
    with _ends():
        capture = _read(files)
        _write(capture, "syncs", options)
        _say_if_none(capture)


@main.command()
@click.option("--at", type=click.Choice(("primary", "secondary")), help="As it is at this end, between bounds: the "
              "capture point is somewhere on the way.")
@_common
def latency(files: tuple[str, ...], at: str | None, **options: Any) -> None:
    """Show the latency between each pair of sync-points."""
    with _ends():
        reading = _observe(files, segments=at is not None)
        kind, output = _kind(options), options["output"]
        if at:
            from analysis.bounds import latency_at
            from analysis.capture import Capture

            bounds = _selected(Capture(reading), "bounds", options, every=False)
            _write_frame(latency_at(bounds, at), "latency", kind, output)
        elif kind == "parquet" or any(options[name] for name in ("since", "until", "connection")):
            from analysis.capture import Capture

            _write(Capture(reading), "latency", options)
        else:
            from analysis.latency import COLUMNS, latency_rows
            from analysis.output import columns_of, write
            from analysis.pairs import pair_rows

            write(columns_of(latency_rows(pair_rows(reading.points)), COLUMNS), "latency", kind, output)
        _say_if_none(reading)


@main.command()
@click.option("--proxy", metavar="FILE", help="A capture of the colo-proxy's control connection, by the same "
              "host's clock: it tells why each checkpoint began.")
@_common
def checkpoints(files: tuple[str, ...], proxy: str | None, **options: Any) -> None:
    """List checkpoints (COLO), epochs (Remus) or the migration, with their phases."""
    with _ends():
        capture = _read(files, proxy=proxy)
        _write(capture, "checkpoints", options)
        if capture.export("checkpoints").empty:
            _say(f"no checkpoints: {_WHY['']}")


@main.command()
@_common
def phases(files: tuple[str, ...], **options: Any) -> None:
    """List the phases of each checkpoint (COLO) or epoch (Remus): times, octets, throughput."""
    with _ends():
        capture = _read(files)
        _write(capture, "phases", options)
        if capture.export("phases").empty:
            _say("no phases: no checkpoint, epoch or live migration is in the capture")


@main.command()
@click.option("--each", is_flag=True, help="Every case, instead of their sum over all checkpoints.")
@_CONNECTION
@_OUTPUT
@_FORMAT
@_FILES
def causes(files: tuple[str, ...], each: bool, connection: str | None, **options: Any) -> None:
    """Show what made checkpoints take so long, what costs most in front, with the frames that prove it."""
    with _ends():
        capture = _read(files, segments=True)
        name = "causes" if each else "explanation"
        frame = capture.export(name)
        frame = frame[frame["connection"].isin(_ours(capture, connection))]
        _write_frame(frame, name, _kind(options), options["output"])
        if frame.empty:
            _say("no causes: nothing took so long that the packets prove why")


@main.command()
@_common
def iterations(files: tuple[str, ...], **options: Any) -> None:
    """List the iterations of a live migration over memory: time, pages sent and sent again, dirty rate."""
    with _ends():
        capture = _read(files, pages=True)
        _write(capture, "iterations", options)
        if capture.export("iterations").empty:
            _say("no iterations: the start of the stream is not in the capture, or it carries no pages")


_MEMORY = ("checkpoints", "hot", "savings")
_HOTTEST = 10


@main.command()
@click.option("--table", "which", type=click.Choice(_MEMORY), help="Default: all of them on a terminal, with the "
              f"{_HOTTEST} hottest pages, else {_MEMORY[0]}.")
@click.option("--contents", is_flag=True, help="Read the pages, too: for zero and unchanged ones.")
@_CONNECTION
@_OUTPUT
@_FORMAT
@_FILES
def memory(files: tuple[str, ...], which: str | None, contents: bool, connection: str | None,
           **options: Any) -> None:
    """Show which pages were sent, how often, and what need not have been."""
    with _ends():
        capture = _read(files, pages=True, contents=contents)
        chosen, kind = _ours(capture, connection), _kind(options)
        every = which is None and kind == "table" and options["output"] is None
        for name in _MEMORY if every else (which or _MEMORY[0],):
            frame = getattr(capture.memory, name)
            frame = frame[frame["connection"].isin(chosen)]
            if len(frame) or not every:
                _write_frame(frame.head(_HOTTEST) if every and name == "hot" else frame, "memory", kind,
                             options["output"])
        if capture.memory.is_scrubbed:
            _say("every page is of zeros: the contents were removed from this capture")


@main.command()
@click.option("--checkpoint", type=int, metavar="K", help="The records of this checkpoint or epoch.")
@click.option("--offset", metavar="CONNECTION:DIRECTION:OFFSET",
              help="The record there; DIRECTION is forward or back.")
@click.option("--frame", type=int, metavar="N", help="The records that have octets in this frame.")
@click.option("--every", is_flag=True, help="All items of arrays and all octets of contents.")
@click.option("--connection", metavar="N|ADDRESS:PORT", help="With --checkpoint: of this connection.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def show(files: tuple[str, ...], checkpoint: int | None, offset: str | None, frame: int | None,
         every: bool, connection: str | None) -> None:
    """Explain records field by field."""
    with _ends():
        from analysis import pick
        from dissector.explain import explain

        if sum(choice is not None for choice in (checkpoint, offset, frame)) != 1:
            raise pick.PickError("show wants one of --frame, --offset and --checkpoint")
        capture = _read(files)
        if frame is not None:
            chosen = pick.in_frame(capture, frame)
        elif offset is not None:
            chosen = pick.at_offset(capture, offset)
        else:
            chosen = pick.of_checkpoint(capture, checkpoint or 0, _ours(capture, connection))
        for i, record in enumerate(pick.again(capture, chosen)[1]):
            click.echo(("\n" if i else "") + "\n".join(explain(record, every=every)))


@main.command()
@click.option("--to", "until", metavar="TIME|FRAME", help="Only packets up to this frame or time.")
@click.option("--from", "since", metavar="TIME|FRAME", help="Only packets from this frame or time on.")
@click.option("--checkpoint", type=int, metavar="K", help="Only packets of this checkpoint or epoch.")
@click.option("--connection", metavar="N|ADDRESS:PORT", help="Only packets of this connection.")
@click.option("-o", "output", required=True, metavar="OUT", help="The pcap to write.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def cut(files: tuple[str, ...], output: str, connection: str | None, checkpoint: int | None,
        since: str | None, until: str | None) -> None:
    """Write packets of migration streams to a pcap."""
    with _ends():
        from analysis import pick
        from dissector.cut import cut as write_packets

        if checkpoint is not None and (since or until):
            raise pick.PickError("cut wants --checkpoint or a window (--from, --to), not both")
        capture = _read(files)
        chosen = _ours(capture, connection)
        wanted = pick.frames_of_checkpoint(capture, checkpoint, chosen) if checkpoint is not None \
            else pick.Frames(*_window(capture, since, until))
        count = write_packets(capture.engine, output, set(chosen), wanted)
        _say(f"{count} packets in {output}")


@main.command()
@click.option("--direction", type=click.Choice(("forward", "back")), help="The file is a raw stream of this "
              "direction, whatever it begins with.")
@_CONNECTION
@_OUTPUT
@_FORMAT
@_FILES
def verify(files: tuple[str, ...], direction: str | None, connection: str | None, **options: Any) -> None:
    """Check a stream against the specifications and what Xen itself refuses.

    FILE is a capture, or a raw stream: what `xl save` writes, a libxl or libxc stream, a dump of the
    back channel.  Exit status: 0 clean, 1 violations, 2 unreadable.
    """
    with _ends():
        from analysis.verify import grouped, verified

        with _progress(files) as on_progress:
            verdict = verified(files, direction, choose=lambda capture: _ours(capture, connection),
                               on_progress=on_progress)
        kind = _kind(options)
        if kind != "table":
            _write_frame(verdict.findings, "verify", kind, options["output"])
        elif len(verdict.findings):
            _write_frame(grouped(verdict.findings), "verify", kind, options["output"])
        _say(verdict.summary)
        if verdict.violations:
            sys.exit(_VIOLATED)
        if verdict.fault:
            raise CannotDo(verdict.fault)


@main.command()
@click.option("--keep-others", is_flag=True, help="Keep packets of other connections, too, without "
              "their payload; frame and connection numbers stay the same then.")
@click.option("--anonymise", is_flag=True, help="Replace IP and MAC addresses, the same one always by "
              "the same one.")
@click.option("--drop", multiple=True, type=click.Choice(SHAREABLE), help="Remove this, too: PFNs, or what "
              "the guest's hardware is (HVM parameters, TSC, CPUID, MSRs).")
@click.option("--keep", multiple=True, type=click.Choice(SECRETS), help="Do not remove this.")
@click.argument("file", metavar="IN")
@click.argument("output", metavar="OUT")
def scrub(file: str, output: str, keep: tuple[str, ...], drop: tuple[str, ...], anonymise: bool,
          keep_others: bool) -> None:
    """Write a capture that may be shared: without the guest's memory, CPU and device state, and
    configuration.

    Records, times and sizes stay.  OUT is of IN's format, compressed if it ends with .gz or .zst.
    """
    with _ends():
        from dissector.scrub import scrub as write_scrubbed

        with _progress((file, file)) as on_progress:
            done = write_scrubbed(file, output, keep=keep, drop=drop, anonymise=anonymise,
                                  keep_others=keep_others, on_progress=on_progress)
        _say(f"{done.packets} of {done.of} packets in {output}")
        for what, octets in (("removed", done.removed), ("kept", done.kept)):
            kinds = (f"{name} {count:,}" for name, count in octets.items())
            _say(f"octets {what}: {', '.join(kinds) or 'none'}")


@main.command()
@click.option("--contents", is_flag=True, help="Read the pages, too: for zero and unchanged ones.")
@click.option("-o", "output", metavar="FILE", help="Default: named after the capture, in the current folder.")
@_FILES
def report(files: tuple[str, ...], output: str | None, contents: bool) -> None:
    """Say what the latency is made of: here in short, and as one HTML page that needs no network."""
    with _ends():
        from analysis.output import write_text
        from analysis.report.page import page, page_name
        from analysis.report.summary import summary

        capture = _read(files, segments=True, pages=True, contents=contents)
        click.echo(summary(capture), nl=False)
        output = output or page_name(files)
        text = page(capture)
        write_text(text, output)
        _say(f"{output}: {len(text.encode()) / 1e6:.0f} MB, for any browser")


@main.command()
@click.option("--hgrm", metavar="FOLDER", help="Percentile distributions of each pair for HdrHistogram's plotters, "
              "a file each.")
@click.option("--trace", metavar="OUT", help="A trace for ui.perfetto.dev or chrome://tracing, as JSON.")
@_FILES
def export(files: tuple[str, ...], trace: str | None, hgrm: str | None) -> None:
    """Write what other programs draw; tables go to them as CSV, JSON and Parquet (--format)."""
    with _ends():
        from analysis.output import write_text, write_texts

        if not trace and not hgrm:
            raise CannotDo("export wants --trace, --hgrm or both")
        capture = _read(files)
        if trace:
            from analysis.trace_events import trace as made

            write_text(made(capture), trace)
        if hgrm:
            from analysis.histogram import histograms

            write_texts(histograms(capture), hgrm)
            _say_if_none(capture)


@main.command()
@_OUTPUT
@_FORMAT
@click.argument("before", metavar="BEFORE")
@click.argument("after", metavar="AFTER")
def compare(before: str, after: str, **options: Any) -> None:
    """Say in what two captures differ: medians of each pair and phase, with 95 % intervals."""
    with _ends():
        from analysis.comparison import compare as compared

        _write_frame(compared({name: _read((file,)) for name, file in (("before", before), ("after", after))}),
                     "compare", _kind(options), options["output"])


@main.command()
@_OUTPUT
def lua(output: str | None) -> None:
    """Generate the Wireshark dissector."""
    with _ends():
        from analysis.output import write_text
        from dissector.wireshark.generate import generate

        write_text(generate(), output)


@main.command()
@click.option("-i", "interface", metavar="IFACE", help="Capture on this interface (see `coloscope interfaces`).")
@click.option("-r", "source", metavar="FILE|-|DIR", help="Read a capture that somebody else writes: a pipe, a file, "
              "the files of a ring in a folder.")
@click.option("--follow", is_flag=True, help="With -r: go on with what is still written.")
@click.option("--filter", "capture_filter", metavar="BPF", default="", help="Capture only these packets.")
@click.option("--snaplen", metavar="N", type=click.IntRange(96), help="Octets of each packet to capture.")
@click.option("--buffer", metavar="MiB", type=click.IntRange(1), help="Memory of the kernel for packets.")
@click.option("--write", "prefix", metavar="PREFIX", help="Record, too: a ring of pcapng files.")
@click.option("--ring", metavar="FILESxSIZE", default="10x1GB", show_default=True, help="How many, and how large.")
@click.option("--alert", "alerts", metavar="RULE", multiple=True, help="'NEW->SVM_RESUMED > 500ms', 'memory > 200ms' "
              "(a phase), 'silent > 3s', 'failover'; also while it is not over.")
@click.option("--exec", "command", metavar="CMD", help="Run this for alerts, without a shell; the alert is JSON on "
              "its stdin.")
@click.option("--metrics", metavar="[HOST:]PORT", help="Serve metrics for Prometheus.")
@click.option("--window", "window_s", metavar="SECONDS", type=click.FloatRange(1), default=60, show_default=True,
              help="Sliding window of percentiles.")
@click.option("--format", "kind", type=click.Choice(("view", "jsonl")), help="Default: the view on a terminal, jsonl "
              "in a pipe or a file.")
def live(kind: str | None, **options: Any) -> None:
    """Watch a link: checkpoints as they happen, alerts, a recording."""
    with _ends():
        from analysis.live.alerts import rule
        from analysis.live.capture import STOPPED, link_of
        from analysis.live.command_line import watch

        rules = [rule(text) for text in options.pop("alerts")]
        link, name = link_of(**{option: options.pop(option) for option in (
            "interface", "source", "follow", "capture_filter", "snaplen", "buffer", "prefix", "ring")})
        try:
            session = watch(link, name, rules, say=_say, lines=kind != "view" and (
                kind == "jsonl" or not sys.stdout.isatty()), **options)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Failure(f"cannot write: {error.strerror or error}") from None
        if not session.found:
            from analysis.reading import Reading
            from analysis.rows import rows_of

            found = Reading(session.engine, rows_of([]), [], []).found_instead()
            if link.reason == STOPPED:
                _say(found)
            else:
                raise Failure(f"{name}: {found}")


@main.command()
@_OUTPUT
@_FORMAT
def interfaces(**options: Any) -> None:
    """List what can be captured on."""
    with _ends():
        from analysis.live.capture import INTERFACE_COLUMNS
        from analysis.live.capture import interfaces as found
        from analysis.output import columns_of, write

        kind, columns = _kind(options), columns_of(found(), INTERFACE_COLUMNS)
        if kind == "parquet":
            import pandas as pd

            _write_frame(pd.DataFrame(columns), "interfaces", kind, options["output"])
        else:
            write(columns, "interfaces", kind, options["output"])


@main.group()
def wireshark() -> None:
    """Put the dissector into the user's own Wireshark, or take it out."""


def _installer(name: str, meaning: str) -> None:
    def command() -> None:
        with _ends():
            from dissector.wireshark import install

            click.echo(getattr(install, name)())

    wireshark.command(name, help=meaning)(command)


_installer("install", "Install or update the dissector.")
_installer("uninstall", "Remove the dissector.")
_installer("status", "Say whether the dissector is installed, and where.")


@wireshark.command()
@click.option("-o", "output", metavar="FOLDER", help="Write it there, to be imported, instead.")
def profile(output: str | None) -> None:
    """Add a profile with columns, colours, buttons and graphs for sync-points."""
    with _ends():
        from dissector.wireshark.install import add_profile

        click.echo(add_profile(output))


# --- what the commands share ------------------------------------------------------------------


@contextmanager
def _ends() -> Iterator[None]:
    """Every way in which a command ends: bad input in one line, a closed pipe in silence."""
    try:
        yield
        sys.stdout.flush()
    except CannotDo as error:
        raise Failure(str(error)) from None
    except BrokenPipeError:
        # Python would flush stdout once more at exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_NOTHING)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)


def _observe(files: tuple[str, ...], lenient: bool = False, **options: Any) -> Reading:
    """What is in the capture, with a warning for what is wrong with it; ends the command if nothing in it
    is ours (unless `lenient`).  `options` are those of `analysis.reading.observe`."""
    from dissector.ahead import Ahead, is_worthwhile

    with _progress(files) as on_progress:
        # Before anything else is imported: its own imports take as long as ours.
        ahead = Ahead(files, on_progress) if is_worthwhile(files) else None
        from analysis.reading import observe

        reading = observe(*files, on_progress=on_progress, ahead=ahead, **options)
    for part in dict.fromkeys((reading, reading.conversation)):
        _warn(part, part.engine.findings)
    if not lenient and not reading.engine.ours():
        raise Failure(f"{files[0] if len(files) == 1 else f'{len(files)} files'}: "
                      + reading.found_instead())
    return reading


def _read(files: tuple[str, ...], lenient: bool = False, **options: Any) -> Capture:
    """The same as tables."""
    reading = _observe(files, lenient, **options)
    from analysis.capture import Capture

    capture = Capture(reading)
    _warn(capture, capture.all_findings[len(reading.engine.findings):])
    return capture


@contextmanager
def _progress(files: tuple[str, ...]) -> Iterator[Callable[[int], None] | None]:
    """A bar on a terminal while more than a moment's worth of octets is read."""
    from dissector.source import total_size

    size = total_size(list(files)) if sys.stderr.isatty() else None
    if not size or size < 64 << 20:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress("reading", BarColumn(), DownloadColumn(), TimeRemainingColumn(),
                  console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=size)
        yield lambda octets: progress.advance(task, octets)


def _warn(reading: Reading, found: list[Finding]) -> None:
    """One line for each rule that was broken, with its first place."""
    from dissector.findings import NOTE, RULES

    for rule in RULES:
        group = sorted((f for f in found if f.rule == rule), key=lambda f: (f.connection, f.frame))
        if not group or group[0].severity == NOTE:
            continue
        frame = next((f.frame for f in group if f.frame), 0)
        place = f" (frame {reading.engine.file_frame(frame)[1]})" if frame else ""
        more = f"; and {len(group) - 1} more" if len(group) > 1 else ""
        _say(f"{group[0].severity}: {rule}: {group[0].text}{place}{more}")


def _write(capture: Capture, table: str, options: dict[str, Any], every: bool = False) -> None:
    _write_frame(_selected(capture, table, options, every), table, _kind(options), options["output"])


def _write_frame(frame: pd.DataFrame, table: str, kind: str, output: str | None) -> None:
    from analysis.output import write, write_parquet
    from analysis.tables import plain

    if kind == "parquet":
        write_parquet(frame, output)
    else:
        write(plain(frame), table, kind, output)


def _kind(options: dict[str, Any]) -> str:
    """The format that is wanted."""
    default = "table" if options["output"] is None and sys.stdout.isatty() else "csv"
    return options["kind"] or default


_EXTENT = {"records": (("first_frame", "first_seen_ns"), ("frame", "delivered_ns")),
           "syncs": (("first_frame", "first_seen_ns"), ("frame", "delivered_ns")),
           "pairs": (("from_frame", "from_delivered_ns"), ("to_frame", "to_delivered_ns")),
           "bounds": (("from_frame", "from_delivered_ns"), ("to_frame", "to_delivered_ns")),
           "checkpoints": (("frame", "begin_ns"), ("last_frame", "end_ns")),
           **dict.fromkeys(("phases", "iterations"), (("begin_frame", "begin_ns"), ("end_frame", "end_ns")))}


def _selected(capture: Capture, table: str, options: dict[str, Any], every: bool) -> pd.DataFrame:
    """A table, cut down to what `--connection`, `--from` and `--to` name."""
    from analysis.tables import RECORD_COLUMNS, SYNC_COLUMNS
    from analysis.tables import latency as statistics
    from analysis.window import within

    begin, end = _window(capture, options["since"], options["until"])
    source = "pairs" if table == "latency" else table
    frame = capture.export(source, every=every)
    if options["connection"]:
        frame = frame[frame["connection"].isin(_numbers(capture, options["connection"]))]
    if source in _EXTENT:
        frame = within(frame, begin, end, *_EXTENT[source])
    elif options["since"] or options["until"]:
        there = within(capture.export("records"), begin, end, *_EXTENT["records"])
        frame = frame[frame["connection"].isin(there["connection"])]
    if table == "latency":
        return statistics(frame)
    columns = {"records": RECORD_COLUMNS, "syncs": SYNC_COLUMNS}.get(table, list(frame))
    return frame[[name for name in frame if name in columns
                  or (name.endswith("file") and name.removesuffix("file") + "frame" in columns)]]


def _window(capture: Capture, since: str | None, until: str | None) -> tuple[Bound, Bound]:
    """What `--from` and `--to` name."""
    from analysis.window import Bound, WindowError, bound

    begin, end = (bound(text, capture.engine.first_ns) if text else Bound()
                  for text in (since, until))
    if len(capture.engine.files) > 1 and (begin.frame or end.frame):
        raise WindowError("with several files --from and --to take a time: every file counts its "
                          "own frames")
    return begin, end


def _ours(capture: Capture, wanted: str | None) -> list[int]:
    """Connections that carry a migration stream: the one that is named, or all."""
    return _numbers(capture, wanted) if wanted else [c.number for c in capture.engine.ours()]


def _numbers(capture: Capture, wanted: str) -> list[int]:
    """The connections that a user means."""
    from analysis.window import WindowError

    every = capture.export("connections", every=True)
    if wanted.isdecimal():
        found = every[every["connection"] == int(wanted)]
    else:
        found = every[(every["primary"] == wanted) | (every["secondary"] == wanted)]
    if found.empty:
        ours = capture.export("connections")
        known = ", ".join(f"{row.connection} ({row.primary} - {row.secondary})"
                          for row in ours.itertuples())
        raise WindowError(f"there is no connection {wanted!r}; there is {known}")
    return [int(number) for number in found["connection"]]


_WHY = {
    "plain": "a plain migration has none; `coloscope checkpoints` shows its times",
    "remus": "Remus has none; `coloscope checkpoints` shows its epochs",
    "colo": "none is in the capture",
    "": "the stream ends, or cannot be read on, before it tells plain migration, Remus and COLO apart",
}


def _say_if_none(reading: Reading) -> None:
    """No sync-point is a result, too; say why."""
    if not reading.points:
        kinds = sorted({c.kind for c in reading.engine.ours()})
        _say("no sync-points: " + "; ".join(_WHY[kind] for kind in kinds))
