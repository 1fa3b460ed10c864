/// The shape of a log: which term every index belongs to, without the entries.
///
/// Terms never go back along a log (§5.3), so a log is a short list of runs, each a term and the index at which it
/// begins. That makes the term at any index a look-up in memory, however long the log is.
///
/// 1. Runs ascend in index and in term; each holds at least one entry.
/// 2. There is no run if and only if the log is empty.
struct TermLog: Sendable {
    /// Each run's term and first index.
    private(set) var runs: [LogPosition]
    /// Index of the last entry; zero if there is none.
    private(set) var lastIndex: LogIndex

    /// The log of `runs` that ends with `lastIndex`.
    init(runs: [LogPosition], lastIndex: LogIndex) {
        precondition(runs.isEmpty == (lastIndex == .zero), "a log has runs exactly if it has entries")
        precondition(runs.allSatisfy { $0.index > .zero && $0.term > .zero })
        for (run, next) in zip(runs, runs.dropFirst()) {
            precondition(run.index < next.index && run.term < next.term, "runs ascend")
        }
        if let last = runs.last { precondition(last.index <= lastIndex, "the last run holds an entry") }
        self.runs = runs
        self.lastIndex = lastIndex
    }

    /// The last entry; before the first one if there is none.
    var last: LogPosition { LogPosition(term: runs.last?.term ?? .zero, index: lastIndex) }

    /// The term at `index`: zero before the log, nil where there is no entry.
    func term(at index: LogIndex) -> Term? {
        guard index != .zero else { return .zero }
        guard let run = run(at: index) else { return nil }
        return runs[run].term
    }

    /// First index of the run that holds the entry at `index`; nil where there is no entry.
    func firstOfRun(at index: LogIndex) -> LogIndex? {
        guard let run = run(at: index) else { return nil }
        return runs[run].index
    }

    /// Adds `count` entries of `term`.
    mutating func append(count: Int, term: Term) {
        precondition(count > 0 && term > .zero && term >= last.term, "terms never go back along a log")
        if runs.last?.term != term { runs.append(LogPosition(term: term, index: lastIndex.next)) }
        lastIndex = lastIndex.advanced(by: count)
    }

    /// Drops the entry at `index` and everything behind it.
    mutating func truncate(from index: LogIndex) {
        precondition(index > .zero && index <= lastIndex)
        while let run = runs.last, run.index >= index { runs.removeLast() }
        lastIndex = runs.isEmpty ? .zero : index.previous
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
