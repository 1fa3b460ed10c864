/// The shape of a log: which term every index belongs to, without the entries.
///
/// Terms never go back along a log (§5.3), so a log is a short list of runs, each a term and the index at which it
/// begins. That makes the term at any index a look-up in memory, however long the log is. What a snapshot stands for is
/// gone but for its last entry (§7).
///
/// 1. Runs ascend in index and in term; each holds at least one entry.
/// 2. There is no run if and only if there is no entry behind ``base``; the first run begins right behind it.
struct TermLog: Sendable {
    /// The last entry that was compacted away; zero if none was.
    private(set) var base: LogPosition
    /// Each run's term and first index.
    private(set) var runs: [LogPosition]
    /// Index of the last entry; the base's if there is none.
    private(set) var lastIndex: LogIndex

    /// The log of `runs` that begins behind `base` and ends with `lastIndex`.
    init(base: LogPosition = .zero, runs: [LogPosition], lastIndex: LogIndex) {
        precondition((base.index == .zero) == (base.term == .zero), "only the place before the log has no term")
        precondition(lastIndex >= base.index && runs.isEmpty == (lastIndex == base.index), "runs mean entries")
        if let first = runs.first {
            precondition(first.index == base.index.next && first.term >= base.term && first.term > .zero)
        }
        for (run, next) in zip(runs, runs.dropFirst()) {
            precondition(run.index < next.index && run.term < next.term, "runs ascend")
        }
        if let last = runs.last { precondition(last.index <= lastIndex, "the last run holds an entry") }
        self.base = base
        self.runs = runs
        self.lastIndex = lastIndex
    }

    /// The last entry, or the base.
    var last: LogPosition { LogPosition(term: runs.last?.term ?? base.term, index: lastIndex) }

    /// The term at `index`; nil where there is no entry, or none any more.
    func term(at index: LogIndex) -> Term? {
        if let run = run(at: index) { return runs[run].term }
        return index == base.index ? base.term : nil
    }

    /// First index of the run that holds the entry at `index`; nil where there is no entry.
    func firstOfRun(at index: LogIndex) -> LogIndex? { run(at: index).map { runs[$0].index } }

    /// The last entry that is neither behind `index` nor of a higher term than `term`: no entry behind it, up to
    /// `index`, can be in a log whose terms there are at most `term`. The base if there is none.
    func last(through index: LogIndex, term: Term) -> LogPosition {
        var end = min(index, lastIndex)
        for run in runs.reversed() where run.index <= end {
            if run.term <= term { return LogPosition(term: run.term, index: end) }
            end = run.index.previous
        }
        return base
    }

    /// Adds `count` entries of `term`.
    mutating func append(count: Int, term: Term) {
        precondition(count > 0 && term > .zero && term >= last.term, "terms never go back along a log")
        if runs.last?.term != term { runs.append(LogPosition(term: term, index: lastIndex.next)) }
        lastIndex = lastIndex.advanced(by: count)
    }

    /// Drops the entry at `index` and everything behind it.
    mutating func truncate(from index: LogIndex) {
        precondition(index > base.index && index <= lastIndex)
        while let run = runs.last, run.index >= index { runs.removeLast() }
        lastIndex = index.previous
    }

    /// Drops everything up to `index`, which stays known as the base.
    mutating func compact(through index: LogIndex) {
        guard index > base.index, let run = run(at: index) else { return }
        let end = run + 1 < runs.count ? runs[run + 1].index.previous : lastIndex
        base = LogPosition(term: runs[run].term, index: index)
        runs.removeFirst(index == end ? run + 1 : run)
        if index < end { runs[0].index = index.next }
    }

    /// Drops everything; the log begins behind `position`.
    mutating func reset(to position: LogPosition) {
        base = position
        runs.removeAll(keepingCapacity: true)
        lastIndex = position.index
    }

    private func run(at index: LogIndex) -> Int? {
        guard let last = runs.last, index <= lastIndex, index >= runs[0].index else { return nil }
        // nearly every question is about the end
        if index >= last.index { return runs.count - 1 }
        var low = 0
        var high = runs.count - 1
        while high - low > 1 {
            let middle = (low + high) / 2
            if runs[middle].index <= index { low = middle } else { high = middle }
        }
        return low
    }
}
