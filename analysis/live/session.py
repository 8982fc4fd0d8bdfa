# SPDX-License-Identifier: GPL-2.0-or-later
"""A live session: the engine, fed as octets come; what it says becomes events, and a snapshot for a view."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from analysis.checkpoints import COLUMNS as CHECKPOINT_COLUMNS
from analysis.export import SYNC_COLUMNS, connection_row, finding_row, sync_row
from analysis.live import events as ev
from analysis.live import state as snapshot
from analysis.live.alerts import FAILOVER, PAIR, PHASE, SILENCE, Rule
from analysis.live.capture import Link
from analysis.live.clock import Clock
from analysis.live.events import Event
from analysis.live.events import event as event_of
from analysis.live.places import Places
from analysis.live.watch import Watch
from analysis.pairs import COLUMNS as PAIR_COLUMNS
from analysis.proxy import message_rows, reasons
from dissector.blocks import Block, File
from dissector.engine import Engine
from dissector.findings import Finding
from dissector.packets import Packets
from dissector.proxy import Message
from dissector.record import Record
from dissector.recorder import Recorder
from dissector.ring import RecordingError, RingWriter
from dissector.syncpoints import Sync

HOLD = 50_000_000
"""ns for which a sync-point, and what follows it, waits to be told until its ACK has come."""
TICK = 100_000_000
"""ns between ticks."""
SECOND = 1_000_000_000
RETIRE = 5 * SECOND
"""Behind its end a connection may still say so long what was under way."""
FORGET = 3600 * SECOND
"""One that has been silent for so long is forgotten; if it speaks again, that is a late start."""
ENDED_MAX = 16
"""Connections that are over and still in the snapshot."""
STREAMS_MAX = 1 << 16
"""TCP connections of all kinds that are remembered, so that they are numbered as Wireshark does."""
MESSAGES_MAX, ROWS_MAX = 1 << 10, 64
"""Of a colo-proxy, and checkpoints, from which reasons are told."""
_UNACKED_MAX = 1 << 10


class Session:
    """Feed it blocks (`dissector.blocks`), `tick` it about ten times a second, `finish` it; or let `run` do all
    that.  Calls may come from several threads.

    `on_event` gets every event (`analysis.live.events`) as soon as it is known, `on_state` a snapshot behind each
    tick; `window_s` is the sliding window of percentiles.  `ring`: record there what comes, without its secrets
    (`dissector.recorder`); `feed`, `tick` and `finish` raise RecordingError then.
    """

    def __init__(self, on_event: Callable[[Event], None], window_s: float = 60, *, rules: Sequence[Rule] = (),
                 source: str = "", clock: Clock | None = None, ring: RingWriter | None = None,
                 on_state: Callable[[snapshot.SessionState], None] | None = None) -> None:
        self.engine = Engine(most=STREAMS_MAX)
        self._recorder = Recorder(self.engine, ring) if ring else None
        self._on_state = on_state
        self._on_event, self._window, self._rules = on_event, round(window_s * SECOND), tuple(rules)
        self._source, self._clock = source, clock or Clock()
        self._lock = threading.RLock()
        self._watches: dict[int, Watch] = {}
        self._described: dict[int, dict[str, Any]] = {}
        self._counts = dict.fromkeys((ev.SYNC, ev.CHECKPOINT, ev.FINDING, ev.ALERT), 0)
        self._queue: deque[tuple[int, Sync | Event]] = deque()
        """What is known and not told, with the time by this process's clock until which it may wait."""
        self._unacked: deque[Sync] = deque(maxlen=_UNACKED_MAX)
        self._messages: deque[Message] = deque(maxlen=MESSAGES_MAX)
        self._reasoned: dict[int, list[dict[str, Any]]] = {}
        self._fired: dict[tuple[str, int], int] = {}
        self._ended: deque[snapshot.ConnectionState] = deque(maxlen=ENDED_MAX)
        self._findings: deque[snapshot.FindingState] = deque(maxlen=snapshot.LINES_MAX)
        self._alerts: deque[snapshot.AlertState] = deque(maxlen=snapshot.LINES_MAX)
        self._packets = self._found = self._lateness = 0
        self._holes = 0
        """Of connections that were retired."""
        self._drops: list[int] = []
        """Of files that were read."""
        self._octets: dict[int, tuple[int, int, float]] = {}
        """(time, octets, rate) of each connection when its statistics were told last."""
        self._places: Places | None = None
        self._told_ns = 0
        """When there were statistics last."""
        self._next_tick = 0
        self._over = ""

    # --- what drives it -----------------------------------------------------------------------------

    def run(self, link: Link) -> None:
        """Everything from the first block to the last.  Raises what reading them raises, when all that was known
        has been told."""
        self._lateness = link.lateness
        self._places = Places() if link.is_ring else None
        try:
            for block in link:
                self.feed(block)
                if (now := self._clock.wall()) >= self._next_tick:
                    self._next_tick = now + TICK
                    self.tick(self._clock.now)
        except BaseException as error:
            self._note_drops(link.drops)
            self.finish(str(error) or type(error).__name__)
            raise
        self._note_drops(link.drops)
        self.finish(link.reason)

    def _note_drops(self, drops: int | None) -> None:
        """What the capturing program said in the end, if its octets did not."""
        if drops is not None and self.drops is None:
            self._drops = [drops]
            if drops:
                self._say_findings([Finding("capture_drops", f"{self._source}: the capturing program dropped {drops} "
                                            "packets")])

    def feed(self, block: Block) -> None:
        """What has come."""
        with self._lock:
            if isinstance(block, Packets) and len(block):
                self._packets += len(block)
                self._clock.note(int(block.time[-1]))
            if isinstance(block, File) and self._places:
                self._places.add(block)
            self._take(self.engine.take(block))
            if len(self.engine.files) > 1:
                self._forget_files()
            self._tell()
            if self._recorder and isinstance(block, Packets):
                self._recorder.take(block, self.drops, self._clock.wall())

    def tick(self, now: int) -> None:
        """By the capture's clock it is `now` (ns since the epoch; 0: no packet has come)."""
        with self._lock:
            if now:
                self._alert_of_running(now - self._lateness)
                if not self._told_ns <= now < self._told_ns + SECOND:
                    self._told_ns = now
                    self._take(self.engine.tick(now))
                    self._retire(now)
                    self._statistics(now)
            self._tell()
            if self._recorder:
                self._recorder.advance(self._clock.wall())
            if self._on_state:
                self._on_state(self.state())

    def finish(self, reason: str) -> None:
        """Nothing more comes: tell everything that is known, and that this is the end."""
        with self._lock:
            if self._over:
                return
            self._take(self.engine.finish(), final=True)
            failed = self._end_of_recording()
            reason = str(failed or reason)
            now = self._clock.now
            if now:
                self._statistics(now)
            for number, watch in self._watches.items():
                self._describe(watch, ended=True)
                self._holes += self.engine.connections[number].hole_count
            self._over = reason
            self._say({"event": ev.END, "reason": reason, "time_ns": now or None, "packets": self._packets,
                       "drops": self.drops, "holes": self._holes, "connections": self._found,
                       **{f"{name}s": count for name, count in self._counts.items()}})
            self._tell(final=True)
            if self._on_state:
                self._on_state(self.state())
            if failed:
                raise failed

    def _end_of_recording(self) -> RecordingError | None:
        """Why what was still held could not be written."""
        try:
            if self._recorder:
                self._recorder.finish(self.drops)
        except RecordingError as error:
            return error
        return None

    @property
    def drops(self) -> int | None:
        """Packets that the capturing program says it lost; None: it does not say."""
        known = self._drops + [file.drops for file in self.engine.files if file.drops is not None]
        return sum(known) if known else None

    @property
    def found(self) -> int:
        """Connections with one of our streams, so far."""
        return self._found

    # --- from the engine to events ------------------------------------------------------------------

    def _take(self, told: Iterable[Record | Sync | Message], final: bool = False) -> None:
        records: dict[int, list[Record]] = {}
        syncs: dict[int, list[Sync]] = {}
        for event in told:
            if isinstance(event, Record):
                event.reader = None
                if self._recorder:
                    self._recorder.learn(event)
                records.setdefault(event.connection, []).append(event)
            elif isinstance(event, Message):
                self._messages.append(event)
            else:
                syncs.setdefault(event.record.connection, []).append(event)
        for number in dict.fromkeys((*records, *syncs)):
            if number not in self._watches:
                self._watches[number] = Watch(self.engine.connections[number])
            if number in records:
                self._watches[number].take(records[number])
            self._describe(self._watches[number])
        deadline = self._clock.wall() + HOLD
        for number, points in syncs.items():
            self._counts[ev.SYNC] += len(points)
            pairs = self._watches[number].judge(points)
            self._queue += [(deadline, sync) for sync in points]
            for row in pairs:
                self._say(event_of(ev.PAIR, row, PAIR_COLUMNS))
            self._alert_of_pairs(pairs)
        for number in self._watches if final else records:
            self._close(self._watches[number], final)
        for watch in self._watches.values():
            self._alert_of_failover(watch)
        self._say_findings(self.engine.findings)
        self.engine.findings.clear()

    def _close(self, watch: Watch, final: bool) -> None:
        closed = watch.close(self.drops or 0, final)
        if closed is None:
            return
        self._counts[ev.CHECKPOINT] += len(closed.rows)
        reasons = self._reasons(watch.connection.number, closed.rows)
        for row, touched, reason in zip(closed.rows, closed.touched, reasons, strict=True):
            row["reason"] = reason
            event = event_of(ev.CHECKPOINT, row, CHECKPOINT_COLUMNS)
            self._say(event | {"touched": touched})
            self._alert_of_checkpoint(event)
        self._say_findings(closed.findings)

    def _reasons(self, number: int, rows: list[dict[str, Any]]) -> list[str | None]:
        if not self._messages:
            return [None] * len(rows)
        window = self._reasoned.get(number, []) + rows
        self._reasoned[number] = window[-ROWS_MAX:]
        return reasons(window, message_rows(self._messages))[-len(rows):]

    def _say_findings(self, found: list[Finding]) -> None:
        self._counts[ev.FINDING] += len(found)
        for row in map(finding_row, found):
            self._say({"event": ev.FINDING, **row})
            self._findings.append(snapshot.FindingState(row["rule"], row["severity"], row["connection"], row["text"]))

    def _describe(self, watch: Watch, ended: bool = False) -> None:
        """Tell of a connection, if there is something new."""
        connection = watch.connection
        number = connection.number
        about = {"kind": connection.kind, "version": connection.xen_version, "guest": connection.guest_type,
                 "ended": ended}
        if self._described.get(number) == about:
            return
        self._found += number not in self._described
        self._described[number] = about
        row = connection_row(self.engine, number, connection, {number: watch.records},
                                    {number: watch.checkpoints})
        self._say({"event": ev.CONNECTION, **row, "ended": ended})

    def _statistics(self, now: int) -> None:
        for number, watch in self._watches.items():
            octets = sum(self.engine.passed(watch.connection).values())
            before, passed, _ = self._octets.get(number, (0, 0, 0.0))
            rate = (octets - passed) / (now - before) * SECOND if before and now > before else 0.0
            self._octets[number] = now, octets, rate
            self._say({"event": ev.STATISTICS, "time_ns": now, "connection": number, "octets": octets,
                       "octets_per_second": round(rate), "pages": watch.pages, "drops": self.drops,
                       "holes": watch.connection.hole_count,
                       "pairs": [{"from": pair.name, "to": pair.to, "phase": pair.phase,
                                  "window": dataclasses.asdict(pair.window), "total": dataclasses.asdict(pair.total)}
                                 for pair in self._pairs_of(watch, now)]})

    def _retire(self, now: int) -> None:
        """Forget connections that are over, or silent for very long."""
        for number, connection in list(self.engine.connections.items()):
            last = self.engine.streams.last_ns(number)
            silent = now - last if last else 0
            if not (silent > FORGET or (connection.over and silent > RETIRE)):
                continue
            over = connection.over
            watch = self._watches.get(number)
            self._take(self.engine.retire(number))
            if over:
                self.engine.streams.ignore(number)
            if watch is not None:
                self._close(watch, final=True)
                self._describe(watch, ended=True)
                self._ended.append(self._connection_state(watch, now))
                self._holes += connection.hole_count
                self._forget(number)

    def _forget(self, number: int) -> None:
        for of in (self._watches, self._described, self._octets, self._reasoned):
            of.pop(number, None)
        self._fired = {key: once for key, once in self._fired.items() if key[1] != number}

    def _forget_files(self) -> None:
        """A ring has no last file: of those that were read only their drops are remembered."""
        *over, last = self.engine.files
        self._drops += [file.drops for file in over if file.drops is not None]
        self._drops[:] = [sum(self._drops)] if self._drops else []
        self.engine.files[:] = [last]

    # --- alerts ---------------------------------------------------------------------------------------

    def _alert_of_pairs(self, pairs: list[dict[str, Any]]) -> None:
        for rule in self._rules:
            for row in pairs if rule.kind == PAIR else ():
                if (row["from"], row["to"]) == rule.pair and not row["reason"] and row["latency_ns"] > rule.limit:
                    self._alert(rule, row["connection"], row["checkpoint"], row["from_delivered_ns"],
                                row["latency_ns"], False, f"{row['from']} -> {row['to']} took")

    def _alert_of_checkpoint(self, row: Event) -> None:
        for rule in self._rules:
            ms = row.get(f"{rule.phase}_ms") if rule.kind == PHASE else None
            if ms is not None and ms * 1e6 > rule.limit:
                self._alert(rule, row["connection"], row["number"], row["number"] or 0, round(ms * 1e6), False,
                            f"phase {rule.phase} took")

    def _alert_of_running(self, now: int) -> None:
        for rule in self._rules:
            for number, watch in self._watches.items():
                since, checkpoint, once, text = 0, None, 0, ""
                if rule.kind == PAIR and (sync := watch.running(*rule.pair)):
                    since = once = sync.record.delivered_ns
                    checkpoint, text = sync.checkpoint, f"{rule.pair[0]}, no {rule.pair[1]} for"
                elif rule.kind == PHASE:
                    checkpoint, name, began = watch.phase()
                    if name == rule.phase and began:
                        since, once, text = began, checkpoint or 0, f"phase {name} for"
                elif rule.kind == SILENCE and not watch.failed_over:
                    since = once = self.engine.streams.last_ns(number)
                    text = "silent for"
                if since and now - since > rule.limit:
                    self._alert(rule, number, checkpoint, once, now - since, True, text)

    def _alert_of_failover(self, watch: Watch) -> None:
        for rule in self._rules:
            if rule.kind == FAILOVER and watch.failed_over:
                self._alert(rule, watch.connection.number, None, 1, None, False,
                            "one end has ended the stream: failover")

    def _alert(self, rule: Rule, number: int, checkpoint: int | None, once: int, value: int | None, running: bool,
               text: str) -> None:
        """Once for each occurrence."""
        if self._fired.get((rule.text, number)) == once:
            return
        self._fired[rule.text, number] = once
        self._counts[ev.ALERT] += 1
        took = f" {value / 1e6:.0f} ms" if value is not None else ""
        which = f", checkpoint {checkpoint}" if checkpoint is not None else ""
        alert = snapshot.AlertState(self._clock.now, rule.text, number, checkpoint,
                                 None if value is None else round(value / 1e6, 6), running,
                                 f"connection {number}{which}: {text}{took}")
        self._alerts.append(alert)
        self._say({"event": ev.ALERT, **dataclasses.asdict(alert)})

    # --- telling --------------------------------------------------------------------------------------

    def _say(self, event: Event) -> None:
        self._queue.append((0, event))

    def _tell(self, final: bool = False) -> None:
        """Tell, in order, what need not wait."""
        now, ready = self._clock.wall(), 0
        for deadline, what in self._queue:
            if isinstance(what, Sync) and not (final or what.record.acked_ns or now >= deadline):
                break
            ready += 1
        told = [self._queue.popleft()[1] for _ in range(ready)]
        for what in told:
            if isinstance(what, Sync):
                self._hand_out(event_of(ev.SYNC, sync_row(what), SYNC_COLUMNS))
                if not what.record.acked_ns:
                    self._unacked.append(what)
            else:
                self._hand_out(what)
        self._tell_acknowledged()

    def _tell_acknowledged(self) -> None:
        """ACKs that came after their sync-points were told."""
        late = [sync.record for sync in self._unacked if sync.record.acked_ns]
        if late:
            self._unacked = deque((s for s in self._unacked if not s.record.acked_ns), _UNACKED_MAX)
        for record in late:
            self._hand_out({"event": ev.ACKNOWLEDGED, "connection": record.connection, "direction": record.direction,
                            "stream_offset": record.stream_offset, "frame": record.frame,
                            "acked_ns": record.acked_ns})

    def _hand_out(self, event: Event) -> None:
        self._on_event(self._places.of(event) if self._places else event)

    # --- the snapshot -----------------------------------------------------------------------------------

    def state(self) -> snapshot.SessionState:
        """Everything at this moment."""
        with self._lock:
            now = self._clock.now
            watched = tuple(self._connection_state(watch, now) for watch in self._watches.values())
            holes = self._holes if self._over else self._holes + sum(c.holes for c in watched)
            return snapshot.SessionState(
                now, self._source, self._packets, sum(c.octets_per_second for c in watched), self.drops, holes,
                (*self._ended, *watched), tuple(self._findings), tuple(self._alerts), self._over)

    def _connection_state(self, watch: Watch, now: int) -> snapshot.ConnectionState:
        connection = watch.connection
        number = connection.number
        primary, secondary = self.engine.ends(connection)
        doing, checkpoint, phase, since = watch.doing(now, self.engine.streams.last_ns(number))
        pages = [c.pages for c in watch.recent if c.pages is not None and c.number]
        return snapshot.ConnectionState(
            number, primary, secondary, connection.kind, doing, checkpoint, phase, since, tuple(watch.recent),
            self._pairs_of(watch, now), sum(self.engine.passed(connection).values()),
            self._octets.get(number, (0, 0, 0.0))[2], watch.pages, sum(pages) / len(pages) if pages else None,
            connection.hole_count)

    def _pairs_of(self, watch: Watch, now: int) -> tuple[snapshot.PairState, ...]:
        return tuple(snapshot.PairState(name, to, phase, latencies.window(now - self._window), latencies.total())
                     for (phase, name, to), latencies in watch.latencies.items())
