import RaftCore

/// How heavy a replica's log is, roughly: the bytes written since its base, with a mark every so many.
struct LogGrowth {
    /// What an entry costs besides its payload.
    private static let entryBytes = 48
    private static let marksMax = 256

    private struct Mark {
        var index: LogIndex
        /// Bytes written up to and including this entry.
        var total: Int
    }

    private var marks: [Mark] = []
    private var spacing = 16 << 10
    private var total = 0
    /// The total at the base.
    private var dropped = 0

    /// Bytes behind the base.
    var bytes: Int { total - dropped }

    mutating func append(_ index: LogIndex, payloadBytes: Int) {
        total += payloadBytes + LogGrowth.entryBytes
        guard total - (marks.last?.total ?? dropped) >= spacing else { return }
        marks.append(Mark(index: index, total: total))
        guard marks.count > LogGrowth.marksMax else { return }
        spacing *= 2
        marks = stride(from: 1, to: marks.count, by: 2).map { marks[$0] }
    }

    /// The entry at `index` and all behind it are gone; which bytes they had is known to the nearest mark.
    mutating func truncate(from index: LogIndex) {
        while let last = marks.last, last.index >= index {
            marks.removeLast()
            total = max(marks.last?.total ?? dropped, dropped)
        }
    }

    /// Everything up to `index` is gone.
    mutating func compact(through index: LogIndex) {
        let obsolete = marks.firstIndex { $0.index > index } ?? marks.count
        if obsolete > 0 { dropped = marks[obsolete - 1].total }
        marks.removeFirst(obsolete)
    }

    /// Everything is gone.
    mutating func reset() { self = LogGrowth() }

    /// An entry such that those behind it weigh about `bytes`, at most; zero if all do.
    func index(keeping bytes: Int) -> LogIndex {
        guard self.bytes > bytes else { return .zero }
        return marks.first { total - $0.total <= bytes }?.index ?? LogIndex(.max)
    }
}
