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
