import RaftCore
import Testing

@testable import RaftStorage

/// What a group's log should hold.
struct ModelGroup: Equatable {
    struct Entry: Equatable {
        var position: LogPosition
        var kind: EntryKind
        var payload: Bytes
        var configuration: Configuration?
    }
    var hardState = HardState.initial
    var base: LogBase?
    var entries: [Entry] = []
    var note: Bytes?
    var debt: LogPosition?

    /// The last entry; without entries the base.
    var last: LogPosition { entries.last?.position ?? base?.position ?? .zero }

    mutating func apply(_ write: LogWrite) {
        if let state = write.hardState { hardState = state }
        if let debt = write.debt { self.debt = debt == .zero ? nil : debt }
        switch write.start {
        case .compact(let base)?:
            entries.removeAll { $0.position.index <= base.position.index }
            self.base = base
        case .reset(let base)?:
            entries = []
            self.base = base.position == .zero ? nil : base
        case nil: break
        }
        if let index = write.truncateFrom { entries.removeAll { $0.position.index >= index } }
        entries += write.entries.map {
            Entry(position: $0.position, kind: $0.kind, payload: $0.payload, configuration: $0.configuration)
        }
        if let note = write.note { self.note = note }
    }
}

/// What the log should hold.
struct Model: Equatable {
    var groups: [LogGroup: ModelGroup] = [:]

    mutating func apply(_ writes: [LogWrite]) {
        for write in writes {
            if write.drops {
                groups[write.group] = nil
            } else {
                groups[write.group, default: ModelGroup()].apply(write)
            }
        }
    }
    func applying(_ writes: [LogWrite]) -> Model {
        var model = self
        model.apply(writes)
        return model
    }
    subscript(group: LogGroup) -> ModelGroup { groups[group] ?? ModelGroup() }
}

/// An opened log, what it recovered, and what it had to say.
struct Opened {
    var log: WriteAheadLog
    var groups: [LogGroup: RecoveredGroup]
    var findings: [String]

    init(_ disk: any Disk, segmentBytes: Int = 1024, reserveBytes: Int = 0) throws {
        var findings: [String] = []
        (log, groups) = try WriteAheadLog.open(
            disk: disk,
            settings: WriteAheadLog.Settings(segmentBytes: segmentBytes, reserveBytes: reserveBytes, identity: 7),
            log: { findings.append($0) })
        self.findings = findings
    }

    /// Everything a group holds, entries read back from the disk, checked against what was recovered.
    func contents(of group: LogGroup) throws -> ModelGroup {
        guard let recovered = groups[group] else { return ModelGroup() }
        var model = ModelGroup(
            hardState: recovered.hardState, base: recovered.base, note: recovered.note, debt: recovered.debt)
        let before = recovered.base?.position.index ?? .zero
        guard let first = recovered.termRuns.first?.index else {
            #expect(recovered.lastIndex == before && recovered.configurations.isEmpty)
            return model
        }
        #expect(first == before.next)
        let count = first.distance(to: recovered.lastIndex) + 1
        let entries = try log.entries(of: group, from: first, count: count + 1, maxBytes: .max)
        model.entries = entries.map {
            ModelGroup.Entry(
                position: $0.position, kind: $0.kind, payload: $0.payload, configuration: $0.configuration)
        }
        #expect(entries.count == count)
        var runs: [LogPosition] = []
        for entry in entries where entry.position.term != runs.last?.term { runs.append(entry.position) }
        #expect(recovered.termRuns == runs)
        let configurations = entries.compactMap { entry in
            entry.configuration.map { PlacedConfiguration(index: entry.position.index, configuration: $0) }
        }
        #expect(recovered.configurations == configurations)
        return model
    }

    /// Whether every group of `model` is there and whole.
    func holds(_ model: Model) throws -> Bool {
        for (group, expected) in model.groups {
            guard groups[group]?.damage == nil, try contents(of: group) == expected else { return false }
        }
        return true
    }

    /// Whether no group holds anything but those of `model`.
    func holdsNothingBut(_ model: Model) throws -> Bool {
        try groups.keys.allSatisfy { try model.groups[$0] != nil || contents(of: $0) == ModelGroup() }
    }

    /// Whether `model` is all there is, and whole.
    func isExactly(_ model: Model) throws -> Bool { try Set(groups.keys) == Set(model.groups.keys) && holds(model) }

    /// The groups that say they are damaged, ascending.
    var damaged: [LogGroup] { groups.filter { $0.value.damage != nil }.keys.sorted() }
}

func data(_ index: Int64, term: Int64 = 1, _ payload: String) -> LogEntry {
    data(index, term: term, Bytes(payload))
}

func data(_ index: Int64, term: Int64 = 1, _ payload: Bytes) -> LogEntry {
    LogEntry(position: LogPosition(term: Term(term), index: LogIndex(index)), kind: .data, payload: payload)
}

func noOp(_ index: Int64, term: Int64) -> LogEntry {
    LogEntry(position: LogPosition(term: Term(term), index: LogIndex(index)), kind: .noOp, payload: Bytes())
}

func membership(_ index: Int64, term: Int64 = 1, _ configuration: Configuration) -> LogEntry {
    LogEntry(
        position: LogPosition(term: Term(term), index: LogIndex(index)), kind: .configuration, payload: Bytes(),
        configuration: configuration)
}

func base(_ index: Int64, term: Int64) -> LogBase {
    LogBase(
        position: LogPosition(term: Term(term), index: LogIndex(index)),
        configuration: Configuration(peers: [peer(1), peer(UInt16(index))]))
}

func peer(_ number: UInt16, idx: Int32 = 0) -> PeerID {
    PeerID(address: NodeAddress(ip: 0x7f00_0001, port: 8000 + number), idx: idx)
}

func state(_ term: Int64, vote: PeerID? = nil) -> HardState { HardState(term: Term(term), vote: vote) }

func segmentName(_ number: Int) -> String { LogFormat.segmentName(UInt64(number)) }

/// Bytes up to the last one that is not zero.
func contentEnd(_ bytes: [UInt8]) -> Int { (bytes.lastIndex { $0 != 0 } ?? -1) + 1 }

/// A small log of three groups over several segments, with everything a log can hold.
struct SampleLog {
    /// What each batch adds.
    static let batches: [[LogWrite]] = [
        [LogWrite(group: 0, note: Bytes("node state"))],
        [
            LogWrite(
                group: 1, hardState: state(1, vote: peer(1)),
                entries: [membership(1, Configuration(peers: [peer(1), peer(2)])), data(2, "first")]),
            LogWrite(group: 2, hardState: state(1), entries: [noOp(1, term: 1)]),
        ],
        [LogWrite(group: 2, entries: [data(2, "zwei"), data(3, "drei")])],
        [LogWrite(group: 1, entries: [data(3, "second"), data(4, "third")])],
        [LogWrite(group: 1, hardState: state(3), truncateFrom: LogIndex(3), entries: [noOp(3, term: 3)])],
        [LogWrite(group: 0, note: Bytes("node state, later")), LogWrite(group: 2, hardState: state(2))],
        [LogWrite(group: 2, entries: [data(4, term: 2, "vier")])],
        [LogWrite(group: 1, entries: [data(4, term: 3, "fourth"), data(5, term: 3, "fifth")])],
        [
            LogWrite(
                group: 5, hardState: state(2), entries: [data(1, "one"), data(2, term: 2, "two")], note: Bytes("5"))
        ],
        [
            LogWrite(group: 5, start: .compact(base(1, term: 1))),
            LogWrite(group: 2, entries: [data(5, term: 2, "fünf")]),
        ],
        [LogWrite(group: 5, entries: [data(3, term: 2, "three")])],
        [LogWrite(group: 5, debt: data(30, term: 4, "").position, truncateFrom: LogIndex(3))],
        [LogWrite(group: 5, start: .reset(base(20, term: 3)), entries: [data(21, term: 3, "twenty-one")])],
        [
            LogWrite(group: 5, debt: .zero, entries: [data(22, term: 5, "twenty-two"), data(23, term: 5, "23")]),
            LogWrite(group: 1, truncateFrom: LogIndex(5), entries: [noOp(5, term: 5)]),
        ],
        [LogWrite(group: 5, start: .compact(base(22, term: 5)))],
    ]

    let disk = MemoryDisk(seed: 0)
    /// After 0, 1, … batches.
    private(set) var models: [Model] = [Model()]
    /// The last segment after each batch, and where its content ended.
    private(set) var ends: [(segment: Int, end: Int)] = []
    var model: Model { models[models.count - 1] }
    private(set) var segmentCount = 0

    init(sealed: Bool) throws {
        let opened = try Opened(disk)
        for batch in SampleLog.batches {
            try opened.log.write(batch)
            models.append(model.applying(batch))
            segmentCount = opened.log.totalBytes / 1024
            ends.append((segmentCount, contentEnd(try #require(disk.contents(segmentName(segmentCount))))))
        }
        if sealed { try opened.log.close() }
        #expect(opened.log.totalBytes == segmentCount * 1024)
    }
}
