import RaftCore

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
