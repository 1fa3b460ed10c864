import RaftCore

@testable import RaftStorage

/// A log with some of its bytes changed, by rot or by somebody who knows the format: recovery does not trap, what it
/// shows stands on the disk under a checksum that fits, and the log goes on from there.
func fuzzLog(_ input: Bytes) {
    var choices = Choices(input)
    let disk = WrittenLog.disk.copy()
    let care = LogForger.Care.allCases[choices.number(below: 3)]
    let forger = LogForger(disk, fields: WrittenLog.fields)
    for _ in 0..<8 where !choices.isAtEnd {
        if care != .none, choices.flag() {
            if choices.number(below: 8) == 7 { forger.copy(&choices) } else { forger.change(&choices) }
        } else {
            rot(disk, &choices)
        }
    }
    forger.repair(care)
    guard !WrittenLog.isTooLarge(disk) else { return }
    guard let (log, found) = WrittenLog.open(disk) else { return }
    check(log, found, on: care == .none ? nil : disk)
    let written = append(to: log, found)
    guard let (again, second) = WrittenLog.open(disk) else {
        preconditionFailure("a log that was recovered cannot be opened again")
    }
    check(again, second, on: care == .none ? nil : disk)
    for (group, state) in found.sorted(by: { $0.key < $1.key }) {
        guard let later = second[group] else { preconditionFailure("a group is gone at the second start") }
        precondition((state.damage == nil) == (later.damage == nil), "another group is damaged at the second start")
        guard state.damage == nil else { continue }
        precondition(later.lastIndex == written[group]?.index, "the last entry is another one at the second start")
        precondition(later.hardState == state.hardState && later.note == state.note, "another state")
    }
}

/// A checkpoint with right checksums around parts that are the input: what it says is taken or refused, and the log that
/// is opened with it can be read, written to, and opened again.
func fuzzCheckpoint(_ input: Bytes) {
    var choices = Choices(input)
    let count = 1 + choices.number(below: 3)
    let parts = choices.rest
    let scratch = Scratch()
    Checkpoint.encodeHead(identity: WrittenLog.settings.identity, segment: 2, into: scratch)
    let start = scratch.count
    for number in [0, UInt32(parts.count), UInt32(count)] { scratch.append(number) }
    parts.withUnsafeBytes { scratch.append($0) }
    scratch.store(Checksum.of(scratch[start + 4..<scratch.count]), at: start)
    Checkpoint.encodeBlock([], into: scratch)
    let disk = WrittenLog.disk.copy()
    disk.setContents("CHECKPOINT", Array(scratch.bytes))
    guard let (log, found) = try? WriteAheadLog.open(disk: disk, settings: WrittenLog.settings, log: { _ in }) else {
        preconditionFailure("a whole log cannot be opened")
    }
    for (group, state) in found {
        _ = try? log.entries(of: group, from: state.termRuns.first?.index ?? .zero, count: 10, maxBytes: 1 << 20)
    }
    try? log.write([LogWrite(group: 1, hardState: HardState(term: Term(99), vote: nil))])
    _ = try? log.checkpoint()
    guard (try? WriteAheadLog.open(disk: disk, settings: WrittenLog.settings, log: { _ in })) != nil else {
        preconditionFailure("the log cannot be opened again")
    }
}

private func rot(_ disk: MemoryDisk, _ choices: inout Choices) {
    guard let names = try? disk.list(), !names.isEmpty else { return }
    let name = names[choices.number(below: names.count)]
    guard let size = disk.contents(name)?.count, size > 0 else { return }
    let offset = choices.short() % size
    switch choices.number(below: 5) {
    case 0: disk.zero(name, from: offset)
    case 1: disk.shorten(name, to: offset)
    case 2: disk.lose(name)
    default: disk.flipBit(name, offset: offset, bit: choices.number(below: 8))
    }
}

/// One more entry for every group that is whole, and for a new one. Tells each group's last entry.
private func append(to log: WriteAheadLog, _ found: [LogGroup: RecoveredGroup]) -> [LogGroup: LogPosition] {
    var written: [LogGroup: LogPosition] = [:]
    for (group, state) in found.sorted(by: { $0.key < $1.key }) where state.damage == nil {
        let position = LogPosition(term: state.termRuns.last?.term ?? Term(1), index: state.lastIndex.next)
        let entry = LogEntry(position: position, kind: .data, payload: WrittenLog.payload(group, position))
        do {
            try log.write([LogWrite(group: group, entries: [entry])])
        } catch {
            preconditionFailure("group \(group) is whole and takes no entry: \(error)")
        }
        let read = try? log.entries(of: group, from: position.index, count: 2, maxBytes: 1 << 20)
        precondition(read?.count == 1 && read?.first?.payload == entry.payload, "another entry than was written")
        written[group] = position
    }
    return written
}

/// What the log shows of each group is what the group was said to have, and what was written; or, if there is a forger,
/// what stands on `disk`.
private func check(_ log: WriteAheadLog, _ found: [LogGroup: RecoveredGroup], on disk: MemoryDisk?) {
    for (group, state) in found.sorted(by: { $0.key < $1.key }) {
        precondition(state.hardState.term >= .zero, "no term")
        let first = state.termRuns.first?.index ?? LogIndex(1)
        precondition((state.lastIndex == .zero) == state.termRuns.isEmpty && first > .zero)
        let entries: [LogEntry]
        do throws(StorageError) {
            entries = try log.entries(of: group, from: first, count: 1000, maxBytes: 1 << 20)
        } catch {
            guard case .damaged = error else { preconditionFailure("\(error)") }
            continue
        }
        precondition(entries.last?.position.index ?? .zero == state.lastIndex, "not all of \(group)")
        var runs: [LogPosition] = []
        var configurations: [PlacedConfiguration] = []
        for (offset, entry) in entries.enumerated() {
            precondition(entry.position.index == first.advanced(by: offset), "a hole in \(group)")
            if entry.position.term != runs.last?.term { runs.append(entry.position) }
            if let configuration = entry.configuration {
                configurations.append(PlacedConfiguration(index: entry.position.index, configuration: configuration))
            }
            let isKnown = WrittenLog.wrote(entry, of: group) || disk.map { shows($0, entry, of: group) } ?? false
            precondition(isKnown, "an entry nobody wrote")
        }
        precondition(state.termRuns == runs && state.configurations == configurations, "another log than was told")
        precondition(zip(runs, runs.dropFirst()).allSatisfy { $0.term < $1.term }, "terms go back")
    }
}

/// Whether a record of that entry stands on the disk under a checksum that fits.
private func shows(_ disk: MemoryDisk, _ entry: LogEntry, of group: LogGroup) -> Bool {
    let names = ((try? disk.list()) ?? []).filter { LogFormat.segmentNumber(of: $0) != nil }
    return names.compactMap { disk.contents($0) }.contains { segment in
        segment.withUnsafeBytes { bytes in
            bytes.indices.contains { offset in
                guard let record = Record.decode(bytes.part(offset..<bytes.count)), record.group == group,
                    record.position == entry.position, record.kind == RecordKind(entry.kind),
                    // a membership's text can be spelled in several ways
                    entry.kind == .configuration || Bytes(copying: record.payload) == entry.payload
                else { return false }
                return Record.isIntact(bytes.part(offset..<offset + record.byteCount))
            }
        }
    }
}

/// What is damaged: a log of three groups over several segments, with everything a log can hold.
private enum WrittenLog {
    static let settings = WriteAheadLog.Settings(segmentBytes: 1 << 10, reserveBytes: 0, identity: 77)

    static func open(_ disk: MemoryDisk) -> (WriteAheadLog, [LogGroup: RecoveredGroup])? {
        try? WriteAheadLog.open(disk: disk, settings: settings, log: { _ in })
    }

    static func payload(_ group: LogGroup, _ position: LogPosition) -> Bytes {
        Bytes("entry \(position) of \(group)")
    }

    /// Whether an entry is as this log, or whoever went on with it, writes it.
    static func wrote(_ entry: LogEntry, of group: LogGroup) -> Bool {
        switch entry.kind {
        case .data: entry.payload == payload(group, entry.position)
        case .noOp: entry.position.index == LogIndex(5) && entry.payload.isEmpty
        case .configuration: entry.position.index == LogIndex(1) && entry.configuration == membership
        }
    }

    private static let membership = Configuration(peers: coreMembers)

    static let fields = LogForger.fields(of: disk)

    /// Whether a segment of the list, which may well have 4 GiB, needs more memory than a run should take.
    static func isTooLarge(_ disk: MemoryDisk) -> Bool {
        guard let manifest = try? Manifest.load(from: disk) else { return false }
        return manifest.segments.contains { $0.size > 1 << 16 }
    }

    static let disk: MemoryDisk = {
        let disk = MemoryDisk(seed: 1)
        guard let (log, _) = open(disk) else { preconditionFailure("no log") }
        let rounds: [(index: Int64, term: Int64)] = [
            (1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (6, 3), (7, 3), (8, 3), (9, 3), (10, 3),
        ]
        for (round, place) in rounds.enumerated() {
            let position = LogPosition(term: Term(place.term), index: LogIndex(place.index))
            let replaces = round > 0 && rounds[round - 1].index >= place.index
            let writes = (1...3).map { group in
                LogWrite(
                    group: LogGroup(group),
                    hardState: HardState(term: position.term, vote: group == 1 ? coreMembers[0] : nil),
                    truncateFrom: replaces ? position.index : nil, entries: [entry(position, of: LogGroup(group))],
                    note: round == 2 ? Bytes("note") : nil)
            }
            guard (try? log.write(writes)) != nil else { preconditionFailure("not written") }
            if round == 8 { log.sealIfIdle() }
        }
        return disk
    }()

    private static func entry(_ position: LogPosition, of group: LogGroup) -> LogEntry {
        switch position.index.rawValue {
        case 1:
            LogEntry(
                position: position, kind: .configuration, payload: Bytes(),
                configuration: membership)
        case 5: LogEntry(position: position, kind: .noOp, payload: Bytes())
        default: LogEntry(position: position, kind: .data, payload: payload(group, position))
        }
    }
}
