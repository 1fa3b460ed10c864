import RaftCore

/// The terms of a group's entries, run by run; what a batch must know of a group while it is being gathered.
struct TermRuns: Equatable {
    /// The last entry that is gone; zero if the log begins with entry 1.
    private(set) var base = LogPosition.zero
    /// All runs but the last, ascending; mostly there is none. The last lies here and not in the array: what a batch must
    /// know of a group is then in one piece of memory.
    private var older: [LogPosition] = []
    /// Term and first index of the last run; index zero if there is none.
    private var newest = LogPosition.zero
    /// Index of the last entry; meaningless without runs.
    private var end = LogIndex.zero

    init() {}

    /// Term and first index of each run, ascending.
    var runs: [LogPosition] { isEmpty ? [] : older + [newest] }

    /// Whether there are no entries.
    var isEmpty: Bool { newest.index == .zero }

    /// The entries behind `base` up to `last`. The runs must ascend and lie in between.
    init(base: LogPosition, runs: [LogPosition], last: LogIndex) {
        self.base = base
        older = Array(runs.dropLast())
        newest = runs.last ?? .zero
        end = last
    }

    /// The last entry; without entries the base.
    var last: LogPosition {
        isEmpty ? base : LogPosition(term: newest.term, index: end)
    }

    /// Index of the first entry; nil if there is none.
    var firstIndex: LogIndex? { isEmpty ? nil : (older.first ?? newest).index }

    /// Whether nothing is missing between the base and the first entry. Only while a log is being recovered may
    /// something be.
    var isContiguous: Bool { firstIndex.map { $0 == base.index.next } ?? true }

    /// Whether an entry may follow the last one: the next index, not a lower term.
    func accepts(_ position: LogPosition) -> Bool {
        position.index == last.index.next && position.term >= last.term
    }

    /// Whether that is the base or an entry.
    func contains(_ position: LogPosition) -> Bool {
        guard position.index > base.index else { return position == base }
        guard !isEmpty, position.index <= end else { return false }
        if position.index >= newest.index { return newest.term == position.term }
        return older.last { $0.index <= position.index }?.term == position.term
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
            accepts(position) || (isEmpty && position.index > base.index),
            "entry \(position) cannot follow \(last)")
        if isEmpty {
            newest = position
        } else if newest.term != position.term {
            older.append(newest)
            newest = position
        }
        end = position.index
    }

    /// Removes the entries behind `index`.
    mutating func truncate(behind index: LogIndex) {
        while !isEmpty, newest.index > index { newest = older.popLast() ?? .zero }
        end = min(end, index)
    }

    /// Removes the entries up to `position`, which becomes the base.
    mutating func compact(to position: LogPosition) {
        base = position
        guard let first = firstIndex, first <= position.index else { return }
        if end <= position.index {
            (older, newest) = ([], .zero)
            return
        }
        let next = position.index.next
        // the run that the next entry is in begins with it from now on
        if newest.index <= next {
            (older, newest.index) = ([], next)
        } else if let run = older.lastIndex(where: { $0.index <= next }) {
            older.removeFirst(run)
            older[0].index = next
        }
    }
}
