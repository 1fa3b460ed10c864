import RaftCore

/// An entry with something to tell it from every other.
struct CoreEntry: Equatable {
    var term: Term
    var kind: EntryKind
    /// What it means; zero where a witness keeps it.
    var value: UInt64
    /// Bytes of payload.
    var size = 0
    var configuration: Configuration?

    /// Whether both are the same entry, one of them perhaps as a witness keeps it.
    func agrees(with other: CoreEntry) -> Bool {
        term == other.term && kind == other.kind && (value == other.value || value == 0 || other.value == 0)
            && (kind != .configuration || configuration == other.configuration)
    }
}

/// What a state machine holds: how far it has applied, and a digest of everything it applied, in order.
struct CoreState: Equatable {
    var index = LogIndex.zero
    var digest: UInt64 = 0

    mutating func apply(_ entry: CoreEntry) {
        index = index.next
        digest = Self.digest(after: digest, value: entry.value)
    }

    static func digest(after digest: UInt64, value: UInt64) -> UInt64 {
        (digest ^ value) &* 0x0000_0100_0000_01b3 &+ 0x9e37_79b9_7f4a_7c15
    }
}

/// A log with payloads that begins behind a base.
struct CoreLog {
    private(set) var base = LogPosition.zero
    /// The membership in force at the base; nil for a replica that has not heard of any.
    private(set) var membership: Configuration?
    /// The entries behind the base.
    private(set) var entries: [CoreEntry] = []
    /// Bytes of payload in it.
    private(set) var size = 0

    init(membership: Configuration?) { self.membership = membership }

    var lastIndex: LogIndex { base.index.advanced(by: entries.count) }

    /// The entry at `index`; nil if there is none, or none any more.
    subscript(index: LogIndex) -> CoreEntry? {
        let offset = base.index.distance(to: index) - 1
        return entries.indices.contains(offset) ? entries[offset] : nil
    }

    func term(at index: LogIndex) -> Term? { index == base.index ? base.term : self[index]?.term }

    /// The entries `first ..< first + count`.
    func slice(from first: LogIndex, count: Int) -> ArraySlice<CoreEntry> {
        let offset = base.index.distance(to: first) - 1
        return entries[offset..<offset + count]
    }

    /// The membership in force at `index`.
    func configuration(at index: LogIndex) -> Configuration? {
        let held = entries.prefix(max(0, base.index.distance(to: index)))
        return held.last { $0.kind == .configuration }?.configuration ?? membership
    }

    mutating func append(_ entry: CoreEntry) {
        entries.append(entry)
        size += entry.size
    }

    mutating func truncate(from index: LogIndex) {
        let kept = base.index.distance(to: index) - 1
        for entry in entries[kept...] { size -= entry.size }
        entries.removeSubrange(kept...)
    }

    mutating func compact(through index: LogIndex) {
        guard index > base.index, let term = term(at: index) else { return }
        membership = configuration(at: index)
        let dropped = base.index.distance(to: index)
        for entry in entries[..<dropped] { size -= entry.size }
        entries.removeFirst(dropped)
        base = LogPosition(term: term, index: index)
    }

    /// Lets a snapshot take the place of the beginning, or of everything.
    mutating func install(_ install: SnapshotInstall) {
        if install.keepsSuffix {
            compact(through: install.meta.last.index)
        } else {
            entries.removeAll()
            size = 0
            base = install.meta.last
        }
        membership = install.meta.configuration
    }

    /// As a core is told when it is opened.
    var termRuns: [LogPosition] {
        var runs: [LogPosition] = []
        for (offset, entry) in entries.enumerated() where runs.last?.term != entry.term {
            runs.append(LogPosition(term: entry.term, index: base.index.advanced(by: offset + 1)))
        }
        return runs
    }

    /// As a core is told when it is opened.
    var configurations: [PlacedConfiguration] {
        var placed: [PlacedConfiguration] = []
        if let membership { placed.append(PlacedConfiguration(index: base.index, configuration: membership)) }
        for (offset, entry) in entries.enumerated() where entry.kind == .configuration {
            placed.append(
                PlacedConfiguration(index: base.index.advanced(by: offset + 1), configuration: entry.configuration!))
        }
        return placed
    }
}
