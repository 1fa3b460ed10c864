import RaftCore

/// The terms of a group's entries, run by run; what a batch must know of a group while it is being gathered.
struct TermRuns: Equatable {
    /// The last entry that is gone; zero if the log begins with entry 1.
    private(set) var base = LogPosition.zero
    /// Term and first index of each run, ascending.
    private(set) var runs: [LogPosition] = []
    /// Index of the last entry; meaningless without runs.
    private var end = LogIndex.zero

    init() {}

    /// The entries behind `base` up to `last`. The runs must ascend and lie in between.
    init(base: LogPosition, runs: [LogPosition], last: LogIndex) {
        self.base = base
        self.runs = runs
        end = last
    }

    /// The last entry; without entries the base.
    var last: LogPosition {
        guard let run = runs.last else { return base }
        return LogPosition(term: run.term, index: end)
    }

    /// Index of the first entry; nil if there is none.
    var firstIndex: LogIndex? { runs.first?.index }

    /// Whether nothing is missing between the base and the first entry. Only while a log is being recovered may
    /// something be.
    var isContiguous: Bool { runs.isEmpty || runs[0].index == base.index.next }

    /// Whether an entry may follow the last one: the next index, not a lower term.
    func accepts(_ position: LogPosition) -> Bool {
        position.index == last.index.next && position.term >= last.term
    }

    /// Whether that is the base or an entry.
    func contains(_ position: LogPosition) -> Bool {
        guard position.index > base.index else { return position == base }
        guard let run = runs.last(where: { $0.index <= position.index }) else { return false }
        return run.term == position.term && position.index <= end
    }

    /// Whether `start` changes anything. A compaction to the base, or to something before it, does not: another one has
    /// overtaken it.
    func moves(to start: LogStart) -> Bool {
        switch start {
        case .compact(let next): next.position.index > base.index
        case .reset: true
        }
    }

    /// Appends an entry that is accepted, or, without entries, one that lies anywhere behind the base.
    mutating func append(_ position: LogPosition) {
        precondition(
            accepts(position) || (runs.isEmpty && position.index > base.index),
            "entry \(position) cannot follow \(last)")
        if runs.last?.term != position.term { runs.append(position) }
        end = position.index
    }

    /// Removes the entries behind `index`.
    mutating func truncate(behind index: LogIndex) {
        while let run = runs.last, run.index > index { runs.removeLast() }
        end = min(end, index)
    }

    /// Removes the entries up to `position`, which becomes the base.
    mutating func compact(to position: LogPosition) {
        base = position
        let gone = runs.lastIndex { $0.index <= position.index }
        guard let gone else { return }
        if end <= position.index {
            runs = []
        } else if gone + 1 < runs.count, runs[gone + 1].index == position.index.next {
            runs.removeFirst(gone + 1)
        } else {
            runs.removeFirst(gone)
            runs[0].index = position.index.next
        }
    }
}

/// Where a record lies.
struct RecordLocation: Equatable {
    /// Number of the segment.
    var segment: UInt32
    /// First byte in it.
    var offset: UInt32
    /// Bytes, head included.
    var byteCount: UInt32

    var end: UInt32 { offset + byteCount }

    init(segment: UInt64, offset: Int, byteCount: Int) {
        self.segment = UInt32(segment)
        self.offset = UInt32(offset)
        self.byteCount = UInt32(byteCount)
    }
}

/// Where the records of a batch lie, one after the other.
struct RecordPlaces {
    /// In the segment, counted from the start of the body.
    let records: ContiguousArray<Range<Int>>
    /// Where the body begins.
    let body: LogPlace
    /// How many have been gone through.
    private(set) var position = 0

    init(_ records: ContiguousArray<Range<Int>>, bodyAt body: LogPlace) {
        self.records = records
        self.body = body
    }

    var segment: UInt32 { UInt32(body.segment) }

    mutating func next() -> RecordLocation {
        let range = records[position]
        position += 1
        return RecordLocation(segment: body.segment, offset: body.offset + range.lowerBound, byteCount: range.count)
    }

    /// Bytes of what has been gone through since that was `first` records.
    func byteCount(from first: Int) -> Int {
        position == first ? 0 : records[position - 1].upperBound - records[first].lowerBound
    }
}

/// What a record said, and where it lies.
struct Placed<Value: Sendable>: Sendable {
    var value: Value
    var location: RecordLocation
}

/// A group's entries: which there are, and where they lie.
struct EntryIndex {
    private(set) var base: Placed<LogBase>?
    private(set) var runs = TermRuns()
    private(set) var configurations: [PlacedConfiguration] = []
    /// One per entry, ascending from the first index.
    private(set) var locations: [RecordLocation] = []

    /// The first segment that holds an entry or the base; nil if there is neither.
    var oldestSegment: UInt64? {
        // entries lie in the order of their indexes
        let oldest = min(locations.first?.segment ?? .max, base?.location.segment ?? .max)
        return oldest == .max ? nil : UInt64(oldest)
    }

    init() {}

    /// Entries that have been recovered; the parts must fit together.
    init(
        base: Placed<LogBase>?, runs: TermRuns, _ configurations: [PlacedConfiguration], _ locations: [RecordLocation]
    ) {
        self.base = base
        self.runs = runs
        self.configurations = configurations
        self.locations = locations
    }

    mutating func append(_ position: LogPosition, configuration: Configuration?, at location: RecordLocation) {
        runs.append(position)
        locations.append(location)
        if let configuration {
            configurations.append(PlacedConfiguration(index: position.index, configuration: configuration))
        }
    }

    /// Appends entries whose records come next.
    mutating func append(_ entries: [LogEntry], at records: inout RecordPlaces) {
        for number in entries.indices {
            let configuration = entries[number].kind == .configuration ? entries[number].configuration : nil
            append(entries[number].position, configuration: configuration, at: records.next())
        }
    }

    /// Removes the entries behind `index`; returns where they lay.
    @discardableResult
    mutating func truncate(behind index: LogIndex) -> [RecordLocation] {
        guard let first = runs.firstIndex else { return [] }
        runs.truncate(behind: index)
        let kept = min(max(first.distance(to: index) + 1, 0), locations.count)
        let gone = Array(locations[kept...])
        locations.removeLast(gone.count)
        while let placed = configurations.last, placed.index > index { configurations.removeLast() }
        return gone
    }

    /// Removes the entries up to the base, which has a record of its own; returns where they, and the base before, lay.
    @discardableResult
    mutating func compact(to base: Placed<LogBase>) -> [RecordLocation] {
        let index = base.value.position.index
        let count = runs.firstIndex.map { min(max($0.distance(to: index) + 1, 0), locations.count) } ?? 0
        var gone = Array(locations[..<count])
        if let old = self.base { gone.append(old.location) }
        runs.compact(to: base.value.position)
        locations.removeFirst(count)
        configurations.removeAll { $0.index <= index }
        self.base = base
        return gone
    }

    /// Removes all entries; the log begins behind the base. Returns where they, and the base before, lay.
    @discardableResult
    mutating func reset(to base: Placed<LogBase>) -> [RecordLocation] {
        var gone = locations
        if let old = self.base { gone.append(old.location) }
        self = EntryIndex()
        self.base = base
        runs = TermRuns(base: base.value.position, runs: [], last: .zero)
        return gone
    }

    /// Where the entries from `index` on lie: at most `count`, and no more than `maxBytes` of records, but at least
    /// one if there is one.
    func locations(from index: LogIndex, count: Int, maxBytes: Int) -> ArraySlice<RecordLocation> {
        guard let first = runs.firstIndex, index >= first, index <= runs.last.index, count > 0 else { return [] }
        let start = first.distance(to: index)
        var end = start
        var bytes = 0
        while end < locations.count, end - start < count {
            bytes += Int(locations[end].byteCount)
            guard bytes <= maxBytes || end == start else { break }
            end += 1
        }
        return locations[start..<end]
    }
}

/// Everything the log remembers of one group, in memory: what it recovers at a start, and where its records lie.
/// Changed by the writer thread under the log's lock, so that thread may read it without.
final class GroupLog {
    let group: LogGroup
    var entries = EntryIndex()
    var hardState: Placed<HardState>?
    var note: Placed<Bytes>?
    /// Nil: none, or paid.
    var debt: Placed<LogPosition>?
    /// What damage has cost the group its promises; nil: none.
    var loss: Placed<Damage>?
    /// Bytes of all records that say what is in here.
    fileprivate(set) var liveBytes = 0
    /// The batch that was gathered last with a write of this group, and which of its summaries is this group's. The
    /// writer's own.
    var batch: (number: UInt64, slot: Int) = (0, 0)
    /// Whether the log knows the group: it has something durable, and has not been dropped.
    var isListed = false

    init(group: LogGroup) {
        self.group = group
    }

    /// Adds what a write said, now that its records are durable, in the order in which they were gathered; `records` tells
    /// where each of them lies.
    func remember(_ write: borrowing LogWrite, records: inout RecordPlaces, live: inout LiveBytes) {
        if write.drops {
            _ = records.next()
            return drop(live: &live)
        }
        if let state = write.hardState {
            let placed = Placed(value: state, location: records.next())
            live.replace(hardState?.location, by: placed.location, in: self)
            hardState = placed
        }
        if let debt = write.debt {
            let placed = Placed(value: debt, location: records.next())
            live.replace(self.debt?.location, by: debt == .zero ? nil : placed.location, in: self)
            self.debt = debt == .zero ? nil : placed
            _ = records.next()
        }
        if let start = write.start, entries.runs.moves(to: start) {
            let location = records.next()
            live.add(location, to: self)
            switch start {
            case .compact(let base):
                live.remove(entries.compact(to: Placed(value: base, location: location)), from: self)
            case .reset(let base):
                live.remove(entries.reset(to: Placed(value: base, location: location)), from: self)
            }
        }
        if let index = write.truncateFrom {
            live.remove(entries.truncate(behind: index.previous), from: self)
            _ = records.next()
        }
        if !write.entries.isEmpty {
            let first = records.position
            entries.append(write.entries, at: &records)
            live.add(records.byteCount(from: first), in: records.segment, to: self)
        }
        if let note = write.note {
            let placed = Placed(value: note.compacted, location: records.next())
            live.replace(self.note?.location, by: placed.location, in: self)
            self.note = placed
        }
        if let loss = write.loss {
            let placed = Placed(value: loss, location: records.next())
            live.replace(self.loss?.location, by: placed.location, in: self)
            self.loss = placed
            _ = records.next()
        } else if let old = loss, write.makesAllPromises {
            live.replace(old.location, by: nil, in: self)
            loss = nil
            _ = records.next()
        }
    }

    private func drop(live: inout LiveBytes) {
        var locations: [RecordLocation] = []
        forEachLocation { locations.append($0) }
        live.remove(locations, from: self)
        (entries, hardState, note, debt, loss) = (EntryIndex(), nil, nil, nil, nil)
        isListed = false
    }

    /// Where each record lies that says what is in here.
    func forEachLocation(_ body: (RecordLocation) -> Void) {
        for location in [
            hardState?.location, debt?.location, entries.base?.location, note?.location, loss?.location,
        ] {
            if let location { body(location) }
        }
        for location in entries.locations { body(location) }
    }

    /// The first segment that holds such a record; nil if there is none.
    var oldestSegment: UInt64? {
        var oldest = entries.oldestSegment ?? .max
        if let location = hardState?.location { oldest = min(oldest, UInt64(location.segment)) }
        if let location = debt?.location { oldest = min(oldest, UInt64(location.segment)) }
        if let location = loss?.location { oldest = min(oldest, UInt64(location.segment)) }
        if let location = note?.location { oldest = min(oldest, UInt64(location.segment)) }
        return oldest == .max ? nil : oldest
    }

    /// The same, for another thread.
    func copy() -> GroupLog {
        let copy = GroupLog(group: group)
        copy.entries = entries
        copy.hardState = hardState
        copy.note = note
        copy.debt = debt
        copy.loss = loss
        return copy
    }

    func recovered(damage: GroupDamage?) -> RecoveredGroup {
        let base = entries.base?.value
        return RecoveredGroup(
            hardState: hardState?.value ?? .initial, base: base?.position == .zero ? nil : base,
            termRuns: entries.runs.runs, lastIndex: entries.runs.last.index,
            configurations: entries.configurations, note: note?.value, debt: debt?.value, damage: damage)
    }
}

/// How much of each segment is still needed: the bytes of records that say what a group holds.
struct LiveBytes {
    /// Number of the segment that stands first in `bytes`.
    private var first: UInt32 = 0
    private var bytes: [Int] = []
    private(set) var total = 0

    /// In one segment.
    subscript(segment: UInt64) -> Int {
        guard segment >= UInt64(first), segment < UInt64(first) + UInt64(bytes.count) else { return 0 }
        return bytes[Int(segment - UInt64(first))]
    }

    mutating func add(_ location: RecordLocation, to log: GroupLog) {
        add(Int(location.byteCount), in: location.segment, to: log)
    }

    /// Records of so many bytes.
    mutating func add(_ count: Int, in segment: UInt32, to log: GroupLog) {
        change(segment, by: count)
        log.liveBytes += count
    }

    mutating func remove(_ locations: [RecordLocation], from log: GroupLog) {
        for location in locations {
            change(location.segment, by: -Int(location.byteCount))
            log.liveBytes -= Int(location.byteCount)
        }
    }

    mutating func replace(_ old: RecordLocation?, by new: RecordLocation?, in log: GroupLog) {
        if let old { remove([old], from: log) }
        if let new { add(new, to: log) }
    }

    /// Forgets the segments before one; nothing in them is alive.
    mutating func forget(before segment: UInt64) {
        guard segment > UInt64(first) else { return }
        bytes.removeFirst(min(Int(segment - UInt64(first)), bytes.count))
        first = UInt32(segment)
    }

    private mutating func change(_ segment: UInt32, by count: Int) {
        if bytes.isEmpty { first = segment }
        if segment < first {
            bytes.insert(contentsOf: repeatElement(0, count: Int(first - segment)), at: 0)
            first = segment
        }
        let position = Int(segment - first)
        if position >= bytes.count { bytes.append(contentsOf: repeatElement(0, count: position + 1 - bytes.count)) }
        bytes[position] += count
        total += count
    }
}
