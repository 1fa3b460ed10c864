import RaftCore

@testable import RaftStorage

/// A log with some of its bytes changed: recovery neither traps nor shows an entry that was never written, and a second
/// recovery finds what the first left.
func fuzzLog(_ input: Bytes) {
    var choices = Choices(input)
    let disk = WrittenLog.disk.copy()
    guard let names = try? disk.list(), !names.isEmpty else { return }
    for _ in 0..<8 where !choices.isAtEnd {
        let name = names[choices.number(below: names.count)]
        guard let size = disk.contents(name)?.count, size > 0 else { continue }
        let offset = choices.short() % size
        switch choices.number(below: 5) {
        case 0: disk.zero(name, from: offset)
        case 1: disk.shorten(name, to: offset)
        case 2: disk.lose(name)
        default: disk.flipBit(name, offset: offset, bit: choices.number(below: 8))
        }
    }
    guard let (log, found) = try? WriteAheadLog.open(disk: disk, settings: WrittenLog.settings, log: { _ in }) else {
        return
    }
    check(log, found)
    guard let (_, again) = try? WriteAheadLog.open(disk: disk, settings: WrittenLog.settings, log: { _ in }) else {
        preconditionFailure("a log that was recovered cannot be opened again")
    }
    for (group, state) in found.sorted(by: { $0.key < $1.key }) where state.damage == nil {
        guard let second = again[group] else { preconditionFailure("a group is gone at the second start") }
        precondition(second.damage != nil || second.lastIndex == state.lastIndex, "an end that moves by itself")
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

private func check(_ log: WriteAheadLog, _ found: [LogGroup: RecoveredGroup]) {
    for (group, state) in found.sorted(by: { $0.key < $1.key }) {
        guard
            let entries = try? log.entries(
                of: group, from: state.termRuns.first?.index ?? LogIndex(1), count: 1000, maxBytes: 1 << 20)
        else { continue }
        precondition(entries.count <= 40, "more entries of \(group) than were written")
        for entry in entries where entry.kind == .data {
            precondition(entry.payload == WrittenLog.payload(group, entry.position), "an entry nobody wrote")
        }
        precondition(
            state.damage != nil
                || entries.last?.position.index ?? state.base?.position.index ?? .zero == state.lastIndex)
    }
}

/// What is damaged: a log of three groups over several segments.
private enum WrittenLog {
    static let settings = WriteAheadLog.Settings(segmentBytes: 1 << 10, reserveBytes: 0, identity: 77)

    static func payload(_ group: LogGroup, _ position: LogPosition) -> Bytes {
        Bytes("entry \(position) of \(group)")
    }

    static let disk: MemoryDisk = {
        let disk = MemoryDisk(seed: 1)
        guard let (log, _) = try? WriteAheadLog.open(disk: disk, settings: settings, log: { _ in }) else { return disk }
        for index in 1...12 {
            let writes = (1...3).map { group in
                let position = LogPosition(term: Term(Int64(1 + index / 5)), index: LogIndex(Int64(index)))
                let isMembership = index == 1
                return LogWrite(
                    group: LogGroup(group), hardState: HardState(term: position.term, vote: nil),
                    entries: [
                        LogEntry(
                            position: position, kind: isMembership ? .configuration : .data,
                            payload: isMembership ? Bytes() : payload(LogGroup(group), position),
                            configuration: isMembership ? Configuration(peers: coreMembers) : nil)
                    ],
                    note: index == 3 ? Bytes("note") : nil)
            }
            try? log.write(writes)
            if index == 8 { _ = try? log.checkpoint() }
        }
        // group 2 is compacted, group 3 begins anew with a debt
        let gone = LogPosition(term: Term(1), index: LogIndex(3))
        let base = LogBase(position: gone, configuration: Configuration(peers: coreMembers))
        try? log.write([LogWrite(group: 2, start: .compact(base))])
        let position = LogPosition(term: Term(4), index: LogIndex(31))
        let entry = LogEntry(position: position, kind: .data, payload: payload(3, position))
        let far = LogBase(
            position: LogPosition(term: Term(4), index: LogIndex(30)), configuration: Configuration(peers: coreMembers))
        try? log.write([LogWrite(group: 3, debt: position, start: .reset(far), entries: [entry])])
        try? log.write([LogWrite(group: 3, debt: .zero)])
        return disk
    }()
}
