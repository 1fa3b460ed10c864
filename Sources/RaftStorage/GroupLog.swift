import RaftCore

/// The terms of a group's entries, run by run; what a batch must know of a group while it is being gathered.
struct TermRuns {
    /// Term and first index of each run, ascending.
    private(set) var runs: [LogPosition] = []
    /// Index of the last entry; meaningless without runs.
    private var end = LogIndex.zero

    /// The last entry; zero if there is none.
    var last: LogPosition {
        guard let run = runs.last else { return .zero }
        return LogPosition(term: run.term, index: end)
    }

    /// Index of the first entry; nil if there is none.
    var firstIndex: LogIndex? { runs.first?.index }

    /// Whether an entry may follow: the next index, not a lower term. A log without entries begins anywhere.
    func accepts(_ position: LogPosition) -> Bool {
        guard let run = runs.last else { return position.index > .zero }
        return position.index == end.next && position.term >= run.term
    }

    /// Appends an entry that is accepted.
    mutating func append(_ position: LogPosition) {
        precondition(accepts(position), "entry \(position) cannot follow \(last)")
        if runs.last?.term != position.term { runs.append(position) }
        end = position.index
    }

    /// Removes the entries from `index` on.
    mutating func truncate(from index: LogIndex) {
        guard let first = firstIndex else { return }
        while let run = runs.last, run.index >= index { runs.removeLast() }
        end = index > first ? min(end, index.previous) : .zero
    }
}

/// Where a record lies.
struct RecordLocation {
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

/// Everything the log remembers of one group, in memory: what it recovers at a start, and where its entries lie.
/// Changed by the writer thread under the log's lock, so that thread may read it without.
final class GroupLog {
    private(set) var runs = TermRuns()
    private(set) var configurations: [PlacedConfiguration] = []
    /// One per entry, ascending from the first index.
    private var locations: [RecordLocation] = []
    var hardState: HardState?
    var note: Bytes?

    func append(_ position: LogPosition, configuration: Configuration?, at location: RecordLocation) {
        runs.append(position)
        locations.append(location)
        if let configuration {
            configurations.append(PlacedConfiguration(index: position.index, configuration: configuration))
        }
    }

    func truncate(from index: LogIndex) {
        guard let first = runs.firstIndex else { return }
        runs.truncate(from: index)
        let kept = min(max(first.distance(to: index), 0), locations.count)
        locations.removeLast(locations.count - kept)
        while let placed = configurations.last, placed.index >= index { configurations.removeLast() }
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

    func recovered(damage: String?) -> RecoveredGroup {
        RecoveredGroup(
            hardState: hardState ?? .initial, termRuns: runs.runs, lastIndex: runs.last.index,
            configurations: configurations, note: note, damage: damage)
    }
}
